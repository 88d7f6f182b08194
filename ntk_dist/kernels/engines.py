"""The fused engines as evaluations: the same contract as the reference, orders faster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntk_dist.kernels import alone, fused_cpu, fused_dense, fused_gpu
from ntk_dist.kernels.alone import MatchedPrograms
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.evaluations import SAMPLE_COPIES, Arrays, Evaluation
from ntk_dist.kernels.gpu_program import BlockPrograms
from ntk_dist.kernels.lanes import DOUBLE, SINGLE
from ntk_dist.kernels.program import Programs
from ntk_dist.kernels.statistics import Side

__all__ = ["FusedDense", "FusedGpu", "FusedPlanes"]


@dataclass(frozen=True)
class FusedPlanes(Evaluation):
    """The fused CPU engine for convolutions, see ``fused_cpu``."""

    programs: Programs
    matched: MatchedPrograms | None
    """For samples alone; None where no pooling mixes positions, and the recursion is as good."""

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
        if self.matched is None:
            return super().each_with_itself(x, want_ntk, threads)
        samples = x.astype(DOUBLE, copy=False)
        nngp, ntk, met = alone.each_with_itself(self.matched, samples, threads)
        return {"nngp": nngp, "ntk": ntk}, met

    def each_with_opposite(self, side: Side, want_ntk: bool, threads: int) -> Arrays:
        """See ``Evaluation``."""
        if self.matched is None:
            return super().each_with_opposite(side, want_ntk, threads)
        exact = Side(side.samples.astype(DOUBLE, copy=False), side.variances)
        nngp, ntk = alone.each_with_opposite(self.matched, exact, threads)
        return {"nngp": nngp, "ntk": ntk}

    def sample_working_bytes(self, want_ntk: bool) -> int:
        """See ``Evaluation``."""
        if self.matched is None:
            return super().sample_working_bytes(want_ntk)
        walks = alone.sample_bytes(self.matched, len(self.shape) - 1)
        return walks + SAMPLE_COPIES * self.input_bytes

    def statistics_working_bytes(self, n: int, want_ntk: bool, threads: int) -> int:
        """See ``Evaluation``."""
        samples = super().statistics_working_bytes(n, want_ntk, threads)
        if self.matched is None:
            return samples
        return samples + alone.words_bytes(self.matched, n, threads)


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
