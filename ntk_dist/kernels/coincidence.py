"""Which rows of two sets are bitwise equal or opposite.

The kernel of such a pair is known exactly from one row; computed from two it would lose half the
digits of the derivative, because the arc cosine has an infinite slope at ±1. This looks at the
pairs of one block; the rows that a data set repeats are merged long before, by
``store.repeats.collapse``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Coincidence", "coincidence", "row_keys"]

PIECE_BYTES = 2**17
"""Rows are looked at this much at a time, so that the integers made of them stay in L2."""


@dataclass(frozen=True)
class Coincidence:
    """Pairs of rows, as two index arrays each; a zero row counts as equal to a zero row."""

    equal: tuple[np.ndarray, np.ndarray]
    opposite: tuple[np.ndarray, np.ndarray]


def coincidence(
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    keys1: np.ndarray | None = None,
    keys2: np.ndarray | None = None,
) -> Coincidence:
    """All pairs of equal and of opposite rows; ``x2=None`` pairs ``x1`` with itself.

    Equality is that of numbers, so ``-0.0`` equals ``0.0``, and NaN equals nothing.

    Parameters
    ----------
    x1, x2 : (n1, ...) and (n2, ...)
        Samples of one shape and dtype, float32 or float64.
    keys1, keys2 : (n1,) and (n2,), optional
        What ``row_keys`` gave for ``x1`` and ``x2``; made here if None.
    """
    a = np.ascontiguousarray(x1).reshape(len(x1), -1)
    b = a[:0] if x2 is None else np.ascontiguousarray(x2).reshape(len(x2), -1)
    keys = row_keys(a) if keys1 is None else keys1
    if x2 is not None:
        keys = np.concatenate([keys, row_keys(b) if keys2 is None else keys2])
    group, sign = _groups(a, b, keys)
    n = len(a)
    group1, sign1 = group[:n], sign[:n]
    group2, sign2 = (group1, sign1) if x2 is None else (group[n:], sign[n:])
    here, there = np.isin(group1, group2).nonzero()[0], np.isin(group2, group1).nonzero()[0]
    same_group = group1[here][:, None] == group2[there][None, :]
    same_sign = sign1[here][:, None] == sign2[there][None, :]
    i, j = (same_group & same_sign).nonzero()
    k, m = (same_group & ~same_sign).nonzero()
    return Coincidence((here[i], there[j]), (here[k], there[m]))


def _groups(a: np.ndarray, b: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``a``, then of ``b``: the first row equal up to sign, and the sign to it.

    Rows are compared only where their keys meet.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    group = first[inverse]
    sign = np.ones(len(group), np.int8)

    def row(i: int) -> np.ndarray:
        one: np.ndarray = a[i] if i < len(a) else b[i - len(a)]
        return one

    for i in (group != np.arange(len(group))).nonzero()[0]:
        leader = row(group[i])
        if np.array_equal(row(i), leader):
            continue
        if np.array_equal(row(i), -leader):
            sign[i] = -1
        else:
            # Another row with the same 64-bit key: it stands alone, and loses only accuracy.
            group[i] = i
    return group, sign


def row_keys(x: np.ndarray) -> np.ndarray:
    """One 64-bit number per row, the same for rows that are equal up to sign: (n,).

    The entries' magnitudes as integers, with their signs and weighted by fixed random odd numbers,
    add up modulo 2^64 to the key or, for the opposite row, to its negative.

    Parameters
    ----------
    x : (n, ...)
        Samples, float32 or float64.
    """
    rows = np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))
    weights = np.random.default_rng(0).integers(2**64, size=rows.shape[1], dtype=np.uint64)
    weights |= np.uint64(1)
    keys = np.empty(len(rows), np.uint64)
    integer = np.dtype(f"i{rows.itemsize}").type
    step = max(1, PIECE_BYTES // max(1, rows.shape[1] * rows.itemsize))
    for piece in (slice(start, start + step) for start in range(0, len(rows), step)):
        bits = rows[piece].view(integer)
        signs = bits >> integer(8 * rows.itemsize - 1)  # 0, or -1 in every bit
        terms = (bits & np.iinfo(integer).max).astype(np.int64, copy=False)
        # Small integers in float64 end in 44 zero bits or more, which a product keeps: without the
        # upper half in the lower one their keys would have 20 bits, and collide.
        terms ^= terms >> 32
        terms = (terms ^ signs) - signs  # the negative where the sign is -1
        np.einsum("ij,j->i", terms.view(np.uint64), weights, out=keys[piece])
    return np.minimum(keys, -keys)
