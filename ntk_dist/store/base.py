"""What a block store promises, whatever keeps the bytes.

Law: a block is either absent or right. ``write`` is whole and atomic; ``read`` never returns a
block that differs from the one written: damage is detected, the block deleted, and
:class:`~ntk_dist.errors.BlockCorruptError` raised with its index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.store.manifest import Manifest

__all__ = ["AbstractBlockStore", "AbstractRows", "AbstractStatisticsStore"]


class AbstractBlockStore(ABC):
    """Blocks of one Gram matrix, for one kernel (``ntk`` or ``nngp``) or both side by side."""

    in_memory: ClassVar[bool]
    """Blocks take the memory of this process, not the space of a place."""
    manifest: Manifest
    """What the blocks belong to."""

    @property
    def grid(self) -> BlockGrid:
        """How the matrix is cut."""
        return self.manifest.grid

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels kept side by side."""
        return self.manifest.kernels

    @abstractmethod
    def read(self, kernel: str, index: BlockIndex) -> np.ndarray:
        """One block, of ``grid.block_shape(index)`` in the manifest's dtype; not to be written to.

        Raises
        ------
        ValueError
            The index is outside the stored triangle, or no such kernel is kept.
        BlockNotFoundError
            The block is absent.
        BlockCorruptError
            The block was damaged; it has been deleted.
        StoreUnreachableError
            The store did not answer.
        """

    @abstractmethod
    def write(self, index: BlockIndex, blocks: Mapping[str, np.ndarray]) -> None:
        """Keep one block of every kernel, replacing what was there.

        Raises
        ------
        ValueError
            A kernel is missing, or a shape, dtype or non-finite entry is wrong: a defect of the
            caller, not of the data.
        StoreFullError
            No space is left; the block is absent (or as it was) and all others are untouched.
        StoreUnreachableError
            The store did not take it.
        """

    @abstractmethod
    def delete(self, index: BlockIndex) -> None:
        """Forget one block of every kernel; absent is fine."""

    @abstractmethod
    def present(self) -> frozenset[BlockIndex]:
        """Blocks that are there for every kernel (their checksums are tested when read)."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where nobody knows.

        Raises
        ------
        StoreUnreachableError
            The store did not answer.
        """

    @abstractmethod
    def statistics(self, width: int, batch_rows: int) -> AbstractStatisticsStore:
        """The store of what is known of each row alone, beside the blocks.

        Parameters
        ----------
        width
            Numbers per row.
        batch_rows
            Rows per batch; that of an earlier run stays.

        Raises
        ------
        ManifestMismatchError
            What is stored has another width or was written by another version.
        """

    def require_block(self, index: BlockIndex, kernel: str) -> None:
        """Refuse a block that this Gram matrix does not have.

        Raises
        ------
        ValueError
            The index is outside the stored triangle, or no such kernel is kept.
        """
        if kernel not in self.kernels:
            raise ValueError(f"expected one of the kernels {list(self.kernels)}, got {kernel!r}")
        if index not in self.grid:
            raise ValueError(f"expected a block of {self.grid}, got index {tuple(index)}")

    def require_writable(self, index: BlockIndex, blocks: Mapping[str, np.ndarray]) -> None:
        """Refuse blocks that are not what :meth:`write` takes.

        Raises
        ------
        ValueError
            Names the kernel and what is wrong with its block.
        """
        if sorted(blocks) != sorted(self.kernels):
            raise ValueError(f"expected a block of {list(self.kernels)}, got {sorted(blocks)}")
        for kernel, block in blocks.items():
            self.require_block(index, kernel)
            shape, dtype = self.grid.block_shape(index), np.dtype(self.manifest.dtype)
            if block.shape != shape or block.dtype != dtype:
                raise ValueError(
                    f"block {index} of kernel {kernel}: expected {dtype} of shape {shape}, "
                    f"got {block.dtype} of shape {block.shape}"
                )
            # Both ends carry a NaN along, and need no mask as large as a quarter of the block.
            if not (np.isfinite(block.min()) and np.isfinite(block.max())):
                raise ValueError(f"block {index} of kernel {kernel} holds NaN or infinite entries")


class AbstractRows(ABC):
    """Rows of an array that is kept somewhere (inputs, or coefficients), read a range at a time."""

    shape: tuple[int, ...]
    """Rows first, then the shape of one row."""
    dtype: np.dtype
    fingerprint: str
    """Hash of shape, dtype and bytes."""

    @abstractmethod
    def read(self, rows: slice) -> np.ndarray:
        """Those rows (start and stop only), of shape ``(stop - start, *shape[1:])``."""

    def __len__(self) -> int:
        return self.shape[0]


class AbstractStatisticsStore(ABC):
    """A few numbers for each row of a Gram matrix, float64, in batches of rows.

    Law: a batch is either absent or right, as a block is.
    """

    n_rows: int
    width: int
    """Numbers per row."""
    batch_rows: int
    """Rows per batch; the last one may have fewer."""

    @property
    def n_batches(self) -> int:
        """How many there are when all are present."""
        return -(-self.n_rows // self.batch_rows)

    def rows(self, batch: int) -> slice:
        """The rows of one batch.

        Raises
        ------
        ValueError
            There is no such batch.
        """
        if not 0 <= batch < self.n_batches:
            raise ValueError(f"expected a batch below {self.n_batches}, got {batch}")
        start = batch * self.batch_rows
        return slice(start, min(start + self.batch_rows, self.n_rows))

    @abstractmethod
    def read(self, batch: int) -> np.ndarray:
        """One batch of shape ``(rows, width)``; not to be written to.

        Raises
        ------
        ValueError
            There is no such batch.
        BlockNotFoundError
            The batch is absent.
        BlockCorruptError
            The batch was damaged; it has been deleted.
        StoreUnreachableError
            The store did not answer.
        """

    @abstractmethod
    def write(self, batch: int, values: np.ndarray) -> None:
        """Keep one batch, whole, replacing what was there.

        Raises
        ------
        ValueError
            There is no such batch, or the shape or dtype is wrong.
        StoreFullError, StoreUnreachableError
            The store did not take it; the batch is absent, or as it was.
        """

    @abstractmethod
    def delete(self, batch: int) -> None:
        """Forget one batch; absent is fine."""

    @abstractmethod
    def present(self) -> frozenset[int]:
        """Batches that are there (their checksums are tested when read)."""

    def require_writable(self, batch: int, values: np.ndarray) -> None:
        """Refuse what is no batch.

        Raises
        ------
        ValueError
            Says what is wrong with it.
        """
        rows = self.rows(batch)
        shape = (rows.stop - rows.start, self.width)
        if values.shape != shape or values.dtype != np.float64:
            raise ValueError(
                f"batch {batch} of the statistics: expected float64 of shape {shape}, "
                f"got {values.dtype} of shape {values.shape}"
            )
