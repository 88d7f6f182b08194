"""One block of a Gram matrix, by the cheapest exact evaluation there is for its architecture.

Blocks are float32 or float64. In the recursion the arithmetic behind both is float64: near
correlation 1 the arc cosine loses half of the digits, and in float32 what is left is not enough.
On 80 ordinary points in the plane entries were off by 8e-5 and the Gram matrix was indefinite,
where rounding float64 entries to float32 errs by 6e-8. It costs a factor of two in time and
memory. The fused engine has float32 planes for float32 blocks, and float64 for pairs so close that
these are not enough; its sums over positions are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ntk_dist.errors import DataShapeError, InvalidInputError
from ntk_dist.kernels import architecture as architectures
from ntk_dist.kernels import fused_cpu, recursion
from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.coincidence import coincidence, row_keys
from ntk_dist.kernels.cost import Cost, pair_cost
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.layers import Flatten, Layer
from ntk_dist.kernels.paths import Path, choose, seen_shape
from ntk_dist.kernels.statistics import Statistics, StatisticsLayout
from ntk_dist.settings import get_settings

__all__ = ["DTYPES", "KERNELS", "Kernel", "explain"]

KERNELS = ("nngp", "ntk")
DTYPES = ("float32", "float64")

Arrays: TypeAlias = dict[str, np.ndarray]


def explain(architecture: Layer, input_shape: Iterable[int]) -> str:
    """Which evaluation is chosen for samples of this shape, and why, in one sentence."""
    return choose(architecture, tuple(input_shape), device_kind()).explanation


@dataclass(frozen=True, init=False)
class Kernel:
    """The exact kernels of an infinitely wide network, on this device.

    Equal by value, picklable, and cheap to build; programs are compiled once per process and
    shape. A block is computed whole: ``block_bytes`` tells how many pairs fit in memory.
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
        if self.dtype.name not in DTYPES:
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
            How many the fused engine may use; None leaves it to the settings. No bit depends on it.

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
        if not (len(left) and len(right)):
            return {name: np.zeros((len(left), len(right)), self.dtype) for name in self.kernels}
        first = self.statistics(left) if statistics1 is None else statistics1
        second = first if x2 is None else statistics2
        if second is None:
            second = self.statistics(right)
        path = self.path(left.shape[1:])
        other = None if x2 is None else right
        if path.fused:
            block = self._fused(left, other, first, second, threads or get_settings().threads)
        else:
            block = self._recursion(left, other, first, second)
        pairs = coincidence(left, None if x2 is None else right, first.keys, second.keys)
        for name, values in block.items():
            values[pairs.equal] = first.kernels[name][pairs.equal[0]]
        rows = np.unique(pairs.opposite[0])
        # A row takes a pair's worth of the recursion's memory, which the fused engine never needs.
        step = 1 if path.fused else max(1, len(rows))
        for some in (rows[start : start + step] for start in range(0, len(rows), step)):
            known = self._with_opposite(left[some])
            here = np.isin(pairs.opposite[0], some)
            i, j = (side[here] for side in pairs.opposite)
            for name, values in block.items():
                values[i, j] = known[name][np.searchsorted(some, i)]
        if x2 is None:
            # Sums over positions are not symmetric to the last bit.
            block = {name: np.triu(v) + np.triu(v, 1).T for name, v in block.items()}
        return block

    def diag(self, x: np.ndarray) -> Arrays:
        """Each kernel of every sample with itself: (n,) each."""
        return self.statistics(x).kernels

    def statistics(self, x: np.ndarray) -> Statistics:
        """What every block needs to know of each sample alone: see ``statistics_bytes``."""
        samples = self._samples(x)
        program = self.path(samples.shape[1:]).program
        if program is not None and program.only_pools_globally and len(samples):
            nngp, ntk, met = fused_cpu.each_with_itself(
                self.architecture, samples, get_settings().threads
            )
            return Statistics(self._named(nngp, ntk), tuple(met), row_keys(samples))
        variances: list[np.ndarray] = []

        def itself() -> recursion.BothKernels:
            kernels, met = recursion.each_with_itself(
                self.architecture, jnp.asarray(samples), self._want_ntk
            )
            variances.extend(map(np.asarray, met))
            return kernels

        return Statistics(self._run(itself), tuple(variances), row_keys(samples))

    def statistics_layout(self, input_shape: Iterable[int]) -> StatisticsLayout:
        """How the statistics of such a sample are stored: known before any is computed."""
        return StatisticsLayout(self.kernels, self.dtype, self._cost(input_shape).variances)

    def path(self, input_shape: Iterable[int], device: str | None = None) -> Path:
        """The evaluation of blocks of such samples, here or on another kind of device."""
        return choose(self.architecture, tuple(input_shape), device or device_kind())

    def block_bytes(
        self, input_shape: Iterable[int], n1: int, n2: int, threads: int | None = None
    ) -> int:
        """Peak working memory of a block of n1 x n2 pairs, beyond samples and result."""
        sizes = tuple(input_shape)
        if not self.path(sizes).fused:
            return n1 * n2 * self._cost(sizes).bytes
        threads = threads or get_settings().threads
        working = fused_cpu.working_bytes(self.architecture, sizes, self.dtype, n1, n2, threads)
        samples = np.float64().itemsize * (n1 + n2) * math.prod(sizes)
        # Rows with an opposite go through the recursion afterwards, one at a time.
        return max(samples + working, self._cost(sizes).bytes)

    def statistics_bytes(self, input_shape: Iterable[int], n: int) -> int:
        """Peak working memory of the statistics of n samples, beyond samples and result.

        The same on every machine: how samples are batched shows in the last bits.
        """
        sizes = seen_shape(self.architecture, tuple(input_shape))
        program = self.path(sizes).program
        if program is None or not program.only_pools_globally:
            return n * self._cost(sizes).bytes
        double = np.float64().itemsize
        walk = pair_cost(Serial((program.head, Flatten())), sizes, double, 2).bytes
        # The planes of a thread take as much in words of either precision.
        words = program.size * np.float32().itemsize
        words += 3 * double * 8 * (math.prod(sizes) + 2 * program.positions)
        return n * (walk + words)  # a thread for each

    def flops_per_pair(self, input_shape: Iterable[int], device: str | None = None) -> int:
        """Arithmetic of a block per pair of samples, here or on another kind of device."""
        program = self.path(input_shape, device).program
        return self._cost(input_shape).flops if program is None else program.flops

    def _cost(self, input_shape: Iterable[int]) -> Cost:
        shape = seen_shape(self.architecture, tuple(input_shape))
        return pair_cost(self.architecture, shape, np.float64().itemsize, 1 + self._want_ntk)

    @property
    def _want_ntk(self) -> bool:
        return "ntk" in self.kernels

    def _samples(self, x: np.ndarray) -> np.ndarray:
        samples = np.ascontiguousarray(x, np.float64)
        if samples.ndim < 2:
            raise DataShapeError(
                f"expected samples in rows, got an array of shape {samples.shape}; "
                "reshape to (n, 1) if each sample is one number"
            )
        self.check(samples.shape[1:])
        return samples.reshape(len(samples), *seen_shape(self.architecture, samples.shape[1:]))

    def _fused(
        self,
        x1: np.ndarray,
        x2: np.ndarray | None,
        first: Statistics,
        second: Statistics,
        threads: int,
    ) -> Arrays:
        """The kernels of all pairs, by the fused engine."""
        nngp, ntk = fused_cpu.fused_block(
            self.architecture,
            x1,
            x2,
            first.variances,
            second.variances,
            self.dtype,
            threads,
        )
        return self._named(nngp, ntk)

    def _recursion(
        self, x1: np.ndarray, x2: np.ndarray | None, first: Statistics, second: Statistics
    ) -> Arrays:
        """The kernels of all pairs, by the reference recursion."""
        return self._run(
            lambda: recursion.all_pairs(
                self.architecture,
                jnp.asarray(x1),
                jnp.asarray(x1 if x2 is None else x2),
                list(map(jnp.asarray, first.variances)),
                list(map(jnp.asarray, second.variances)),
                self._want_ntk,
            )
        )

    def _with_opposite(self, x: np.ndarray) -> Arrays:
        """The kernels of each sample with its opposite: (n,) each."""
        return self._run(
            lambda: recursion.each_with_opposite(self.architecture, jnp.asarray(x), self._want_ntk)
        )

    def _run(self, program: Callable[[], recursion.BothKernels]) -> Arrays:
        """The kernels asked for, as writable arrays."""
        with jax.enable_x64(True):  # whatever the process or thread is set to
            return self._named(*program())

    def _named(self, nngp: Any, ntk: Any) -> Arrays:
        both = {"nngp": nngp, "ntk": ntk}
        return {name: np.array(both[name], self.dtype) for name in self.kernels}
