"""One block of a Gram matrix, by the cheapest exact evaluation there is for its architecture.

Blocks are float32 or float64. In the recursion the arithmetic behind both is float64: near
correlation 1 the arc cosine loses half of the digits, and in float32 what is left is not enough.
On 80 ordinary points in the plane entries were off by 8e-5 and the Gram matrix was indefinite,
where rounding float64 entries to float32 errs by 6e-8. It costs a factor of two in time and
memory. The fused engines compute float32 blocks in float32, each with its own remedy: that for
convolutions leaves close pairs to float64 (``closeness.py``), that for networks without spatial
axes carries gaps in place of correlations (``gaps.py``).

What is known exactly, the kernels of equal and of opposite samples, is put in place here, so that
no evaluation need care.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ntk_dist.errors import DataShapeError, InvalidInputError
from ntk_dist.kernels import architecture as architectures
from ntk_dist.kernels.choice import Choice, choose, seen_shape
from ntk_dist.kernels.coincidence import Coincidence, coincidence, row_keys
from ntk_dist.kernels.columns import PackedColumns
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.engines import FusedDense
from ntk_dist.kernels.evaluations import XLA_BYTES, Arrays, Evaluation
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.projection import Projection, measured_cost, measured_rate
from ntk_dist.kernels.statistics import Side, Statistics, StatisticsLayout
from ntk_dist.settings import get_settings

__all__ = ["DTYPES", "KERNELS", "Kernel", "explain"]

KERNELS = ("nngp", "ntk")
DTYPES = ("float32", "float64")

OPPOSITE_ROWS = 64
"""Rows with an opposite that are evaluated together: 1000 rows and their opposites in 28 blocks
took 14 s with as many as each block had, nearly all of it compilation."""
TRIAL_SAMPLES = 2
"""Different samples on either side of the blocks that are timed."""
TRIAL_ROWS = [2**i for i in range(12)]
"""Sides of such blocks, as far as memory allows."""


def explain(
    architecture: Layer, input_shape: Iterable[int], dtype: npt.DTypeLike = "float32"
) -> str:
    """Which evaluation is chosen for samples of this shape, why, and what it takes, in words.

    The entries a second are measured on this machine, on random samples, for about a second.
    """
    return str(Kernel(architecture, KERNELS, dtype).project(input_shape))


@dataclass(frozen=True, init=False)
class Kernel:
    """The exact kernels of an infinitely wide network, on this device.

    Equal by value, picklable, and cheap to build; programs are compiled once per process and
    shape. A block is computed whole: ``working_bytes`` tells how many pairs fit in memory.
    """

    architecture: Layer
    kernels: tuple[str, ...]
    """``"ntk"``, ``"nngp"`` or both; both cost little more than the NTK alone."""
    dtype: np.dtype[Any]
    """Of blocks: float32 or float64."""

    def __init__(
        self,
        architecture: Layer,
        kernels: Iterable[str] = ("ntk",),
        dtype: npt.DTypeLike = "float32",
    ) -> None:
        object.__setattr__(self, "architecture", architecture)
        object.__setattr__(self, "kernels", tuple(kernels))
        object.__setattr__(self, "dtype", np.dtype(dtype))
        if not self.kernels or set(self.kernels) - set(KERNELS):
            raise InvalidInputError(f"kernels: expected some of {KERNELS}, got {self.kernels}")
        if self.dtype not in map(np.dtype, DTYPES):  # a swapped byte order has the same name
            raise InvalidInputError(f"dtype: expected one of {DTYPES}, got {self.dtype}")

    @property
    def fingerprint(self) -> str:
        """That of the architecture: see ``architecture.fingerprint``."""
        return architectures.fingerprint(self.architecture)

    def check(self, input_shape: Iterable[int]) -> None:
        """Refuse samples of this shape unless the architecture has a kernel for them.

        Raises
        ------
        ArchitectureError, DataShapeError
            See ``architecture.check``.
        """
        architectures.check(self.architecture, input_shape)

    def block(
        self,
        x1: np.ndarray,
        x2: np.ndarray | None = None,
        statistics1: Statistics | None = None,
        statistics2: Statistics | None = None,
        threads: int | None = None,
    ) -> Arrays:
        """Each kernel between all samples of ``x1`` and of ``x2``: (n1, n2) each, in ``dtype``.

        Law: ``block(x)`` is exactly symmetric with diagonal ``diag(x)``; rows of ``x1`` and
        ``x2`` that are equal, or opposite, get the value of correlation 1, or -1, exactly.

        Parameters
        ----------
        x1 : (n1, ...)
            Samples, channels last.
        x2 : (n2, ...), optional
            Other samples; ``None`` states that they are ``x1``.
        statistics1, statistics2 : Statistics of n1 and of n2 samples, optional
            What ``statistics`` gave for ``x1`` and ``x2``; computed here if None.
        threads : int, optional
            How many a fused engine may use; None leaves it to the settings. No bit depends on it.

        Raises
        ------
        ArchitectureError, DataShapeError
            The samples do not fit the architecture, or each other.
        """
        left = self._samples(x1)
        right = left if x2 is None else self._samples(x2)
        if left.shape[1:] != right.shape[1:]:
            raise DataShapeError(
                f"expected samples of one shape, got {left.shape[1:]} and {right.shape[1:]}"
            )
        if left.dtype != right.dtype:
            left, right = (side.astype(np.float64) for side in (left, right))
        if not (len(left) and len(right)):
            return {name: np.zeros((len(left), len(right)), self.dtype) for name in self.kernels}
        first = self.statistics(left) if statistics1 is None else statistics1
        second = first if x2 is None else statistics2
        if second is None:
            second = self.statistics(right)
        evaluation = self.choice(left.shape[1:]).evaluation
        rows = Side(left, first.variances)
        columns = None if x2 is None else Side(right, second.variances)
        threads = threads or get_settings().threads
        block = self._asked_for(evaluation.block(rows, columns, self.dtype, self.kernels, threads))
        pairs = coincidence(left, None if x2 is None else right, first.keys, second.keys)
        self._put_known(
            block, evaluation, rows, first.kernels, pairs, symmetric=x2 is None, threads=threads
        )
        return block

    def pack(self, x: np.ndarray, statistics: Statistics) -> PackedColumns | None:
        """Samples made ready to be the columns of many blocks; None where that would save nothing.

        Parameters
        ----------
        x : (n, ...)
            Samples, at least one.
        statistics
            What ``statistics`` gave for them.
        """
        samples = self._samples(x)
        evaluation = self.choice(samples.shape[1:]).evaluation
        if not isinstance(evaluation, FusedDense):
            return None
        return PackedColumns(evaluation, samples, statistics, self.kernels, self.dtype)

    def packed_bytes(self, input_shape: Iterable[int], n: int) -> int | None:
        """Memory of n such samples that are ready; None where they are not made so."""
        evaluation = self.choice(input_shape).evaluation
        if not isinstance(evaluation, FusedDense):
            return None
        return PackedColumns.projected_bytes(evaluation, n, self.kernels, self.dtype)

    def diag(self, x: np.ndarray) -> Arrays:
        """Each kernel of every sample with itself: (n,) each."""
        return self._asked_for(self.statistics(x).kernels)

    def statistics(self, x: np.ndarray) -> Statistics:
        """What every block needs to know of each sample alone: see ``statistics_working_bytes``."""
        # Keys tell equal bits, so all samples must come to them in one precision.
        samples = self._samples(x).astype(np.float64, copy=False)
        evaluation = self.choice(samples.shape[1:]).evaluation
        both, met = evaluation.each_with_itself(samples, self._want_ntk, get_settings().threads)
        kernels = {name: np.asarray(both[name], np.float64) for name in self.kernels}
        return Statistics(kernels, tuple(met), row_keys(samples))

    def statistics_layout(self, input_shape: Iterable[int]) -> StatisticsLayout:
        """How the statistics of such a sample are stored: known before any is computed."""
        variances = self.choice(input_shape).evaluation.variance_shapes
        return StatisticsLayout(self.kernels, variances)

    def choice(self, input_shape: Iterable[int], device: str | None = None) -> Choice:
        """The evaluation of blocks of such samples, here or on another kind of device."""
        return choose(self.architecture, tuple(input_shape), device or device_kind())

    def working_bytes(
        self, input_shape: Iterable[int], n1: int, n2: int, threads: int | None = None
    ) -> int:
        """Working memory of a block of n1 x n2 pairs, beyond samples and result, at its peak."""
        evaluation = self.choice(input_shape).evaluation
        threads = threads or get_settings().threads
        working = evaluation.working_bytes(n1, n2, self.dtype, self._want_ntk, threads)
        return max(working, evaluation.statistics_working_bytes(1, self._want_ntk, threads))

    def statistics_working_bytes(self, input_shape: Iterable[int], n: int) -> int:
        """Working memory of the statistics of n samples; ``StatisticsLayout`` has their size."""
        evaluation = self.choice(input_shape).evaluation
        threads = get_settings().threads
        return XLA_BYTES + evaluation.statistics_working_bytes(n, self._want_ntk, threads)

    def sample_working_bytes(self, input_shape: Iterable[int]) -> int:
        """What one sample more takes of that: the same on every machine."""
        return self.choice(input_shape).evaluation.sample_working_bytes(self._want_ntk)

    def recursion_bytes(self, input_shape: Iterable[int]) -> int:
        """Working memory of the recursion for one pair."""
        return self.choice(input_shape).evaluation.recursion_bytes(self._want_ntk)

    def flops_per_pair(self, input_shape: Iterable[int], device: str | None = None) -> int:
        """Arithmetic of a block per pair of samples, here or on another kind of device."""
        return self.choice(input_shape, device).evaluation.flops

    def project(self, input_shape: Iterable[int]) -> Projection:
        """The evaluation of blocks of such samples, and what it takes here: see ``explain``."""
        shape = tuple(input_shape)
        self.check(shape)
        samples = np.random.default_rng(0).standard_normal((2 * TRIAL_SAMPLES, *shape))
        limits = get_settings()
        room = [n for n in TRIAL_ROWS if self.working_bytes(shape, n, n) <= limits.block_max_bytes]
        rate = statistics_s = None
        many = limits.block_max_bytes // self.statistics_working_bytes(shape, 1)
        if room and many:
            known = Statistics.concatenate([self.statistics(x[None]) for x in samples])

            def evaluate_alone(rows: int) -> None:
                self.statistics(samples[np.arange(rows) % len(samples)])

            statistics_s = measured_cost(evaluate_alone, many)

            def evaluate(rows: int) -> None:
                # Sample after sample over again: the arithmetic is that of different ones.
                left = np.arange(rows) % TRIAL_SAMPLES
                right = TRIAL_SAMPLES + left
                self.block(samples[left], samples[right], known[left], known[right])

            rate = measured_rate(evaluate, self.flops_per_pair(shape), max(room))
        return Projection(
            explanation=self.choice(shape).explanation,
            flops_per_pair=self.flops_per_pair(shape),
            working_bytes=self.working_bytes(shape, 1, 1),
            entries_per_s=rate,
            statistics_s=statistics_s,
            threads=limits.threads,
        )

    @property
    def _want_ntk(self) -> bool:
        return "ntk" in self.kernels

    def _samples(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        samples = np.ascontiguousarray(x, np.float32 if x.dtype == np.float32 else np.float64)
        if samples.ndim < 2:
            raise DataShapeError(
                f"expected samples in rows, got an array of shape {samples.shape}; "
                "reshape to (n, 1) if each sample is one number"
            )
        self.check(samples.shape[1:])
        return samples.reshape(len(samples), *seen_shape(self.architecture, samples.shape[1:]))

    def _put_known(
        self,
        block: Arrays,
        evaluation: Evaluation,
        left: Side,
        alone: Arrays,
        pairs: Coincidence,
        symmetric: bool,
        threads: int,
    ) -> None:
        """Put into a block what is known of equal and of opposite rows."""
        i, j = pairs.equal
        # The same bits above and below the diagonal.
        leader = np.minimum(i, j) if symmetric else i
        for name, values in block.items():
            values[i, j] = alone[name][leader]
        i, j = pairs.opposite
        leader = np.minimum(i, j) if symmetric else i
        rows = np.unique(leader)
        # So many at a time that they take no more than the block did; always as many, because JAX
        # compiles every layer again for another number.
        n1, n2 = next(iter(block.values())).shape
        room = self.working_bytes(left.samples.shape[1:], n1, n2, threads)
        step = OPPOSITE_ROWS
        while (
            step > 1 and evaluation.statistics_working_bytes(step, self._want_ntk, threads) > room
        ):
            step //= 2
        for start in range(0, len(rows), step):
            some = rows[np.minimum(np.arange(start, start + step), len(rows) - 1)]
            known = self._asked_for(
                evaluation.each_with_opposite(left[some], self._want_ntk, threads)
            )
            here = np.isin(leader, some)
            place = np.searchsorted(some, leader[here])
            for name, values in block.items():
                values[i[here], j[here]] = known[name][place]

    def _asked_for(self, arrays: Arrays) -> Arrays:
        """The kernels asked for, in the dtype asked for."""
        return {name: np.require(arrays[name], self.dtype, "W") for name in self.kernels}
