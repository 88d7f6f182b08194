"""The exact evaluations that a block can go through, behind one contract.

``paths.choose`` picks one; all of them give the numbers of ``recursion.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist.kernels import fused_cpu, fused_dense, recursion
from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.cost import pair_cost
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.layers import Flatten, Layer
from ntk_dist.kernels.program import Program

__all__ = ["Arrays", "Evaluation", "FusedDense", "FusedPlanes", "Recursion"]

Arrays: TypeAlias = dict[str, np.ndarray]
"""By kernel."""
DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True)
class Evaluation(ABC):
    """One way to evaluate an architecture on samples of one shape."""

    architecture: Layer
    shape: tuple[int, ...]
    """Of one sample, as ``paths.seen_shape`` has it."""

    compiled_by_shape = False
    """Whether blocks of a new shape must be compiled for."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Arithmetic of one pair of samples."""

    @abstractmethod
    def block(
        self,
        x1: np.ndarray,
        x2: np.ndarray | None,
        variances1: Sequence[np.ndarray],
        variances2: Sequence[np.ndarray],
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """Each of ``kernels`` between all samples of two sets: (n1, n2); exactly symmetric for one.

        Pairs of equal or opposite samples are computed like all others, as if nobody knew that
        their correlation is 1 or -1: the caller puts the known values there.

        Parameters
        ----------
        x1 : (n1, *shape)
            Samples, float32 or float64.
        x2 : (n2, *shape) or None
            Other samples; ``None`` states that they are ``x1``.
        variances1, variances2
            What ``Statistics.variances`` holds for either set.
        dtype
            The precision wanted, float32 or float64; more is allowed.
        kernels
            ``"nngp"``, ``"ntk"`` or both; more may come back.
        threads
            How many to use.
        """

    @abstractmethod
    def block_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """Peak working memory of ``block``, beyond samples as they came and the result."""

    def each_with_itself(
        self, x: np.ndarray, want_ntk: bool, threads: int
    ) -> tuple[Arrays, list[np.ndarray]]:
        """The kernels of each sample with itself, (n,), and the variances met on the way."""
        del threads
        with jax.enable_x64(True):  # whatever the process or thread is set to
            both, met = recursion.each_with_itself(
                self.architecture, jnp.asarray(x, jnp.float64), want_ntk
            )
            return _named(both), list(map(np.asarray, met))

    def statistics_bytes(self, n: int, want_ntk: bool) -> int:
        """Peak working memory of ``each_with_itself``, beyond samples and result.

        The same on every machine: how samples are batched shows in the last bits.
        """
        return n * self.pair_bytes(want_ntk)

    def each_with_opposite(self, x: np.ndarray, want_ntk: bool) -> Arrays:
        """The kernels of each sample ``x_i`` with ``-x_i``: (n,) each."""
        with jax.enable_x64(True):
            x64 = jnp.asarray(x, jnp.float64)
            return _named(recursion.each_with_opposite(self.architecture, x64, want_ntk))

    @property
    def variance_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape per sample of each of the variances met."""
        return pair_cost(self.architecture, self.shape, DOUBLE.itemsize, 1).variances

    def pair_bytes(self, want_ntk: bool) -> int:
        """What one pair takes in the recursion."""
        return pair_cost(self.architecture, self.shape, DOUBLE.itemsize, 1 + want_ntk).bytes


class Recursion(Evaluation):
    """The reference, in JAX: on any device, in float64, for any architecture."""

    compiled_by_shape = True

    @property
    def flops(self) -> int:
        """See ``Evaluation``."""
        return pair_cost(self.architecture, self.shape, DOUBLE.itemsize, 2).flops

    def block(
        self,
        x1: np.ndarray,
        x2: np.ndarray | None,
        variances1: Sequence[np.ndarray],
        variances2: Sequence[np.ndarray],
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """See ``Evaluation``."""
        with jax.enable_x64(True):
            left = jnp.asarray(x1, jnp.float64)
            both = recursion.all_pairs(
                self.architecture,
                left,
                left if x2 is None else jnp.asarray(x2, jnp.float64),
                list(map(jnp.asarray, variances1)),
                list(map(jnp.asarray, variances2)),
                "ntk" in kernels,
            )
            block = _named(both)
        # Sums over positions are not symmetric to the last bit.
        return block if x2 is not None else {name: _mirrored(v) for name, v in block.items()}

    def block_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``."""
        return n1 * n2 * self.pair_bytes(want_ntk)


@dataclass(frozen=True)
class FusedPlanes(Evaluation):
    """The fused CPU engine for convolutions, see ``fused_cpu``."""

    program: Program

    @property
    def flops(self) -> int:
        """See ``Evaluation``."""
        return self.program.flops

    def block(
        self,
        x1: np.ndarray,
        x2: np.ndarray | None,
        variances1: Sequence[np.ndarray],
        variances2: Sequence[np.ndarray],
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """See ``Evaluation``."""
        nngp, ntk = fused_cpu.fused_block(
            self.architecture, x1, x2, variances1, variances2, dtype, threads
        )
        return {"nngp": nngp, "ntk": ntk}

    def block_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``."""
        return fused_cpu.working_bytes(self.architecture, self.shape, dtype, n1, n2, threads)

    def each_with_itself(
        self, x: np.ndarray, want_ntk: bool, threads: int
    ) -> tuple[Arrays, list[np.ndarray]]:
        """See ``Evaluation``."""
        if not self.program.only_pools_globally:
            return super().each_with_itself(x, want_ntk, threads)
        samples = x.astype(np.float64, copy=False)
        nngp, ntk, met = fused_cpu.each_with_itself(self.architecture, samples, threads)
        return {"nngp": nngp, "ntk": ntk}, met

    def statistics_bytes(self, n: int, want_ntk: bool) -> int:
        """See ``Evaluation``."""
        program = self.program
        if not program.only_pools_globally:
            return super().statistics_bytes(n, want_ntk)
        flat = Serial((program.head, Flatten()))
        walk = pair_cost(flat, self.shape, DOUBLE.itemsize, 2).bytes
        # The planes of a thread take as much in words of either precision.
        words = program.size * np.dtype(np.float32).itemsize
        words += 3 * DOUBLE.itemsize * 8 * (math.prod(self.shape) + 2 * program.positions)
        return n * (walk + words)  # a thread for each


@dataclass(frozen=True)
class FusedDense(Evaluation):
    """The fused CPU engine for networks without spatial axes, see ``fused_dense``."""

    program: DenseProgram

    @property
    def flops(self) -> int:
        """See ``Evaluation``."""
        return self.program.flops

    def block(
        self,
        x1: np.ndarray,
        x2: np.ndarray | None,
        variances1: Sequence[np.ndarray],
        variances2: Sequence[np.ndarray],
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """See ``Evaluation``."""
        del variances1, variances2  # some sums per sample: less than reading them would take
        return fused_dense.dense_block(self.architecture, x1, x2, dtype, threads, kernels)

    def block_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``."""
        return fused_dense.working_bytes(self.architecture, self.shape, dtype, n1, n2, threads)


def _named(both: recursion.BothKernels) -> Arrays:
    names = ("nngp", "ntk")
    return {n: np.asarray(v) for n, v in zip(names, both, strict=True) if v is not None}


def _mirrored(values: np.ndarray) -> np.ndarray:
    """The upper triangle on both sides of the diagonal."""
    mirrored: np.ndarray = np.triu(values) + np.triu(values, 1).T
    return mirrored
