"""The fused engines as evaluations: the same contract as the reference, orders faster."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ntk_dist.kernels import alone, fused_cpu, fused_dense, fused_gpu
from ntk_dist.kernels.cost import pair_cost
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.evaluations import Arrays, Evaluation
from ntk_dist.kernels.gpu_program import BlockPrograms
from ntk_dist.kernels.lanes import DOUBLE, SINGLE, lane_count
from ntk_dist.kernels.program import Programs
from ntk_dist.kernels.statistics import Side

__all__ = ["FusedDense", "FusedGpu", "FusedPlanes"]


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
        program = self.programs[DOUBLE]
        if not program.only_pools_globally:
            return super().each_with_itself(x, want_ntk, threads)
        samples = x.astype(DOUBLE, copy=False)
        nngp, ntk, met = alone.each_with_itself(program, samples, threads)
        return {"nngp": nngp, "ntk": ntk}, met

    def each_with_opposite(self, side: Side, want_ntk: bool, threads: int) -> Arrays:
        """See ``Evaluation``."""
        program = self.programs[DOUBLE]
        if not program.only_pools_globally:
            return super().each_with_opposite(side, want_ntk, threads)
        exact = Side(side.samples.astype(DOUBLE, copy=False), side.variances)
        nngp, ntk = alone.each_with_opposite(program, exact, threads)
        return {"nngp": nngp, "ntk": ntk}

    def opposite_working_bytes(self, want_ntk: bool) -> int:
        """See ``Evaluation``."""
        return self.statistics_working_bytes(1, want_ntk)

    def statistics_working_bytes(self, n: int, want_ntk: bool) -> int:
        """See ``Evaluation``."""
        program = self.programs[SINGLE]
        if not program.only_pools_globally:
            return super().statistics_working_bytes(n, want_ntk)
        walk = pair_cost(program.flat, self.shape, DOUBLE.itemsize, 2).bytes
        # The planes of a thread take as much in words of either precision.
        words = program.size * SINGLE.itemsize
        # A sample, and the word it is brought into twice: less than three words.
        row = DOUBLE.itemsize * (math.prod(self.shape) + 2 * program.positions)
        words += 3 * lane_count(DOUBLE.itemsize) * row
        return n * (walk + words)  # a thread for each


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
