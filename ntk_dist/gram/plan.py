"""What a Gram matrix will cost, and whether to start at all.

Everything here is arithmetic on sizes: no file is opened and no worker asked, so the same plan can
be printed for a cluster that does not exist yet.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_dist.errors import DiskBudgetError, MemoryBudgetError
from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.units import format_bytes

__all__ = [
    "PREDICT_ROWS",
    "GramPlan",
    "assign_blocks",
    "default_block_rows",
    "plan_gram",
    "predict_rows",
    "statistics_batch_rows",
]

MAX_BLOCK_ROWS = 4096
"""64 MB of float32: large enough that a task's overhead (milliseconds) is lost in its seconds."""
MIN_BLOCK_ROWS = 32
MAX_BLOCK_FLOPS = 4e12
"""About a minute on one slow core, so that a killed worker never loses more than that."""
BLOCKS_PER_SIDE = 2048
"""Past that, 2.1 million files for a symmetric Gram matrix, blocks of dear entries grow, ..."""
MOST_GROWTH = 4
"""... up to this many times the rows: a quarter of an hour on one slow core. A million images under
a CNTK were 33 million files otherwise, 73 kB each."""
MAX_STATISTICS_FLOPS = 1e11
"""Some seconds on one slow core."""
PAIRS_PER_STATISTICS = 4
"""A sample's statistics take as long as so many entries where pooling mixes positions: the pair
of a sample with itself is computed in float64, at a third of the speed of float32."""
MAX_STATISTICS_BYTES = 16 * 2**20
"""One stored batch: large enough to hide the 0.9 ms that a chunk costs."""
PREDICT_ROWS = 256
"""Rows of one prediction task: enough for a GEMM, and a progress bar that moves."""
MOST_PREDICT_ROWS = 2048
"""Each task reads all training rows: of 50,000 images 600 MB, for 10,000 predictions 40 times with
256 rows a task."""
PREDICT_TASKS_PER_SLOT = 4
"""Wanted of large predictions, so that no worker waits long for the last one."""


def default_block_rows(n_rows: int, flops_per_pair: float) -> int:
    """The block side used when nobody names one, in rows.

    It depends on the data and the architecture but never on the workers, so that a run resumed
    on another cluster finds its own blocks.

    Parameters
    ----------
    n_rows
        Rows of the Gram matrix.
    flops_per_pair
        Floating-point operations of one entry.
    """
    affordable = math.isqrt(int(MAX_BLOCK_FLOPS / max(flops_per_pair, 1.0)))
    crowded = -(-n_rows // BLOCKS_PER_SIDE)
    affordable = max(affordable, min(crowded, MOST_GROWTH * affordable))
    eighth = max(256, -(-n_rows // 8))
    return max(1, min(n_rows, max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, eighth, affordable))))


def statistics_batch_rows(block_rows: int, flops_per_pair: float, row_bytes: int) -> int:
    """Rows whose statistics are one task and one stored batch.

    Parameters
    ----------
    block_rows
        Side of a block: more rows than that are never needed at once.
    flops_per_pair
        Floating-point operations of one entry.
    row_bytes
        Bytes of the statistics of one row.
    """
    affordable = int(MAX_STATISTICS_FLOPS / max(PAIRS_PER_STATISTICS * flops_per_pair, 1.0))
    return max(1, min(block_rows, affordable, MAX_STATISTICS_BYTES // row_bytes))


def predict_rows(n_rows: int, n_slots: int) -> int:
    """Rows of one prediction task.

    Parameters
    ----------
    n_rows
        Rows to predict.
    n_slots
        Tasks that run at one time.
    """
    fair = -(-n_rows // (PREDICT_TASKS_PER_SLOT * n_slots))
    return max(PREDICT_ROWS, min(MOST_PREDICT_ROWS, fair))


@dataclass(frozen=True, kw_only=True)
class GramPlan:
    """A Gram matrix on paper."""

    grid: BlockGrid
    missing: tuple[BlockIndex, ...]
    """Blocks still to compute, in order."""
    kernels: tuple[str, ...]
    itemsize: int
    """Bytes of one entry."""
    flops_per_pair: float
    input_shape: tuple[int, ...]
    """Of one input row."""
    working_bytes: int
    """Scratch memory one block may use beyond inputs and output, in bytes."""
    statistics_row_bytes: int
    """What is stored of each row alone, in bytes."""
    missing_statistics: int
    """Rows whose statistics are still to compute."""
    known: frozenset[BlockIndex] = frozenset()
    """Missing blocks that the Gram matrix of fewer rows has: copied, not computed."""

    @property
    def input_bytes(self) -> int:
        """One input row on a worker, as it is read and in the float64 kernels compute in."""
        entries = math.prod(self.input_shape)
        return self.stored_row_bytes + entries * np.dtype(np.float64).itemsize

    @property
    def stored_row_bytes(self) -> int:
        """One input row as it is kept in the workspace, in bytes."""
        return math.prod(self.input_shape) * self.itemsize

    @property
    def block_bytes(self) -> int:
        """One full block, every kernel, in bytes."""
        return self.grid.block_rows**2 * self.itemsize * len(self.kernels)

    @property
    def gram_bytes(self) -> int:
        """All blocks as stored (ragged edges take a whole chunk), in bytes."""
        return self.grid.n_blocks * self.block_bytes

    @property
    def statistics_bytes(self) -> int:
        """The statistics of all rows as stored, in bytes."""
        return self.grid.n_rows * self.statistics_row_bytes

    @property
    def missing_bytes(self) -> int:
        """Blocks and statistics still to store, in bytes."""
        return (
            len(self.missing) * self.block_bytes
            + self.missing_statistics * self.statistics_row_bytes
        )

    @property
    def worker_bytes(self) -> int:
        """Peak memory of one worker while it computes one block, in bytes.

        Two ranges of inputs (each twice, see ``input_bytes``) with their statistics, the block, its
        copy on the way into the store, and scratch.
        """
        inputs = 2 * self.grid.block_rows * (self.input_bytes + self.statistics_row_bytes)
        return inputs + 2 * self.block_bytes + self.working_bytes

    @property
    def missing_entries(self) -> float:
        """Entries still to compute; of a block on the diagonal, half."""
        entries = 0.0
        for index in self.missing:
            if index in self.known:
                continue
            rows, cols = self.grid.block_shape(index)
            half = 0.5 if self.grid.is_diagonal(index) else 1.0
            entries += half * rows * cols
        return entries

    @property
    def missing_flops(self) -> float:
        """Floating-point operations still to do."""
        return self.missing_entries * self.flops_per_pair

    def require_room(
        self,
        *,
        free_bytes: int | None = None,
        memory_bytes: int | None = None,
        in_memory: bool = False,
    ) -> None:
        """Refuse, before anything starts, what will not fit.

        Parameters
        ----------
        free_bytes
            Free space where blocks are kept; None when it has no limit that can be asked.
        memory_bytes
            Memory a worker may use; None when unknown.
        in_memory
            Whether blocks are kept in the memory of this process.

        Raises
        ------
        DiskBudgetError, MemoryBudgetError
            Names projected and available bytes.
        """
        if free_bytes is not None and self.missing_bytes > free_bytes:
            where = "of memory" if in_memory else "in the workspace"
            problem = (
                f"the Gram matrix needs {format_bytes(self.missing_bytes)} more {where} "
                f"({len(self.missing)} blocks of {format_bytes(self.block_bytes)}, and statistics "
                f"of {self.missing_statistics} rows of {format_bytes(self.statistics_row_bytes)}), "
                f"got {format_bytes(free_bytes)} free: "
            )
            if in_memory:
                raise MemoryBudgetError(f"{problem}give a workspace folder to keep blocks in")
            raise DiskBudgetError(f"{problem}free some space or choose another workspace")
        if memory_bytes is not None and self.worker_bytes > memory_bytes:
            raise MemoryBudgetError(
                f"one block of {self.grid.block_rows} rows needs {format_bytes(self.worker_bytes)} "
                f"of memory on a worker, got {format_bytes(memory_bytes)}: choose fewer block_rows"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for ``--json``."""
        return {
            "n_rows": self.grid.n_rows,
            "n_cols": self.grid.n_cols,
            "block_rows": self.grid.block_rows,
            "symmetric": self.grid.symmetric,
            "kernels": list(self.kernels),
            "n_blocks": self.grid.n_blocks,
            "n_missing": len(self.missing),
            "n_known": len(self.known),
            "block_bytes": self.block_bytes,
            "gram_bytes": self.gram_bytes,
            "statistics_bytes": self.statistics_bytes,
            "missing_bytes": self.missing_bytes,
            "worker_bytes": self.worker_bytes,
            "flops_per_pair": self.flops_per_pair,
            "missing_flops": self.missing_flops,
        }


def plan_gram(
    grid: BlockGrid,
    present: Collection[BlockIndex],
    *,
    kernels: tuple[str, ...],
    dtype: str,
    input_shape: tuple[int, ...],
    flops_per_pair: float,
    working_bytes: int,
    statistics_row_bytes: int,
    missing_statistics: int,
) -> GramPlan:
    """The plan for ``grid`` when the blocks in ``present`` are already stored."""
    itemsize = np.dtype(dtype).itemsize
    return GramPlan(
        grid=grid,
        missing=tuple(index for index in grid if index not in present),
        kernels=kernels,
        itemsize=itemsize,
        flops_per_pair=flops_per_pair,
        input_shape=input_shape,
        working_bytes=working_bytes,
        statistics_row_bytes=statistics_row_bytes,
        missing_statistics=missing_statistics,
    )


def assign_blocks(grid: BlockGrid, n_shards: int) -> list[tuple[BlockIndex, ...]]:
    """The blocks of every shard: each block once, entries balanced, no shard empty.

    Largest first onto the lightest shard (Graham 1969, within 4/3 of the best split); off-diagonal
    blocks serve two products, so they weigh double.

    Parameters
    ----------
    grid
        The cut.
    n_shards
        How many shards are wanted; fewer come back when there are fewer blocks.
    """

    def weight(index: BlockIndex) -> int:
        rows, cols = grid.block_shape(index)
        return rows * cols * (1 if grid.is_diagonal(index) else 2)

    alike: dict[int, list[BlockIndex]] = {}  # inside and diagonal, whole and ragged: a few kinds
    for index in grid:
        alike.setdefault(weight(index), []).append(index)
    count = max(1, min(n_shards, grid.n_blocks))
    shards: list[list[BlockIndex]] = [[] for _ in range(count)]
    loads = [(0, k) for k in range(count)]  # a heap
    for heavy in sorted(alike, reverse=True):
        for index in alike[heavy]:
            load, lightest = loads[0]
            shards[lightest].append(index)
            heapq.heapreplace(loads, (load + heavy, lightest))
    return [tuple(sorted(shard)) for shard in shards]
