"""What can be done with a model of the service: ask it about rows, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from ntk_dist import wire
from ntk_dist.client.exchange import Terms, ask, exchange, path_of
from ntk_dist.client.flow import Bound, Driver, Flow, Request, Together, flow
from ntk_dist.errors import (
    DataError,
    DataShapeError,
    DefectError,
    EmptyDataError,
    InvalidInputError,
    NonFiniteDataError,
    RequestError,
    RequestTooLargeError,
    ServiceTimeoutError,
)
from ntk_dist.units import first_few
from ntk_dist.wire import Model

__all__ = ["ModelHandle", "check_rows", "found_model", "pieces"]

PIECE_BYTES = 8 * 2**20
"""An eighth of what a service takes in one request unless it is told otherwise."""
PIECE_ROWS = 1024
"""More rows in one kernel block gain nothing, and a large piece that is lost costs more."""
PIECE_ENTRIES = 2**25
"""Kernel entries of one piece: about a second of a fully connected network on two cores, where a
service gives up after 60 s."""
NAMED_ROWS = 5
"""Rows that a message names."""


class ModelHandle(Bound[Driver]):
    """One version of a model of the service; it stays with this version when others come.

    Methods answer at once on a :class:`Client`'s model, and are awaited on an
    :class:`AsyncClient`'s, which asks for several pieces of a large array at a time.
    """

    def __init__(self, driver: Driver, terms: Terms, model: Model) -> None:
        super().__init__(driver)
        self._terms = terms
        self._model = model

    def __repr__(self) -> str:
        return f"<model {self.name} version {self.version}: {self.info.task}>"

    @property
    def info(self) -> Model:
        """All that is known of it."""
        return self._model

    @property
    def name(self) -> str:
        """It is published under it."""
        return self._model.name

    @property
    def version(self) -> int:
        """Which one of that name."""
        return self._model.version

    @flow
    def predict(self, X: Any, *, rows_per_request: int | None = None) -> Flow[np.ndarray]:
        """Labels of a classifier, values of a regressor.

        A prediction changes nothing, so that of a service that ended in the middle is asked for
        again, of the same version, once the service is back.

        Parameters
        ----------
        X : array of shape (n_rows, *info.row_shape)
            Numbers, as the model was fitted on.
        rows_per_request
            None: as many as make a piece of 8 MiB, 1024 rows and 2^25 kernel entries at most. A
            piece that the service finds too large is halved.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_targets)

        Raises
        ------
        DataShapeError, NonFiniteDataError, EmptyDataError, DataError
            ``X`` is nothing that the model could answer; nothing was sent.
        OverloadedError
            The service has too much to do, and had it at every try.
        """
        wanted: Output = "label" if self._model.task == "classification" else "y"
        return (yield from self._answered(X, wanted, rows_per_request))

    @flow
    def scores(self, X: Any, *, rows_per_request: int | None = None) -> Flow[np.ndarray]:
        """The value of every class, in the order of ``info.classes``; takes what predict takes.

        Returns
        -------
        ndarray of shape (n_rows, n_classes), or (n_rows,) for two classes
            For two classes, positive values mean the second class.

        Raises
        ------
        InvalidInputError
            The model is a regressor.
        """
        if self._model.task != "classification":
            raise InvalidInputError(
                f"scores: expected a classifier, got {self.name}, which is a regressor; predict "
                "returns its values"
            )
        return (yield from self._answered(X, "y", rows_per_request))

    def _answered(self, given: Any, wanted: Output, size: int | None) -> Flow[np.ndarray]:
        x = check_rows(given, self._model.row_shape)
        if size is not None and size < 1:
            raise InvalidInputError(f"rows_per_request: expected at least 1 row, got {size}")
        parts = pieces(len(x), x.nbytes // len(x), self._model.n_rows, size)
        found: list[list[np.ndarray]] = yield Together(
            (self._piece(x, rows, wanted) for rows in parts), self._terms.parallel
        )
        return np.concatenate([array for piece in found for array in piece])

    def _piece(self, x: np.ndarray, rows: range, wanted: Output) -> Flow[list[np.ndarray]]:
        request = Request(
            method="POST",
            path=path_of("v1", "models", self.name, "versions", self.version) + ":predict",
            params={"output": "label"} if wanted == "label" else {},
            headers={"Content-Type": wire.NPY, "Accept": wire.NPY},
            body=wire.to_npy(x[rows.start : rows.stop]),
        )
        try:
            answer = yield from exchange(self._terms, request)
        except RequestTooLargeError:
            if len(rows) == 1:
                raise
            middle = len(rows) // 2
            first = yield from self._piece(x, rows[:middle], wanted)
            second = yield from self._piece(x, rows[middle:], wanted)
            return first + second
        except ServiceTimeoutError as error:
            error.add_note(f"{len(rows)} rows were asked for: rows_per_request makes it fewer")
            raise
        try:
            found = wire.from_npy(answer.body)
        except RequestError as error:
            raise DefectError(f"{self!r}: the service answered with no array: {error}") from error
        n, n_targets = len(rows), self._model.n_targets
        # A regressor of one target answers as its targets were given: (n,) or (n, 1).
        shapes: list[tuple[int, ...]] = [(n,)] if wanted == "label" or n_targets == 1 else []
        shapes += [(n, n_targets)] if wanted == "y" else []
        kinds = "f" if wanted == "y" else "biufU"
        if found.shape not in shapes or found.dtype.kind not in kinds:
            raise DefectError(
                f"{self!r}: expected {n} predictions of shape {' or '.join(map(str, shapes))}, got "
                f"shape {found.shape} of {found.dtype}"
            )
        return [found]


Output = Literal["y", "label"]


def found_model(terms: Terms, name: str, version: int | None) -> Flow[Model]:
    """A version of a model, or the latest."""
    which = () if version is None else ("versions", version)
    request = Request(method="GET", path=path_of("v1", "models", name, *which))
    return (yield from ask(terms, Model, request))


def pieces(
    n_rows: int, row_bytes: int, n_training_rows: int, rows_per_request: int | None = None
) -> Iterator[range]:
    """The rows of every request, in order.

    Parameters
    ----------
    n_rows
        All of them.
    row_bytes
        Of each.
    n_training_rows
        Rows that each of them is compared to.
    rows_per_request
        Instead of what follows from these.
    """
    size = rows_per_request or min(
        PIECE_ROWS, PIECE_BYTES // max(1, row_bytes), PIECE_ENTRIES // max(1, n_training_rows)
    )
    size = max(1, size)
    for start in range(0, n_rows, size):
        yield range(start, min(start + size, n_rows))


def check_rows(given: Any, row_shape: Sequence[int]) -> np.ndarray:
    """Rows that a model of inputs of shape ``row_shape`` can be asked about.

    They are looked at before anything is sent: a piece would be refused by row numbers of its own.

    Raises
    ------
    DataError
        They are no numbers.
    DataShapeError, EmptyDataError, NonFiniteDataError
        As their names say, with what was expected.
    """
    try:
        x = np.asarray(given)
    except ValueError as error:
        raise DataError(f"X: expected an array of numbers, got {error}") from error
    if x.dtype.kind not in "biuf":
        raise DataError(f"X: expected an array of numbers, got dtype {x.dtype}")
    shape = tuple(row_shape)
    if x.ndim != 1 + len(shape) or x.shape[1:] != shape:
        hint = "; for one row, give X[None]" if x.shape == shape else ""
        expected = ", ".join(["n_rows", *map(str, shape)])
        raise DataShapeError(f"X: expected shape ({expected}), got {x.shape}{hint}")
    if len(x) == 0:
        raise EmptyDataError("X: expected at least 1 row, got 0")
    if x.dtype.kind == "f":
        bad = [row for rows in pieces(len(x), x.nbytes // len(x), 0) for row in _bad(x, rows)]
        if bad:
            raise NonFiniteDataError(
                f"X: expected finite numbers, got NaN or infinity in {len(bad)} of {len(x)} rows: "
                f"{first_few(bad, NAMED_ROWS)}"
            )
    return x


def _bad(x: np.ndarray, rows: range) -> list[int]:
    finite = np.isfinite(x[rows.start : rows.stop]).reshape(len(rows), -1).all(axis=1)
    return (rows.start + np.flatnonzero(~finite)).tolist()
