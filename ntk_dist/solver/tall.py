"""Tall matrices, n x rank: kept in float32 or float64, multiplied in float64 a few rows at a time.

A preconditioner of a million rows and rank 1000 is 8 GB in float64, all of it in one process. Kept
in the precision of the blocks it approximates it is 4 GB, and twice the rank fits. What BLAS
multiplies stays float64: a tile of rows is cast on the way through the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["row_tiles", "times", "transposed_times", "turn"]

Array = NDArray[np.float64]
Tall = NDArray[Any]
"""Shape ``(n, rank)``, float32 or float64."""

TILE_BYTES = 2**18
"""Of a float64 tile: it stays in the L2 cache."""
LEAST_TILE_ROWS = 32
DEEP_TILE_ROWS = 512
"""Where a tile meets a square of its own width, BLAS packs all of the square for each tile: at rank
1000, 512 rows took a third of the time of 32."""


def row_tiles(n: int, width: int, across: int = 1) -> Iterator[slice]:
    """Ranges of rows, in order, of a float64 tile of ``width`` columns that fits the cache.

    More rows where each meets ``across`` columns of something else, and that is worth it.
    """
    rows = max(LEAST_TILE_ROWS, TILE_BYTES // (8 * max(width, 1)), min(across, DEEP_TILE_ROWS))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def times(tall: Tall, small: Array) -> Array:
    """The product ``tall @ small`` in float64, of shape ``(n, k)``."""
    if tall.dtype == np.float64:
        whole: Array = tall @ small
        return whole
    product = np.empty((len(tall), small.shape[1]))
    for rows in row_tiles(len(tall), tall.shape[1], small.shape[1]):
        product[rows] = tall[rows].astype(np.float64) @ small
    return product


def transposed_times(tall: Tall, v: Tall) -> Array:
    """The product ``tall.T @ v`` in float64, of shape ``(rank, k)``."""
    if tall.dtype == v.dtype == np.float64:
        whole: Array = tall.T @ v
        return whole
    product = np.zeros((tall.shape[1], v.shape[1]))
    for rows in row_tiles(len(tall), tall.shape[1], v.shape[1]):
        product += tall[rows].astype(np.float64).T @ v[rows]
    return product


def turn(tall: Tall, small: Array) -> Tall:
    """``tall @ small``, written over the first columns of ``tall`` and returned as a view of them.

    Parameters
    ----------
    tall : (n, rank)
        Is lost.
    small : (rank, k)
        With k at most rank.
    """
    kept = small.shape[1]
    for rows in row_tiles(len(tall), tall.shape[1], kept):
        tall[rows, :kept] = tall[rows].astype(np.float64) @ small
    return tall[:, :kept]
