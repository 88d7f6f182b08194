"""What every exact evaluation of a block promises, and the one that is the reference.

``engines.py`` has the fused ones; ``choice.choose`` picks one of them all.

*Working* memory is what is taken at the peak beyond the samples as they came, what is known of
them, and the result; all ``working_bytes`` mean that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist.kernels import recursion
from ntk_dist.kernels.cost import pair_cost
from ntk_dist.kernels.lanes import DOUBLE
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.statistics import Side

__all__ = ["SAMPLE_COPIES", "XLA_BYTES", "Arrays", "Evaluation", "Recursion", "mirrored"]

Arrays: TypeAlias = dict[str, np.ndarray]
"""By kernel."""
XLA_BYTES = 8 * 2**20
"""What XLA's threads, and the C library for them, keep of memory that was freed: 3 to 9 MiB, for
small blocks and large ones; with one arena for all threads (``MALLOC_ARENA_MAX=1``) no less."""
SAMPLE_COPIES = 3
"""In float64, as JAX has it, and squared."""


@dataclass(frozen=True)
class Evaluation(ABC):
    """One way to evaluate an architecture on samples of one shape."""

    architecture: Layer
    shape: tuple[int, ...]
    """Of one sample, as ``choice.seen_shape`` has it."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Arithmetic of one pair of samples."""

    @abstractmethod
    def block(
        self,
        left: Side,
        right: Side | None,
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """Each of ``kernels`` between all samples of two sets: (n1, n2); exactly symmetric for one.

        Pairs of equal or opposite samples are computed like all others, as if nobody knew that
        their correlation is 1 or -1: the caller puts the known values there.

        Parameters
        ----------
        left
            n1 samples.
        right
            n2 samples; ``None`` states that they are those on the left.
        dtype
            The precision wanted, float32 or float64; more is allowed.
        kernels
            ``"nngp"``, ``"ntk"`` or both; more may come back.
        threads
            How many a fused engine on the CPU may use. The recursion takes what JAX gives it, and a
            GPU needs none: they ignore this. No bit depends on it.
        """

    @abstractmethod
    def working_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """Working memory of ``block`` for n1 and n2 samples."""

    def each_with_itself(
        self, x: np.ndarray, want_ntk: bool, threads: int
    ) -> tuple[Arrays, list[np.ndarray]]:
        """The kernels of each sample with itself, (n,), and the variances met on the way."""
        del threads
        with jax.enable_x64(True):  # whatever the process or thread is set to
            both, met = recursion.each_with_itself(
                self.architecture, jnp.asarray(x, np.float64), want_ntk
            )
            return _named(both), list(map(np.asarray, met))

    def sample_working_bytes(self, want_ntk: bool) -> int:
        """What one sample more takes of the working memory of ``each_with_itself``.

        The same on every machine: how samples are batched shows in the last bits.
        """
        return self.recursion_bytes(want_ntk) + SAMPLE_COPIES * self.input_bytes

    def statistics_working_bytes(self, n: int, want_ntk: bool, threads: int) -> int:
        """Working memory of ``each_with_itself`` and ``each_with_opposite`` for n samples.

        Beside the ``XLA_BYTES`` of a process that computes statistics.
        """
        del threads
        return n * self.sample_working_bytes(want_ntk)

    def each_with_opposite(self, side: Side, want_ntk: bool, threads: int) -> Arrays:
        """The kernels of each sample ``x_i`` with ``-x_i``: (n,)."""
        del threads
        with jax.enable_x64(True):
            x64 = jnp.asarray(side.samples, np.float64)
            return _named(recursion.each_with_opposite(self.architecture, x64, want_ntk))

    @property
    def variance_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape per sample of each of the variances met."""
        return pair_cost(self.architecture, self.shape, DOUBLE.itemsize, 1).variances

    @property
    def input_bytes(self) -> int:
        """Of one sample, in float64."""
        return DOUBLE.itemsize * math.prod(self.shape)

    def recursion_bytes(self, want_ntk: bool) -> int:
        """Working memory of the recursion for one pair."""
        return pair_cost(self.architecture, self.shape, DOUBLE.itemsize, 1 + want_ntk).bytes


class Recursion(Evaluation):
    """The reference, in JAX: on any device, in float64, for any architecture."""

    @property
    def flops(self) -> int:
        """See ``Evaluation``."""
        return pair_cost(self.architecture, self.shape, DOUBLE.itemsize, 2).flops

    def block(
        self,
        left: Side,
        right: Side | None,
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """See ``Evaluation``."""
        with jax.enable_x64(True):
            x1 = jnp.asarray(left.samples, np.float64)
            x2 = x1 if right is None else jnp.asarray(right.samples, np.float64)
            sides = left, left if right is None else right
            v1, v2 = (list(map(jnp.asarray, side.variances)) for side in sides)
            both = recursion.all_pairs(self.architecture, x1, x2, v1, v2, "ntk" in kernels)
            block = _named(both)
        # Sums over positions are not symmetric to the last bit.
        return block if right is not None else {name: mirrored(v) for name, v in block.items()}

    def working_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``."""
        pairs = n1 * n2 * self.recursion_bytes(want_ntk)
        return XLA_BYTES + pairs + (n1 + n2) * self.input_bytes


def _named(both: recursion.BothKernels) -> Arrays:
    names = ("nngp", "ntk")
    return {n: np.asarray(v) for n, v in zip(names, both, strict=True) if v is not None}


def mirrored(values: np.ndarray) -> np.ndarray:
    """The upper triangle on both sides of the diagonal."""
    both: np.ndarray = np.triu(values) + np.triu(values, 1).T
    return both
