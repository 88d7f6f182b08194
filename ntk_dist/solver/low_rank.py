"""What every approximation of a Gram matrix by a low rank begins with and hands back."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_dist.errors import BreakdownError, InvalidInputError, MemoryBudgetError
from ntk_dist.solver.operators import AbstractOperator
from ntk_dist.units import format_bytes

__all__ = [
    "LowRank",
    "affordable_rank",
    "building_bytes",
    "gram_diagonal",
    "require_rank",
    "require_room",
]

MOST_RANK = 1000
"""Past it the steps saved are few (on 4000 CIFAR-10 images 76, 48 and 36 steps at rank 100, 400
and 1000), and building grows with the square of the rank."""
TILES_BYTES = 2 * 2**20
"""Tiles of tall matrices on their way through the cache, a handful at a time."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """K approximated by F F^T, which exceeds K by no more than rounding and ``shift``."""

    factor: NDArray[Any]
    """F, of shape ``(n, rank)``, in the precision of the entries of K."""
    residual: NDArray[np.float64]
    """Diagonal of K - F F^T, of shape ``(n,)``, never negative."""
    passes: int
    """How often the blocks of K were gone through."""
    pivots: NDArray[np.intp]
    """Rows chosen, in order, where F comes from columns of K; otherwise none."""
    shift: float = 0.0
    """What K was shifted by before it was approximated: F F^T is at most K + shift I."""

    @property
    def rank(self) -> int:
        """Columns of the factor; fewer than asked for when K ran out."""
        return int(self.factor.shape[1])


def require_rank(rank: int, n: int) -> None:
    """Refuse a rank that no n x n matrix has.

    Raises
    ------
    InvalidInputError
        It is negative or more than n.
    """
    if not 0 <= rank <= n:
        raise InvalidInputError(
            f"expected a preconditioner rank from 0 to n = {n}, got {rank}; lower the rank"
        )


def gram_diagonal(operator: AbstractOperator) -> NDArray[np.float64]:
    """The operator's diagonal, if a Gram matrix can have it.

    Raises
    ------
    BreakdownError
        It is negative somewhere, or not finite.
    """
    diagonal = operator.diagonal()
    if not np.all(np.isfinite(diagonal)) or np.any(diagonal < 0):
        culprit = int(np.argmax(~(diagonal >= 0) | np.isinf(diagonal)))
        raise BreakdownError(
            f"expected a finite diagonal of at least 0, got {diagonal[culprit]} in row {culprit}; "
            "this is no Gram matrix: check the inputs and the kernel"
        )
    return diagonal


def building_bytes(n: int, rank: int, dtype: np.dtype[Any]) -> int:
    """Peak memory of this process while a preconditioner of so many rows is built, in bytes.

    The factor in the precision of the blocks, the columns it comes from as the workers send them
    and in float64; six rank x rank matrices of eigenvectors and work space; eight vectors; tiles.
    """
    return (2 * dtype.itemsize + 8) * n * rank + 6 * 8 * rank**2 + 8 * 8 * n + TILES_BYTES


def affordable_rank(n: int, max_bytes: int, dtype: np.dtype[Any]) -> int:
    """The rank to use when nobody said: min(n / 8, 1000, what fits ``max_bytes``).

    Raises
    ------
    MemoryBudgetError
        Not even rank 1 fits.
    """
    most = min(n // 8, MOST_RANK)
    require_room(n, min(most, 1), max_bytes, dtype)
    return _largest_rank(n, most, max_bytes, dtype)


def require_room(n: int, rank: int, max_bytes: int, dtype: np.dtype[Any]) -> None:
    """Refuse a rank that building would take too much memory for.

    Raises
    ------
    MemoryBudgetError
        Names the bytes needed and allowed, and the rank that fits, if one does.
    """
    needed = building_bytes(n, rank, dtype)
    if needed > max_bytes:
        fits = _largest_rank(n, rank, max_bytes, dtype)
        raise MemoryBudgetError(
            f"a preconditioner of rank {rank} needs {format_bytes(needed)} for {n} rows, got "
            f"{format_bytes(max_bytes)}: {f'lower the rank to {fits}, ' if fits else ''}raise "
            "NTK_DIST_PRECONDITIONER_MAX_BYTES, or use the preconditioner 'jacobi'"
        )


def _largest_rank(n: int, most: int, max_bytes: int, dtype: np.dtype[Any]) -> int:
    """The largest rank up to ``most`` that can be built in ``max_bytes``; 0 where none can."""
    ranks = range(most + 1)
    return bisect_right(ranks, max_bytes, lo=1, key=lambda r: building_bytes(n, r, dtype)) - 1
