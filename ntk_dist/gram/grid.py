"""How an n x m Gram matrix is cut into blocks: integers only.

Blocks are ``block_rows`` on a side except at the ragged lower and right edges. A symmetric Gram
has only the blocks on and above the diagonal; block (i, j) with i < j also stands for its
transpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["BlockGrid", "BlockIndex"]


class BlockIndex(NamedTuple):
    """Which block: counted in blocks, not rows."""

    i: int
    j: int

    def __str__(self) -> str:
        return f"({self.i}, {self.j})"


@dataclass(frozen=True)
class BlockGrid:
    """A cut of an ``n_rows`` x ``n_cols`` matrix."""

    n_rows: int
    n_cols: int
    block_rows: int
    """Side of a block, in rows."""
    symmetric: bool = False
    """Only the upper triangle exists; needs ``n_rows == n_cols``."""

    def __post_init__(self) -> None:
        if min(self.n_rows, self.n_cols, self.block_rows) < 1:
            raise ValueError(f"expected positive sizes, got {self}")
        if self.symmetric and self.n_rows != self.n_cols:
            raise ValueError(f"expected a square matrix when symmetric, got {self}")

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks down and across."""
        return -(-self.n_rows // self.block_rows), -(-self.n_cols // self.block_rows)

    @property
    def n_blocks(self) -> int:
        """How many blocks there are to compute."""
        down, across = self.shape
        return down * (down + 1) // 2 if self.symmetric else down * across

    def __iter__(self) -> Iterator[BlockIndex]:
        down, across = self.shape
        for i in range(down):
            for j in range(i if self.symmetric else 0, across):
                yield BlockIndex(i, j)

    def __contains__(self, index: object) -> bool:
        if not (isinstance(index, tuple) and len(index) == 2):
            return False
        i, j = index
        down, across = self.shape
        return 0 <= i < down and 0 <= j < across and not (self.symmetric and j < i)

    def rows(self, index: BlockIndex) -> slice:
        """Rows of the matrix that the block covers."""
        return self._cut(index.i, self.n_rows)

    def cols(self, index: BlockIndex) -> slice:
        """Columns of the matrix that the block covers."""
        return self._cut(index.j, self.n_cols)

    def block_shape(self, index: BlockIndex) -> tuple[int, int]:
        """Rows and columns of one block, smaller at the edges."""
        # Asked of every block of a plan, and of those there may be a million: no slices.
        side = self.block_rows
        return min(side, self.n_rows - index.i * side), min(side, self.n_cols - index.j * side)

    def is_diagonal(self, index: BlockIndex) -> bool:
        """Whether the block lies on the diagonal of a symmetric Gram."""
        return self.symmetric and index.i == index.j

    def _cut(self, k: int, n: int) -> slice:
        return slice(k * self.block_rows, min((k + 1) * self.block_rows, n))
