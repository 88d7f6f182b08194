"""Equal rows of a data set, found and merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntk_dist.errors import LabelError
from ntk_dist.store.dataset import row_pieces

__all__ = ["Collapsed", "average_targets", "collapse", "group_equal_rows", "hash_rows"]


@dataclass(frozen=True)
class Collapsed:
    """Which rows of a data set are equal."""

    unique: np.ndarray
    """Index of the first occurrence of every distinct row, ascending, ``(n_unique,)``."""
    inverse: np.ndarray
    """Which distinct row every row is, ``(n_rows,)``: ``x == x[unique][inverse]``."""
    counts: np.ndarray
    """How often every distinct row occurs, ``(n_unique,)``."""


def collapse(x: np.ndarray) -> Collapsed:
    """The distinct rows of ``x``: equal in every entry, where -0.0 equals 0.0.

    Beyond ``x`` this needs a few integers per row.
    """
    return group_equal_rows(x, hash_rows(x))


def group_equal_rows(x: np.ndarray, hashes: np.ndarray) -> Collapsed:
    """The distinct rows of ``x``, given hashes that may collide but never part equal rows."""
    first = np.arange(len(x))  # of every row, the first row that equals it
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(hashes[order])))
    sizes = np.diff(np.append(starts, len(x)))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        leaders: list[int] = []
        for row in order[start : start + size]:
            same = next((k for k in leaders if np.array_equal(x[k], x[row])), None)
            if same is None:
                leaders.append(int(row))
            else:
                first[row] = same
    unique, inverse, counts = np.unique(first, return_inverse=True, return_counts=True)
    return Collapsed(unique, inverse, counts)


def hash_rows(x: np.ndarray) -> np.ndarray:
    """One integer per row, ``(n_rows,)``, the same for equal rows; differs between processes."""
    hashes = np.empty(len(x), np.int64)
    for piece in row_pieces(x):
        rows = _without_negative_zeros(x[piece])
        hashes[piece] = [hash(row.tobytes()) for row in rows]
    return hashes


def average_targets(y: np.ndarray, collapsed: Collapsed) -> np.ndarray:
    r"""Mean target of every distinct row, ``(n_unique,)`` or ``(n_unique, n_targets)``, float64.

    With :math:`K = E K_u E^T`, E the 0/1 matrix that repeats distinct rows,
    :math:`K^+ y` predicts as :math:`K_u^{-1} E^+ y` does, and :math:`E^+ y` is this mean.

    Raises
    ------
    LabelError
        There is not one target per row.
    """
    n = len(collapsed.inverse)
    if len(y) != n:
        raise LabelError(f"expected one target for each of {n} rows, got {len(y)}")
    sums = np.zeros((len(collapsed.unique), *y.shape[1:]), np.float64)
    np.add.at(sums, collapsed.inverse, y)
    means: np.ndarray = sums / collapsed.counts.reshape(-1, *[1] * (y.ndim - 1))
    return means


def _without_negative_zeros(x: np.ndarray) -> np.ndarray:
    return x + x.dtype.type(0) if x.dtype.kind in "fc" else x
