"""The fused engines as evaluations: the same contract as the reference, orders faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntk_dist.kernels import alone, fused_cpu, fused_dense, fused_gpu
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.evaluations import DOUBLE, SAMPLE_COPIES, Arrays, Evaluation
from ntk_dist.kernels.lanes import lane_count
from ntk_dist.kernels.program import Program

__all__ = ["FusedDense", "FusedGpu", "FusedPlanes"]


THREADS_BYTES = 128 * 2**20
"""Most memory for statistics, of all threads together: nine of them for Myrtle-5 at 32 x 32."""


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
        if not self.program.mixes_positions:
            return super().each_with_itself(x, want_ntk, threads)
        samples = x.astype(np.float64, copy=False)
        threads = self._threads(len(x), threads)
        nngp, ntk, met = alone.each_with_itself(self.architecture, samples, threads)
        return {"nngp": nngp, "ntk": ntk}, met

    def each_with_opposite(
        self, x: np.ndarray, variances: Sequence[np.ndarray], want_ntk: bool, threads: int
    ) -> Arrays:
        """See ``Evaluation``."""
        if not self.program.mixes_positions:
            return super().each_with_opposite(x, variances, want_ntk, threads)
        samples = x.astype(np.float64, copy=False)
        threads = self._threads(len(x), threads)
        nngp, ntk = alone.each_with_opposite(self.architecture, samples, variances, threads)
        return {"nngp": nngp, "ntk": ntk}

    def sample_bytes(self, want_ntk: bool) -> int:
        """See ``Evaluation``."""
        if not self.program.mixes_positions:
            return super().sample_bytes(want_ntk)
        walks = alone.sample_bytes(self.architecture, self.shape)
        return walks + SAMPLE_COPIES * self.input_bytes

    def statistics_bytes(self, n: int, want_ntk: bool, threads: int) -> int:
        """See ``Evaluation``."""
        samples = super().statistics_bytes(n, want_ntk, threads)
        if not self.program.mixes_positions:
            return samples
        words = self._threads(n, threads) * alone.word_bytes(self.architecture, self.shape)
        return samples + words

    def _threads(self, n: int, threads: int) -> int:
        """How many of ``threads`` have something to do, and room."""
        words = -(-n // lane_count(DOUBLE.itemsize))
        room = THREADS_BYTES // alone.word_bytes(self.architecture, self.shape)
        return max(1, min(threads, words, room))


@dataclass(frozen=True)
class FusedGpu(FusedPlanes):
    """The fused GPU engine for convolutions, see ``fused_gpu``; statistics come from the CPU."""

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
        nngp, ntk = fused_gpu.gpu_block(self.architecture, x1, x2, variances1, variances2, dtype)
        return {"nngp": nngp, "ntk": ntk}

    def block_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``; of the host."""
        return fused_gpu.working_bytes(self.architecture, self.shape, dtype, n1, n2)


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
