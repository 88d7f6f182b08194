"""Which rows of two sets are bitwise equal or opposite.

The kernel of such a pair is known exactly from one row; computed from two it would lose half the
digits of the derivative, because the arc cosine has an infinite slope at ±1. This looks at the
pairs of one block; the rows that a data set repeats are merged long before, by
``store.dataset.collapse``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Coincidence", "coincidence"]


@dataclass(frozen=True)
class Coincidence:
    """Pairs of rows, as two index arrays each; a zero row counts as equal to a zero row."""

    equal: tuple[np.ndarray, np.ndarray]
    opposite: tuple[np.ndarray, np.ndarray]


def coincidence(x1: np.ndarray, x2: np.ndarray | None = None) -> Coincidence:
    """All pairs of equal and of opposite rows; ``x2=None`` pairs ``x1`` with itself.

    Equality is that of numbers, so ``-0.0`` equals ``0.0``, and NaN equals nothing.

    Parameters
    ----------
    x1, x2 : (n1, ...) and (n2, ...)
        Samples of one shape and dtype, float32 or float64.
    """
    a = np.ascontiguousarray(x1).reshape(len(x1), -1)
    b = a if x2 is None else np.ascontiguousarray(x2).reshape(len(x2), -1)
    rows = a if x2 is None else np.concatenate([a, b])
    group, sign = _groups(rows)
    n = len(a)
    group1, sign1 = group[:n], sign[:n]
    group2, sign2 = (group1, sign1) if x2 is None else (group[n:], sign[n:])
    here, there = np.isin(group1, group2).nonzero()[0], np.isin(group2, group1).nonzero()[0]
    same_group = group1[here][:, None] == group2[there][None, :]
    same_sign = sign1[here][:, None] == sign2[there][None, :]
    i, j = (same_group & same_sign).nonzero()
    k, m = (same_group & ~same_sign).nonzero()
    return Coincidence((here[i], there[j]), (here[k], there[m]))


def _groups(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first row it equals up to sign, and its sign: (n,) and (n,)."""
    leading = np.take_along_axis(rows, (rows != 0).argmax(axis=1)[:, None], axis=1)
    sign = np.where(leading < 0, -1, 1).astype(rows.dtype)
    # + 0: no negative zeros, whose bits differ.
    positive = rows * sign + 0
    _, first, inverse = np.unique(_keys(positive), return_index=True, return_inverse=True)
    group = first[inverse]
    for i in (group != np.arange(len(rows))).nonzero()[0]:
        if not np.array_equal(positive[i], positive[group[i]]):
            # Another row with the same 64-bit key: it stands alone, and loses only accuracy.
            group[i] = i
    return group, sign[:, 0]


def _keys(rows: np.ndarray) -> np.ndarray:
    """One 64-bit number per row, the same for the same bits: (n,).

    A sum of the bits weighted by fixed random odd numbers, modulo 2^64.
    """
    bits = rows.view(np.dtype(f"u{rows.itemsize}"))
    weights = np.random.default_rng(0).integers(2**64, size=rows.shape[1], dtype=np.uint64)
    keys: np.ndarray = np.einsum("ij,j->i", bits, weights | np.uint64(1), dtype=np.uint64)
    return keys
