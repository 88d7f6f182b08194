"""The published models of a workspace, loaded when somebody asks them and let go in turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from ntk_dist.errors import (
    ArtifactError,
    DataError,
    MemoryBudgetError,
    ModelNotFoundError,
    RequestTooLargeError,
    ServiceTimeoutError,
)
from ntk_dist.model.load import load_model
from ntk_dist.model.serving import ServingModel
from ntk_dist.service.batching import Batcher, Lanes
from ntk_dist.service.catalog import Catalog, Entry
from ntk_dist.settings import ServiceSettings, get_settings
from ntk_dist.store.workspace import Workspace
from ntk_dist.units import format_bytes
from ntk_dist.wire import Model, ModelList

__all__ = ["Answer", "ModelHost"]

log = logging.getLogger(__name__)

T = TypeVar("T")

BODIES_WAITING = 4
"""Prepared rows that wait take no more memory than so many of the largest bodies."""
INLINE_BYTES = 2**16
"""What is parsed or prepared on the event loop: it takes 0.1 ms or so, as long as asking a thread
would."""


@dataclass(frozen=True)
class Answer:
    """Predictions, and whose they are."""

    y: np.ndarray
    """(n, n_targets), float64: predictions, or the score of each class; for two classes one score,
    positive for the second."""
    output: np.ndarray
    """The same in the shape of ``predict`` or ``decision_function``: one axis for one target."""
    label: np.ndarray | None
    """The class of each row, of a classifier."""
    model: Model


@dataclass(eq=False)
class _Loaded:
    """A model in memory, which is the lane that its requests wait in."""

    model: ServingModel
    checksum: str


class ModelHost:
    """Describes, loads and asks the published models of a workspace.

    A model is published by one rename, so it is found whole or not at all, and what is loaded is
    held against the fingerprints in its record. Those that stay loaded take ``models_max_bytes``
    together: the one asked for longest ago goes first. A version that is removed, or replaced under
    its number, is noticed within a second.

    :meth:`describe` and :meth:`list` read files: call them in a thread. The rest belongs to one
    event loop.

    Parameters
    ----------
    workspace
        Where the models are.
    limits, threads
        Those of the settings where None.
    """

    def __init__(
        self,
        workspace: Workspace,
        limits: ServiceSettings | None = None,
        threads: int | None = None,
    ) -> None:
        self._limits = limits or get_settings().service
        threads = threads or get_settings().threads
        self._catalog = Catalog(workspace)
        self._loaded: dict[tuple[str, int], _Loaded] = {}
        self._loading: dict[tuple[str, int], asyncio.Task[_Loaded]] = {}
        self._loading_turn = asyncio.Lock()
        self._computing = ThreadPoolExecutor(threads, "predict")
        self._reading = ThreadPoolExecutor(2, "models")
        # One at a time: a list of numbers takes ten times the memory of its text.
        self._parsing = ThreadPoolExecutor(1, "rows")
        lanes = Lanes(
            batch_rows=self._batch_rows,
            max_rows=self._limits.max_waiting_rows,
            max_bytes=BODIES_WAITING * self._limits.max_body_bytes,
            max_requests=self._limits.max_waiting_requests,
        )
        self._batcher = Batcher(_values, lanes, self._computing, threads)

    def close(self) -> None:
        """Let everything go; what is computed now is waited for."""
        for pool in (self._computing, self._reading, self._parsing):
            pool.shutdown(cancel_futures=True)
        self._loaded.clear()

    def list(self) -> ModelList:
        """The latest version of every model; a damaged one is passed over, and logged.

        Raises
        ------
        StoreUnreachableError
            The workspace cannot be read.
        """
        return ModelList(items=tuple(map(self._model, self._catalog.latest())))

    def describe(self, name: str, version: int | None = None) -> Model:
        """What is known of a model without loading it; the latest version where none is given.

        Raises
        ------
        ModelNotFoundError
            There is none; the message says what there is.
        ArtifactError
            It is damaged.
        StoreUnreachableError
            It cannot be read.
        """
        return self._model(self._catalog.find(name, version))

    def loaded(self) -> dict[tuple[str, int], int]:
        """Bytes of every model in memory, by name and version; for any thread."""
        return {key: each.model.n_bytes for key, each in list(self._loaded.items())}

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for predictions."""
        return self._batcher.lanes.rows

    def require_room(self) -> None:
        """Send a caller away, before anything is done for it, if too much waits already.

        Raises
        ------
        OverloadedError
            It says when to ask again.
        """
        self._batcher.require_room()

    async def parse(self, read: Callable[[], T], n_bytes: int) -> T:
        """What ``read`` makes of so many bytes; in a thread where they are many, one at a time."""
        if n_bytes <= INLINE_BYTES:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._parsing, read)

    async def find(self, name: str, version: int | None = None, *, may_list: bool = True) -> Model:
        """What :meth:`describe` says, or said within the last second.

        Of a model that is not there it says what there is only to those who ``may_list`` it.
        """
        return self._model(await self._entry(name, version, may_list=may_list))

    async def predict(
        self, name: str, version: int | None, x: np.ndarray, *, timeout_s: float | None = None
    ) -> Answer:
        """Predictions for the rows of ``x``.

        Parameters
        ----------
        name, version
            Of the model; its latest version for None.
        x : (n, *row_shape)
            Numbers of any kind.
        timeout_s
            Longest to wait, loading included; the settings may allow less.

        Raises
        ------
        ModelNotFoundError
            There is no such model.
        RequestTooLargeError
            There are more rows than one request may have, or their answer is larger than a request
            may be.
        DataError
            The rows do not fit the model, or are no finite numbers, or predictions overflow.
        MemoryBudgetError
            The model alone takes more than the memory for models.
        OverloadedError
            Too much waits already.
        ServiceTimeoutError
            It took too long.
        ArtifactError, StoreUnreachableError
            The model cannot be loaded.
        """
        if x.ndim and len(x) > self._limits.max_rows:
            raise RequestTooLargeError(
                f"expected at most {self._limits.max_rows} rows, got {len(x)}: send them in parts"
            )
        limit_s = min(
            timeout_s or self._limits.prediction_timeout_s, self._limits.prediction_timeout_s
        )
        start = time.monotonic()
        entry = await self._entry(name, version)
        self._require_answerable(len(x) if x.ndim else 1, entry.model.n_targets)
        loaded = await self._ready(entry, limit_s)
        model = loaded.model
        rows = await self.parse(partial(model.prepare, x), x.nbytes)
        left_s = max(0.001, limit_s - (time.monotonic() - start))
        values = await self._batcher.values(loaded, rows, left_s)
        answer = partial(_answer, model, values, self._model(entry))
        return await self.parse(answer, values.nbytes)

    def _require_answerable(self, n_rows: int, n_targets: int) -> None:
        """Refuse an answer that takes more memory than what is asked may; one row may always be."""
        n_bytes, most = 8 * n_rows * n_targets, self._limits.max_body_bytes
        if n_rows > 1 and n_bytes > most:
            raise RequestTooLargeError(
                f"expected an answer of at most {format_bytes(most)}, got {n_rows} rows of "
                f"{n_targets} numbers each, {format_bytes(n_bytes)}: send them in parts"
            )

    def _model(self, entry: Entry) -> Model:
        model = entry.model
        return replace(model, is_loaded=(model.name, model.version) in self._loaded)

    async def _entry(self, name: str, version: int | None, *, may_list: bool = True) -> Entry:
        if (known := self._catalog.known(name, version)) is not None:
            return known
        try:
            entry = await asyncio.get_running_loop().run_in_executor(
                self._reading, partial(self._catalog.find, name, version, may_list=may_list)
            )
        except ModelNotFoundError:
            self._let_go(lambda key: key[0] == name and version in (None, key[1]))
            raise
        there = entry.model.versions
        self._let_go(lambda key: key[0] == name and key[1] not in there)
        return entry

    def _let_go(self, is_gone: Callable[[tuple[str, int]], bool]) -> None:
        for key in list(filter(is_gone, self._loaded)):
            del self._loaded[key]

    async def _ready(self, entry: Entry, limit_s: float) -> _Loaded:
        """The model in memory, and the last one to be let go of."""
        key = entry.model.name, entry.model.version
        found = self._loaded.pop(key, None)
        if found is not None and found.checksum == entry.checksum:
            self._loaded[key] = found
            return found
        if key not in self._loading:
            task = asyncio.create_task(self._load(entry))
            task.add_done_callback(lambda _: self._loading.pop(key, None))
            self._loading[key] = task
        try:
            async with asyncio.timeout(limit_s):
                # Others wait for it too.
                return await asyncio.shield(self._loading[key])
        except TimeoutError as error:
            raise ServiceTimeoutError(
                f"model {key[0]} is still being loaded after {limit_s:g} s: ask again in a moment"
            ) from error

    async def _load(self, entry: Entry) -> _Loaded:
        model, most = entry.model, self._limits.models_max_bytes
        if model.n_bytes > most:
            raise MemoryBudgetError(
                f"model {model.name} {model.version} takes {format_bytes(model.n_bytes)} of "
                f"memory, got {format_bytes(most)} for all models: raise "
                "NTK_DIST_SERVICE__MODELS_MAX_BYTES"
            )
        async with self._loading_turn:
            while sum(self.loaded().values()) + model.n_bytes > most:
                del self._loaded[next(iter(self._loaded))]
            start = time.monotonic()
            loaded = await asyncio.get_running_loop().run_in_executor(self._reading, _read, entry)
            self._loaded[model.name, model.version] = loaded
        log.info(
            "loaded model %s %d: %s in %.1f s",
            model.name,
            model.version,
            format_bytes(model.n_bytes),
            time.monotonic() - start,
        )
        return loaded

    def _batch_rows(self, lane: _Loaded) -> int:
        return lane.model.batch_rows(self._limits.batch_rows)


def _read(entry: Entry) -> _Loaded:
    """Read a model from its place, and ask it once: its programs are compiled then."""
    try:
        model = ServingModel(load_model(entry.place))
    except DataError as error:  # a caller's rows are another matter
        name, version = entry.model.name, entry.model.version
        raise ArtifactError(
            f"model {name} {version} is damaged: {error}; fit or copy it again"
        ) from error
    model.values(model.prepare(np.zeros((1, *model.row_shape))))
    return _Loaded(model, entry.checksum)


def _answer(model: ServingModel, values: np.ndarray, about: Model) -> Answer:
    """Predictions in all their shapes.

    Raises
    ------
    DataError
        They overflow.
    """
    model.require_finite(values)
    return Answer(values, model.output(values), model.labels(values), about)


def _values(lane: _Loaded, x: np.ndarray, threads: int) -> np.ndarray:
    return lane.model.values(x, threads)
