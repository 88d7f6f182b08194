"""The fused engines as evaluations: the same contract as the reference, orders faster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntk_dist.kernels import alone, fused_cpu, fused_dense, fused_gpu
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.evaluations import SAMPLE_COPIES, Arrays, Evaluation
from ntk_dist.kernels.gpu_program import BlockPrograms
from ntk_dist.kernels.lanes import DOUBLE, SINGLE, lane_count
from ntk_dist.kernels.program import Programs
from ntk_dist.kernels.statistics import Side

__all__ = ["FusedDense", "FusedGpu", "FusedPlanes"]


THREADS_BYTES = 128 * 2**20
"""Most memory for statistics, of all threads together: nine of them for Myrtle-5 at 32 x 32."""


@dataclass(frozen=True)
class FusedPlanes(Evaluation):
    """The fused CPU engine for convolutions, see ``fused_cpu``."""

    programs: Programs

    @property
    def flops(self) -> int:
        """See ``Evaluation``; the same in both precisions."""
        return self.programs[SINGLE].flops

    def block(
        self,
        left: Side,
        right: Side | None,
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """See ``Evaluation``."""
        nngp, ntk = fused_cpu.fused_block(self.programs, left, right, dtype, threads)
        return {"nngp": nngp, "ntk": ntk}

    def working_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``."""
        return fused_cpu.working_bytes(self.programs, n1, n2, dtype, threads)

    def each_with_itself(
        self, x: np.ndarray, want_ntk: bool, threads: int
    ) -> tuple[Arrays, list[np.ndarray]]:
        """See ``Evaluation``."""
        if not self._mixes_positions:
            return super().each_with_itself(x, want_ntk, threads)
        samples = x.astype(DOUBLE, copy=False)
        threads = self._threads(len(x), threads)
        nngp, ntk, met = alone.each_with_itself(self.architecture, samples, threads)
        return {"nngp": nngp, "ntk": ntk}, met

    def each_with_opposite(self, side: Side, want_ntk: bool, threads: int) -> Arrays:
        """See ``Evaluation``."""
        if not self._mixes_positions:
            return super().each_with_opposite(side, want_ntk, threads)
        exact = Side(side.samples.astype(DOUBLE, copy=False), side.variances)
        threads = self._threads(len(side), threads)
        nngp, ntk = alone.each_with_opposite(self.architecture, exact, threads)
        return {"nngp": nngp, "ntk": ntk}

    def sample_working_bytes(self, want_ntk: bool) -> int:
        """See ``Evaluation``."""
        if not self._mixes_positions:
            return super().sample_working_bytes(want_ntk)
        walks = alone.sample_bytes(self.architecture, self.shape)
        return walks + SAMPLE_COPIES * self.input_bytes

    def statistics_working_bytes(self, n: int, want_ntk: bool, threads: int) -> int:
        """See ``Evaluation``."""
        samples = super().statistics_working_bytes(n, want_ntk, threads)
        if not self._mixes_positions:
            return samples
        words = self._threads(n, threads) * alone.word_bytes(self.architecture, self.shape)
        return samples + words

    @property
    def _mixes_positions(self) -> bool:
        return self.programs[DOUBLE].mixes_positions

    def _threads(self, n: int, threads: int) -> int:
        """How many of ``threads`` have something to do, and room."""
        words = -(-n // lane_count(DOUBLE.itemsize))
        room = THREADS_BYTES // alone.word_bytes(self.architecture, self.shape)
        return max(1, min(threads, words, room))


@dataclass(frozen=True)
class FusedGpu(FusedPlanes):
    """The fused GPU engine for convolutions, see ``fused_gpu``; statistics come from the CPU."""

    block_programs: BlockPrograms

    def block(
        self,
        left: Side,
        right: Side | None,
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """See ``Evaluation``."""
        nngp, ntk = fused_gpu.gpu_block(self.block_programs, left, right, dtype)
        return {"nngp": nngp, "ntk": ntk}

    def working_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``; of the host."""
        return fused_gpu.working_bytes(self.block_programs, n1, n2, dtype)


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
        left: Side,
        right: Side | None,
        dtype: np.dtype[np.floating],
        kernels: tuple[str, ...],
        threads: int,
    ) -> Arrays:
        """See ``Evaluation``."""
        # Variances are some sums per sample: less than reading them would take.
        others = None if right is None else right.samples
        return fused_dense.dense_block(self.program, left.samples, others, dtype, threads, kernels)

    def working_bytes(
        self, n1: int, n2: int, dtype: np.dtype[np.floating], want_ntk: bool, threads: int
    ) -> int:
        """See ``Evaluation``."""
        (features,) = self.shape
        return fused_dense.working_bytes(self.program, features, dtype, n1, n2, threads)
