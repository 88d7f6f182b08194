"""Blocks in the memory of this process: the plain reference that other stores must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from ntk_dist.errors import BlockNotFoundError
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.store.base import AbstractBlockStore
from ntk_dist.store.manifest import Manifest

__all__ = ["MemoryBlockStore"]


class MemoryBlockStore(AbstractBlockStore):
    """A dictionary of blocks; threads may share it, processes may not."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._blocks: dict[BlockIndex, dict[str, np.ndarray]] = {}

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

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a MemoryBlockStore lives in one process and cannot be sent to another; "
            "give a workspace folder, so that workers can share a ZarrBlockStore"
        )
