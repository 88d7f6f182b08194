"""Blocks and statistics in the memory of this process.

The plain reference that other stores must agree with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from ntk_dist.errors import BlockNotFoundError, ManifestMismatchError
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.settings import available_memory
from ntk_dist.store.base import AbstractBlockStore, AbstractStatisticsStore
from ntk_dist.store.manifest import Manifest

__all__ = ["MemoryBlockStore", "MemoryStatisticsStore"]


class MemoryBlockStore(AbstractBlockStore):
    """A dictionary of blocks; threads may share it, processes may not."""

    in_memory = True

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._blocks: dict[BlockIndex, dict[str, np.ndarray]] = {}
        self._statistics: MemoryStatisticsStore | None = None

    def read(self, kernel: str, index: BlockIndex) -> np.ndarray:
        """One block, read-only."""
        self.require_block(index, kernel)
        try:
            return self._blocks[index][kernel]
        except KeyError:
            raise BlockNotFoundError(
                f"block {index} of kernel {kernel} is not in memory; compute it first"
            ) from None

    def write(self, index: BlockIndex, blocks: Mapping[str, np.ndarray]) -> None:
        """Keep a copy of one block of every kernel."""
        self.require_writable(index, blocks)
        copies = {kernel: blocks[kernel].copy() for kernel in self.kernels}
        for block in copies.values():
            block.setflags(write=False)
        self._blocks[BlockIndex(*index)] = copies

    def delete(self, index: BlockIndex) -> None:
        """Forget one block of every kernel; absent is fine."""
        self._blocks.pop(index, None)

    def present(self) -> frozenset[BlockIndex]:
        """Blocks that are there."""
        return frozenset(self._blocks)

    def free_bytes(self) -> int:
        """Memory that can still be had, in bytes."""
        return available_memory()

    def statistics(self, width: int, batch_rows: int) -> MemoryStatisticsStore:
        """What is known of each row, in this memory too."""
        if self._statistics is None:
            self._statistics = MemoryStatisticsStore(self.manifest.n_rows, width, batch_rows)
        elif self._statistics.width != width:
            raise ManifestMismatchError(
                f"expected {width} statistics per row, got {self._statistics.width} in memory"
            )
        return self._statistics

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a MemoryBlockStore lives in one process and cannot be sent to another; "
            "give a workspace folder, so that workers can share a ZarrBlockStore"
        )


class MemoryStatisticsStore(AbstractStatisticsStore):
    """A dictionary of batches; threads may share it, and pickling it copies them."""

    def __init__(self, n_rows: int, width: int, batch_rows: int) -> None:
        self.n_rows, self.width, self.batch_rows = n_rows, width, batch_rows
        self._batches: dict[int, np.ndarray] = {}

    def read(self, batch: int) -> np.ndarray:
        """One batch, read-only."""
        self.rows(batch)
        try:
            return self._batches[batch]
        except KeyError:
            raise BlockNotFoundError(
                f"batch {batch} of the statistics is not in memory; compute it first"
            ) from None

    def write(self, batch: int, values: np.ndarray) -> None:
        """Keep a copy of one batch."""
        self.require_writable(batch, values)
        copy = values.copy()
        copy.setflags(write=False)
        self._batches[batch] = copy

    def delete(self, batch: int) -> None:
        """Forget one batch; absent is fine."""
        self._batches.pop(batch, None)

    def present(self) -> frozenset[int]:
        """Batches that are there."""
        return frozenset(self._batches)
