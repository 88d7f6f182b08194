"""One worker's share of a symmetric Gram matrix: keeps what fits, reads the rest as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_dist.gram.grid import BlockGrid, BlockIndex

__all__ = ["ColumnPiece", "GramShard", "RowSegment"]

RowSegment = tuple[int, NDArray[np.float64]]
"""First row, and values for the rows from there on."""
ColumnPiece = tuple[int, NDArray[np.intp], NDArray[Any]]
"""First row, positions within the indices asked for, and values in the blocks' own dtype."""

TILE_BYTES = 512 * 2**10
"""A float64 copy of some rows of a block, small enough for L2 and long enough for dgemm: at 10
targets 3.1 GB/s of float32 blocks in tiles of 512 KiB, 1.7 when a whole block is cast at once
(2048 rows, one core with 1 MiB of L2, on a busy machine)."""
LEAST_TILE_ROWS = 16
"""Below this dgemm is mostly overhead: 2.0 GB/s at 8 rows against 2.9 at 32."""


class GramShard:
    """One shard's part of a symmetric Gram matrix, as terms for the caller to add.

    Block (i, j) above the diagonal is read once per product and serves both K_ij v_j and
    K_ij^T v_i. Sums run in float64 whatever the blocks are stored in: float32 sums stall the true
    residual of an ill-conditioned system near 1e-5.

    Of a diagonal or of columns, answers hold only the rows that the shard's blocks touch.

    Parameters
    ----------
    read_block
        Gives a block of ``grid.block_shape(index)`` in float32 or float64.
    grid
        The cut; symmetric.
    blocks
        The blocks that this shard owns. Work is done in this order, always.
    max_bytes
        Blocks kept resident, in bytes: the first ones that fit. The others are read again for
        every product, one ahead of the arithmetic, so at most two more are in memory.
    """

    def __init__(
        self,
        read_block: Callable[[BlockIndex], NDArray[Any]],
        grid: BlockGrid,
        blocks: Sequence[BlockIndex],
        max_bytes: int,
    ) -> None:
        if not grid.symmetric:
            raise ValueError(f"expected a symmetric grid, got {grid}")
        self._read_block = read_block
        self._grid = grid
        self._blocks = tuple(BlockIndex(*block) for block in blocks)
        self._max_bytes = max_bytes
        self._resident: dict[BlockIndex, NDArray[Any]] = {}
        self.resident_bytes = 0

    def matmat(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Terms of K v for ``v`` of shape ``(n, k)``; the sum over all shards is the product.

        Shape ``(n, k)``: of a fair share of the blocks hardly a row is left out.
        """
        total = np.zeros(v.shape)
        # The transposed product wants rows of v^T contiguous: 2.3 GB/s against 1.9.
        vt = np.ascontiguousarray(v.T)
        for index, block in self._stream(self._blocks):
            rows, cols = self._grid.rows(index), self._grid.cols(index)
            across = None if self._grid.is_diagonal(index) else vt[:, rows]
            down, right = _multiply(block, v[cols], across)
            total[rows] += down
            if right is not None:
                total[cols] += right
        return total

    def diagonal(self) -> list[RowSegment]:
        """Diagonals of the diagonal blocks that are here, in float64."""
        wanted = [index for index in self._blocks if self._grid.is_diagonal(index)]
        return [
            (self._grid.rows(index).start, block.diagonal().astype(np.float64))
            for index, block in self._stream(wanted)
        ]

    def columns(self, indices: NDArray[np.intp]) -> list[ColumnPiece]:
        """Entries of the columns ``indices`` that are here; the shards' pieces do not overlap."""
        where = {
            part: np.flatnonzero(indices // self._grid.block_rows == part)
            for part in range(self._grid.shape[0])
        }
        wanted = [b for b in self._blocks if where[b.i].size or where[b.j].size]
        pieces: list[ColumnPiece] = []
        for index, block in self._stream(wanted):
            rows, cols = self._grid.rows(index), self._grid.cols(index)
            straight, mirrored = where[index.j], where[index.i]
            if straight.size:
                local = indices[straight] - cols.start
                pieces.append((rows.start, straight, block[:, local]))
            if mirrored.size and not self._grid.is_diagonal(index):
                local = indices[mirrored] - rows.start
                pieces.append((cols.start, mirrored, block[local].T))
        return pieces

    def _stream(self, wanted: Sequence[BlockIndex]) -> Iterator[tuple[BlockIndex, NDArray[Any]]]:
        """Blocks in the order wanted, the next one being read while this one is used."""
        if all(index in self._resident for index in wanted):
            yield from ((index, self._resident[index]) for index in wanted)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead: Future[NDArray[Any]] = reader.submit(self._load, wanted[0])
            for k, index in enumerate(wanted):
                block = ahead.result()
                if k + 1 < len(wanted):
                    ahead = reader.submit(self._load, wanted[k + 1])
                yield index, block

    def _load(self, index: BlockIndex) -> NDArray[Any]:
        if index in self._resident:
            return self._resident[index]
        block = self._read_block(index)
        expected = self._grid.block_shape(index)
        if block.shape != expected or block.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"block {index}: expected float32 or float64 of shape {expected}, "
                f"got {block.dtype} of shape {block.shape}"
            )
        if self.resident_bytes + block.nbytes <= self._max_bytes:
            self._resident[index] = block
            self.resident_bytes += block.nbytes
        return block


def _multiply(
    block: NDArray[Any], v: NDArray[np.float64], vt: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """``block @ v`` and, unless ``vt`` is None, ``(vt @ block).T``, summed in float64."""
    n_rows, n_cols = block.shape
    down = np.empty((n_rows, v.shape[1]))
    right = None if vt is None else np.zeros((vt.shape[0], n_cols))
    tile_rows = min(n_rows, max(LEAST_TILE_ROWS, TILE_BYTES // (8 * n_cols)))
    buffer = np.empty((tile_rows, n_cols))
    for start in range(0, n_rows, tile_rows):
        rows = slice(start, min(start + tile_rows, n_rows))
        tile = buffer[: rows.stop - rows.start]
        tile[...] = block[rows]
        down[rows] = tile @ v
        if right is not None and vt is not None:
            right += vt[:, rows] @ tile
    return down, None if right is None else right.T
