"""A fitted model prepared for many small predictions: all that they need stays in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ntk_dist.errors import ArtifactError, DataShapeError, NonFiniteDataError, NTKDistError
from ntk_dist.gram.block import compute_block, compute_statistics
from ntk_dist.kernels.columns import PackedColumns
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.statistics import Statistics
from ntk_dist.model.classifier import NTKClassifier
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.regressor import NTKRegressor
from ntk_dist.model.report import FitReport
from ntk_dist.settings import get_settings
from ntk_dist.stax import from_json
from ntk_dist.store.inputs import check_rows

__all__ = ["ModelFacts", "ServingModel"]

COLUMNS_AT_ONCE = 16384
"""Training rows of one block: a row of it is 64 KiB in float32."""
ROWS_AT_ONCE = 256
"""New rows of one block: 16 MiB in float32 then, and 32 MiB while it is multiplied in float64."""
THREAD_FLOPS = 1e8
"""Arithmetic that is worth a further thread. One row against 10,000 of 784 features has 2e7; on two
threads in place of one it took 10 ms of processor time in place of 5.5, and no less of anybody's
patience."""
BATCH_FLOPS = 5e9
"""Arithmetic of predictions that are computed in one go: some 0.1 s on one core, which is what a
small request may have to wait for. Of 10,000 rows on 784 features, 300 predictions."""


@dataclass(frozen=True)
class ModelFacts:
    """What the record of a model says of its predictions, before anything is loaded."""

    task: Literal["classification", "regression"]
    parameters: Parameters
    architecture: list[Any]
    row_shape: tuple[int, ...]
    input_range: tuple[float, float]
    """Smallest and largest number in the training inputs."""
    n_rows: int
    """Distinct training inputs."""
    n_targets: int
    n_bytes: int
    """Memory of a :class:`ServingModel`."""
    report: dict[str, Any]
    checksum: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ModelFacts:
        """The facts in what ``artifact.read_record`` gave.

        Raises
        ------
        ArtifactError
            They are not there, or make no sense.
        """
        try:
            kinds = {"NTKClassifier": "classification", "NTKRegressor": "regression"}
            task: Any = kinds[record["estimator"]]
            parameters = Parameters.checked(record["parameters"])
            report = FitReport.from_dict(record["report"])
            row_shape = tuple(map(int, record["input_shape"]))
            network = from_json(json.dumps(record["architecture"]))
            kernel = Kernel(network.layer, (parameters.kernel,), parameters.exact_dtype)
            kernel.check(row_shape)
            n_targets = len(report.residuals)
            low, high = record["input_range"]
            return cls(
                task=task,
                parameters=parameters,
                architecture=record["architecture"],
                row_shape=row_shape,
                input_range=(float(low), float(high)),
                n_rows=report.n_unique,
                n_targets=n_targets,
                n_bytes=_serving_bytes(kernel, row_shape, report.n_unique, n_targets),
                report=record["report"],
                checksum=record["checksum"],
            )
        except (AttributeError, LookupError, TypeError, ValueError, NTKDistError) as error:
            raise ArtifactError(f"model.json makes no sense: {error!r}") from error

    @property
    def dtype(self) -> Literal["float32", "float64"]:
        """Of inputs, after preprocessing."""
        return self.parameters.exact_dtype


@dataclass(frozen=True)
class _Part:
    """Some training rows."""

    packed: PackedColumns | None
    """They are the columns of blocks in this form, if there is one."""
    inputs: tuple[np.ndarray, Statistics] | None
    """They, and what is known of them, otherwise."""
    dual_coef: np.ndarray


class ServingModel:
    """A fitted model whose predictions read nothing from disk and ask no executor.

    Law: ``values(prepare(x))`` is what ``decision_function`` or, for a regressor, ``predict`` is
    made of, to 1e-12 of the largest; except, in float32, where some training rows have one norm and
    others do not: there entries of the kernel may be rounded otherwise.

    One object serves any number of threads.

    Parameters
    ----------
    model
        Fitted. It shares its coefficients, and is not changed.

    Raises
    ------
    UnreadableDataError, StoreUnreachableError
        Its training rows cannot be read.
    """

    def __init__(self, model: NTKClassifier | NTKRegressor) -> None:
        self._model = model
        self.row_shape: tuple[int, ...] = model.preprocessor_.input_shape
        self.dtype = model.parameters_.exact_dtype
        kernel_name = model.parameters_.kernel
        self._kernel = Kernel(model.network_.layer, (kernel_name,), self.dtype)
        self._kernel.check(self.row_shape)
        rows, packed = model.rows_, model.statistics_
        layout = self._kernel.statistics_layout(self.row_shape)
        self._parts = []
        for start in range(0, len(rows), COLUMNS_AT_ONCE):
            part = slice(start, min(start + COLUMNS_AT_ONCE, len(rows)))
            x, statistics = rows.read(part), layout.unpack(packed.read(part))
            columns = self._kernel.pack(x, statistics)
            kept = (x, statistics) if columns is None else None
            self._parts.append(_Part(columns, kept, model.dual_coef_[part]))
        self._row_flops = len(rows) * self._kernel.flops_per_pair(self.row_shape)
        self.n_targets = model.dual_coef_.shape[1]
        self.n_bytes = _serving_bytes(self._kernel, self.row_shape, len(rows), self.n_targets)
        """Memory that it takes."""

    @property
    def classes(self) -> np.ndarray | None:
        """Of a classifier, sorted."""
        return self._model.classes_ if isinstance(self._model, NTKClassifier) else None

    def batch_rows(self, most: int) -> int:
        """How many rows, at most ``most``, are computed in one go while others wait."""
        return max(1, min(most, int(BATCH_FLOPS / self._row_flops)))

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Inputs after preprocessing, as :meth:`values` takes them: (n, *row_shape).

        Raises
        ------
        DataError
            They are of another shape, are no finite numbers, or overflow.
        """
        check_rows(x, "x")
        if x.shape[1:] != self.row_shape:
            expected = ", ".join(("n", *map(str, self.row_shape)))
            raise DataShapeError(f"x: expected an array of shape ({expected}), got {x.shape}")
        return self._model.preprocessor_.transform(x, self.dtype)

    def values(self, x: np.ndarray, threads: int = 1) -> np.ndarray:
        """K(x, rows) dual_coef for inputs that were prepared: (n, n_targets), in float64.

        Where the inputs are far larger than the training rows, it may not be finite.

        Parameters
        ----------
        x : (n, *row_shape)
            What :meth:`prepare` gave.
        threads
            How many a network without spatial axes may use, if it has so much to do; others take
            what the settings give.
        """
        threads = min(threads, 1 + int(len(x) * self._row_flops / THREAD_FLOPS))
        out = np.zeros((len(x), self.n_targets))
        for start in range(0, len(x), ROWS_AT_ONCE):
            piece = slice(start, min(start + ROWS_AT_ONCE, len(x)))
            with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the sums
                self._add_values(x[piece], out[piece], threads)
        return out

    def _add_values(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        (name,) = self._kernel.kernels
        known: Statistics | None = None
        for part in self._parts:
            if part.packed is not None:
                block = part.packed.block(x, threads)[name]
            else:
                assert part.inputs is not None
                known = compute_statistics(self._kernel, x) if known is None else known
                limit = get_settings().block_max_bytes
                rows, theirs = part.inputs
                block = compute_block(self._kernel, x, rows, known, theirs, max_bytes=limit)[name]
            out += block.astype(np.float64, copy=False) @ part.dual_coef

    def require_finite(self, values: np.ndarray) -> None:
        """Refuse predictions that overflow.

        Raises
        ------
        NonFiniteDataError
            Some did.
        """
        if not np.isfinite(values).all():
            lost = np.count_nonzero(~np.isfinite(values).all(axis=1))
            raise NonFiniteDataError(
                f"predictions of {lost} of {len(values)} rows overflow {self.dtype}: they are far "
                "larger than the training rows"
            )

    def output(self, values: np.ndarray) -> np.ndarray:
        """Values in the shape of ``decision_function`` or, for a regressor, ``predict``.

        One axis for one target, or for two classes, where positive means the second.
        """
        model = self._model
        one = len(model.classes_) == 2 if isinstance(model, NTKClassifier) else model.one_target_
        return values[:, 0] if one else values

    def labels(self, values: np.ndarray) -> np.ndarray | None:
        """The most likely class of each row: (n,); None of a regressor."""
        if not isinstance(self._model, NTKClassifier):
            return None
        return self._model.labels_of(self.output(values))


def _serving_bytes(kernel: Kernel, row_shape: tuple[int, ...], n_rows: int, n_targets: int) -> int:
    double = np.float64().itemsize
    coefficients = n_rows * n_targets * double
    sizes = [COLUMNS_AT_ONCE] * (n_rows // COLUMNS_AT_ONCE) + [n_rows % COLUMNS_AT_ONCE]
    packed = [kernel.packed_bytes(row_shape, n) for n in sizes]
    if any(each is None for each in packed):
        row = math.prod(row_shape) * kernel.dtype.itemsize
        return coefficients + n_rows * (row + kernel.statistics_layout(row_shape).row_bytes)
    return coefficients + sum(filter(None, packed))
