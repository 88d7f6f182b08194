"""One block of a Gram matrix, by the cheapest exact evaluation there is for its architecture.

Blocks are float32 or float64; the arithmetic behind both is float64. Near correlation 1 the arc
cosine loses half of the digits, and in float32 what is left is not enough: on 80 ordinary points
in the plane entries were off by 8e-5 and the Gram matrix was indefinite, where rounding float64
entries to float32 errs by 6e-8. It costs a factor of two in time and memory.
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
from ntk_dist.kernels import recursion
from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.coincidence import coincidence, row_keys
from ntk_dist.kernels.cost import Cost, pair_cost
from ntk_dist.kernels.layers import Flatten, Identity, Layer
from ntk_dist.kernels.statistics import Statistics

__all__ = ["DTYPES", "KERNELS", "Kernel", "explain"]

KERNELS = ("nngp", "ntk")
DTYPES = ("float32", "float64")

Arrays: TypeAlias = dict[str, np.ndarray]


def explain(architecture: Layer, input_shape: Iterable[int]) -> str:
    """Which evaluation is chosen for samples of this shape, and why, in one sentence."""
    sizes = _seen(architecture, input_shape)
    if len(sizes) == 1:
        return "reference recursion on whole matrices: no layer sees spatial axes"
    pixels = " × ".join(map(str, sizes[:-1]))
    if recursion.needs_all_positions(architecture):
        return f"reference recursion over all pairs of the {pixels} positions: pooling mixes them"
    return f"reference recursion over the {pixels} positions: no pooling mixes them"


@dataclass(frozen=True, init=False)
class Kernel:
    """The exact kernels of an infinitely wide network, on this device.

    Equal by value, picklable, and cheap to build; programs are compiled once per process and
    shape. A block is computed whole: ``bytes_per_pair`` tells how many pairs fit in memory.
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
        block = self._run(
            lambda: recursion.all_pairs(
                self.architecture,
                jnp.asarray(left),
                jnp.asarray(right),
                list(map(jnp.asarray, first.variances)),
                list(map(jnp.asarray, second.variances)),
                self._want_ntk,
            )
        )
        pairs = coincidence(left, None if x2 is None else right, first.keys, second.keys)
        for name, values in block.items():
            values[pairs.equal] = first.kernels[name][pairs.equal[0]]
        if len(rows := np.unique(pairs.opposite[0])):
            known = self._run(
                lambda: recursion.each_with_opposite(
                    self.architecture, jnp.asarray(left[rows]), self._want_ntk
                )
            )
            for name, values in block.items():
                values[pairs.opposite] = known[name][np.searchsorted(rows, pairs.opposite[0])]
        if x2 is None:
            # Sums over positions are not symmetric to the last bit.
            block = {name: np.triu(v) + np.triu(v, 1).T for name, v in block.items()}
        return block

    def diag(self, x: np.ndarray) -> Arrays:
        """Each kernel of every sample with itself: (n,) each."""
        return self.statistics(x).kernels

    def statistics(self, x: np.ndarray) -> Statistics:
        """What every block needs to know of each sample alone; takes n pairs' worth of memory."""
        samples = self._samples(x)
        variances: list[np.ndarray] = []

        def itself() -> recursion.BothKernels:
            kernels, met = recursion.each_with_itself(
                self.architecture, jnp.asarray(samples), self._want_ntk
            )
            variances.extend(map(np.asarray, met))
            return kernels

        return Statistics(self._run(itself), tuple(variances), row_keys(samples))

    def bytes_per_pair(self, input_shape: Iterable[int]) -> int:
        """Peak working memory of a block per pair of samples, beyond samples and result."""
        return self._cost(input_shape).bytes

    def flops_per_pair(self, input_shape: Iterable[int]) -> int:
        """Arithmetic of a block per pair of samples."""
        return self._cost(input_shape).flops

    def _cost(self, input_shape: Iterable[int]) -> Cost:
        shape = _seen(self.architecture, input_shape)
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
        return samples.reshape(len(samples), *_seen(self.architecture, samples.shape[1:]))

    def _run(self, program: Callable[[], recursion.BothKernels]) -> Arrays:
        """The kernels asked for, as writable arrays."""
        with jax.enable_x64(True):  # whatever the process or thread is set to
            nngp, ntk = program()
            both = {"nngp": nngp, "ntk": ntk}
            return {name: np.array(both[name], self.dtype) for name in self.kernels}


def _seen(architecture: Layer, input_shape: Iterable[int]) -> tuple[int, ...]:
    """The shape in which samples enter the recursion: flat at once if Flatten comes first.

    Otherwise Flatten would average the pixels' products over a thousandfold larger array.
    """
    sizes = tuple(input_shape)
    first = architecture
    while isinstance(first, Serial):
        first = next((each for each in first.layers if not isinstance(each, Identity)), Identity())
    return (math.prod(sizes),) if isinstance(first, Flatten) else sizes
