"""Objects that stay on workers: each owns blocks of a stored Gram matrix and multiplies by them.

A factory is a small frozen record that pickles, and builds the shard where it is called with the
blocks that are to be its own. A shard that is lost is built again elsewhere, and answers the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ntk_dist.errors import BlockCorruptError, BlockNotFoundError
from ntk_dist.events import RepairEvent, report
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.gram.shard import GramShard
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.tasks import GramTask

__all__ = ["RecomputedShardFactory", "ShardFactory", "StoredShard"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardFactory:
    """Build, on a worker, the object that owns some blocks and multiplies by them."""

    task: GramTask
    """Computes a block again that is lost or damaged."""
    kernel_name: str
    """Which of the stored kernels: ``ntk`` or ``nngp``."""
    max_bytes: int
    """Memory for blocks, those read ahead among them, in bytes."""

    def __call__(self, blocks: Sequence[BlockIndex]) -> StoredShard:
        """The shard that owns ``blocks``."""
        return StoredShard(self, blocks)


class StoredShard(GramShard):
    """A shard of stored blocks; one that is lost or damaged is computed again, and reported."""

    def __init__(self, factory: ShardFactory, blocks: Sequence[BlockIndex]) -> None:
        super().__init__(self._read, factory.task.store.grid, blocks, factory.max_bytes)
        self._factory = factory

    def _read(self, index: BlockIndex) -> np.ndarray:
        task, kernel_name = self._factory.task, self._factory.kernel_name
        try:
            return task.store.read(kernel_name, index)
        except (BlockCorruptError, BlockNotFoundError) as error:
            log.warning("recomputing block %s: %s", index, error)
            report(RepairEvent(item=str(index), reason=str(error)))
            # Not read again: another reader of the same damage may have deleted the new one.
            return task.compute(index)[kernel_name]


@dataclass(frozen=True)
class RecomputedShardFactory:
    """Build, on a worker, an object that multiplies by blocks evaluated again in float64.

    Nothing is stored. Blocks that fit ``max_bytes`` are evaluated once and kept; the others are
    evaluated for every product.
    """

    task: GramTask
    """Evaluates the stored Gram matrix, in whatever precision."""
    kernel_name: str
    """``ntk`` or ``nngp``."""
    max_bytes: int
    """Blocks kept resident, in bytes."""

    def __call__(self, blocks: Sequence[BlockIndex]) -> GramShard:
        """The shard that owns ``blocks``."""
        stored = self.task.kernel
        kernel = Kernel(stored.architecture, stored.kernels, np.float64)
        task = replace(self.task, kernel=kernel)

        def evaluate(index: BlockIndex) -> np.ndarray:
            return task.evaluate(index)[self.kernel_name]

        return GramShard(evaluate, task.store.grid, blocks, self.max_bytes, name="float64 shard")
