"""One worker's share of a symmetric Gram matrix: keeps what fits, reads the rest as it goes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_dist.events import MemoryEvent, report
from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.gram.product import InOrder, Panels, multiply_strip, strips
from ntk_dist.gram.read_ahead import ReadAhead
from ntk_dist.kernels.threads import in_threads
from ntk_dist.settings import get_settings

__all__ = ["MOST_STREAMED", "ColumnPiece", "GramShard", "RowSegment"]

T = TypeVar("T")

RowSegment = tuple[int, NDArray[np.float64]]
"""First row, and values for the rows from there on."""
ColumnPiece = tuple[int, NDArray[np.intp], NDArray[Any]]
"""First row, positions within the indices asked for, and values in the blocks' own dtype."""

MOST_STREAMED = 6
"""Blocks in memory that are being read, wait, or are in use and not kept: three are read, one or
two are multiplied by, one waits."""
LEAST_STREAMED = 2
"""One is read while the other is used, whatever the budget."""
STREAMED_PART = 4
"""At most this part of the budget, one fourth, is for them."""


class GramShard:
    """One shard's part of a symmetric Gram matrix, as terms for the caller to add.

    Block (i, j) above the diagonal is read once per product and serves both K_ij v_j and
    K_ij^T v_i. Sums run in float64 whatever the blocks are stored in: float32 sums stall the true
    residual of an ill-conditioned system near 1e-5. They run in the order of the blocks, whichever
    thread is first and wherever a block comes from: the bits of an answer depend on neither.

    Of a diagonal or of columns, answers hold only the rows that the shard's blocks touch.

    Parameters
    ----------
    read_block
        Gives a block of ``grid.block_shape(index)`` in float32 or float64; called from several
        threads at once.
    grid
        The cut; symmetric.
    blocks
        The blocks that this shard owns. Work is done in this order, always.
    max_bytes
        Memory for blocks, in bytes. If they all fit, they are all kept after the first read. If
        not, some are read again for every product, and those that are kept lie evenly between
        them, so that the disk is busy all the time. At most ``streamed_blocks`` of the others
        are in memory; only these, two at the least, may go beyond a budget that is too small.
    name
        What it is called where it says how much memory it holds: one worker may have several.
    """

    def __init__(
        self,
        read_block: Callable[[BlockIndex], NDArray[Any]],
        grid: BlockGrid,
        blocks: Sequence[BlockIndex],
        max_bytes: int,
        name: str = "shard",
    ) -> None:
        if not grid.symmetric:
            raise ValueError(f"expected a symmetric grid, got {grid}")
        self._read_block = read_block
        self._grid = grid
        self._blocks = tuple(BlockIndex(*block) for block in blocks)
        self._max_bytes = max_bytes
        self._name = name
        self._resident: dict[BlockIndex, NDArray[Any]] = {}
        self._to_keep: frozenset[BlockIndex] | None = None
        self.resident_bytes = 0
        # Of float64, for nobody knows yet: a block of float32 would allow for two.
        largest = 8 * max(map(self._entries, self._blocks), default=1)
        self.streamed_blocks = min(
            MOST_STREAMED, max(LEAST_STREAMED, max_bytes // STREAMED_PART // largest)
        )
        """Blocks at most in memory beyond those that are kept."""

    def matmat(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Terms of K v for ``v`` of shape ``(n, k)``; the sum over all shards is the product.

        Shape ``(n, k)``: of a fair share of the blocks hardly a row is left out.
        """
        v = np.ascontiguousarray(v, np.float64)
        sums = _Sums(self._grid)
        with self._reading(self._blocks) as ahead:

            def add(terms: _Terms) -> None:
                sums.add(terms)
                if terms.last:
                    ahead.finish(terms.index)

            ordered = InOrder(add)

            def work(pieces: Iterator[_Piece]) -> None:
                try:
                    for piece in pieces:
                        number, terms = piece.number, piece.multiply()
                        del piece  # and with it the block, before another one may be read
                        ordered.put(number, terms)
                except BaseException:
                    ahead.stop()
                    raise

            in_threads(get_settings().threads, work, self._pieces(v, ahead))
        return sums.whole(v.shape[1])

    def diagonal(self) -> list[RowSegment]:
        """Diagonals of the diagonal blocks that are here, in float64."""

        def use(index: BlockIndex, block: NDArray[Any]) -> RowSegment:
            return self._grid.rows(index).start, block.diagonal().astype(np.float64)

        return self._each([index for index in self._blocks if self._grid.is_diagonal(index)], use)

    def columns(self, indices: NDArray[np.intp]) -> list[ColumnPiece]:
        """Entries of the columns ``indices`` that are here; the shards' pieces do not overlap."""
        where = {
            part: np.flatnonzero(indices // self._grid.block_rows == part)
            for part in range(self._grid.shape[0])
        }

        def use(index: BlockIndex, block: NDArray[Any]) -> list[ColumnPiece]:
            rows, cols = self._grid.rows(index), self._grid.cols(index)
            straight, mirrored = where[index.j], where[index.i]
            pieces: list[ColumnPiece] = []
            if straight.size:
                local = indices[straight] - cols.start
                pieces.append((rows.start, straight, block[:, local]))
            if mirrored.size and not self._grid.is_diagonal(index):
                local = indices[mirrored] - rows.start
                pieces.append((cols.start, mirrored, block[local].T))
            return pieces

        wanted = [b for b in self._blocks if where[b.i].size or where[b.j].size]
        return [piece for pieces in self._each(wanted, use) for piece in pieces]

    def _pieces(self, v: NDArray[np.float64], ahead: ReadAhead) -> Iterator[_Piece]:
        """Strips of all blocks, in their order; none but them holds a block."""
        panels: dict[int, Panels] = {}
        count = itertools.count()
        for index in self._blocks:
            block = self._next(index, ahead)
            if block is None:
                return
            if index.j not in panels:
                panels[index.j] = Panels(v[self._grid.cols(index)])
            u = None if self._grid.is_diagonal(index) else v[self._grid.rows(index)]
            n_rows = len(block)
            pieces = deque(
                _Piece(next(count), index, rows, rows.stop == n_rows, block, panels[index.j], u)
                for rows in strips(n_rows)
            )
            del block
            while pieces:
                yield pieces.popleft()

    def _each(
        self, wanted: Sequence[BlockIndex], use: Callable[[BlockIndex, NDArray[Any]], T]
    ) -> list[T]:
        """What ``use`` says of some blocks, one after another."""
        answers = []
        with self._reading(wanted) as ahead:
            for index in wanted:
                block = self._next(index, ahead)
                assert block is not None
                answers.append(use(index, block))
                del block
                ahead.finish(index)
        return answers

    @contextmanager
    def _reading(self, wanted: Sequence[BlockIndex]) -> Iterator[ReadAhead]:
        """Those that are wanted and not resident, being read."""
        missing = [index for index in wanted if index not in self._resident]
        before = self.resident_bytes
        with ReadAhead(self._load, missing, self.streamed_blocks) as ahead:
            yield ahead
        if self.resident_bytes != before:
            holder = f"{self._name} of {self._blocks[0]}"
            report(MemoryEvent(n_bytes=self.resident_bytes, holder=holder))

    def _next(self, index: BlockIndex, ahead: ReadAhead) -> NDArray[Any] | None:
        """The next of the blocks that are wanted; None if nobody wants it any more."""
        block = ahead.take() if index in ahead else self._resident[index]
        if block is not None:
            self._keep(index, block)
        return block

    def _load(self, index: BlockIndex) -> NDArray[Any]:
        block = self._read_block(index)
        expected = self._grid.block_shape(index)
        if block.shape != expected or block.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"block {index}: expected float32 or float64 of shape {expected}, "
                f"got {block.dtype} of shape {block.shape}"
            )
        return np.require(block, requirements=["C_CONTIGUOUS", "ALIGNED"])

    def _keep(self, index: BlockIndex, block: NDArray[Any]) -> None:
        """Keep a block if it is one of those that the budget is for."""
        if self._to_keep is None:
            self._to_keep = self._chosen(block.itemsize)
        if index in self._to_keep and index not in self._resident:
            self._resident[index] = block
            self.resident_bytes += block.nbytes

    def _chosen(self, itemsize: int) -> frozenset[BlockIndex]:
        """The blocks to keep: all, or as many as fit, evenly spread in the order of work."""
        sizes = [itemsize * self._entries(index) for index in self._blocks]
        total, room = sum(sizes), self._max_bytes
        if total > room:
            room = max(0, room - self.streamed_blocks * max(sizes))
        kept: list[BlockIndex] = []
        kept_bytes = seen = 0
        for index, size in zip(self._blocks, sizes, strict=True):
            seen += size
            # The share of the budget that is due by now.
            if (kept_bytes + size) * total <= min(room, total) * seen:
                kept.append(index)
                kept_bytes += size
        return frozenset(kept)

    def _entries(self, index: BlockIndex) -> int:
        n_rows, n_cols = self._grid.block_shape(index)
        return n_rows * n_cols


@dataclass(frozen=True)
class _Terms:
    """What one strip of a block adds to the sums."""

    index: BlockIndex
    rows: slice
    last: bool
    """Whether the strip is the last one of its block."""
    down: NDArray[np.float64]
    across: NDArray[np.float64] | None


@dataclass(frozen=True)
class _Piece:
    """A strip of a block, with what it is multiplied by."""

    number: int
    index: BlockIndex
    rows: slice
    last: bool
    block: NDArray[Any]
    v: Panels
    u: NDArray[np.float64] | None
    """For all rows of the block."""

    def multiply(self) -> _Terms:
        """Both products."""
        u = None if self.u is None else self.u[self.rows]
        products = multiply_strip(self.block, self.rows, self.v, u)
        return _Terms(self.index, self.rows, self.last, *products)


class _Sums:
    """Terms of a product, added up for each part of the rows."""

    def __init__(self, grid: BlockGrid) -> None:
        self._grid = grid
        self._down: dict[int, NDArray[np.float64]] = {}
        self._across: dict[int, NDArray[np.float64]] = {}

    def add(self, terms: _Terms) -> None:
        """Add those of one strip."""
        i, j = terms.index
        if i not in self._down:
            n_rows, _ = self._grid.block_shape(terms.index)
            self._down[i] = np.zeros((n_rows, terms.down.shape[1]))
        self._down[i][terms.rows] += terms.down
        if terms.across is not None and j in self._across:
            self._across[j] += terms.across
        elif terms.across is not None:
            self._across[j] = terms.across

    def whole(self, targets: int) -> NDArray[np.float64]:
        """The sums of all rows, zeros where there are no terms: (n, targets)."""
        total = np.zeros((self._grid.n_rows, targets))
        for part in self._down.keys() | self._across.keys():
            start = part * self._grid.block_rows
            sums = self._of(part, targets)
            total[start : start + len(sums)] = sums
        return total

    def _of(self, part: int, targets: int) -> NDArray[np.float64]:
        down, across = self._down.get(part), self._across.get(part)
        if across is None:
            assert down is not None
            return down
        n = min(self._grid.block_rows, self._grid.n_rows - part * self._grid.block_rows)
        mirrored = Panels.unpacked(across, n, targets)
        return mirrored if down is None else down + mirrored
