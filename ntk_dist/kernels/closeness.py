"""Which rows of two sets are so nearly equal or opposite that float32 planes are not enough."""

from __future__ import annotations

import numpy as np

__all__ = ["close_pairs", "search_bytes"]

CLOSE = 0.999
"""Cosine between samples beyond which float32 planes lose more than 1e-6 of the NTK: the slope of
the arc cosine turns a rounding of 6e-8 into 6e-8 / 2π√g, with g = 1 - 0.999."""


def close_pairs(x1: np.ndarray, x2: np.ndarray | None) -> dict[int, np.ndarray]:
    """For each row of ``x1``, which rows of ``x2`` are so near that float32 is not enough for them.

    Equal and opposite rows are not among them: their kernel is known. ``x2=None`` pairs ``x1`` with
    itself, and each pair is named once.
    """
    a = _directions(x1)
    b = a if x2 is None else _directions(x2)
    cosines = np.abs(a @ b.T)
    near: dict[int, np.ndarray] = {}
    for i in (cosines > CLOSE).any(axis=1).nonzero()[0]:
        columns = (cosines[i] > CLOSE).nonzero()[0]
        if x2 is None:
            columns = columns[columns > i]
        others = (x1 if x2 is None else x2)[columns]
        axes = tuple(range(1, others.ndim))
        unknown = (others != x1[i]).any(axes) & (others != -x1[i]).any(axes)
        if unknown.any():
            near[int(i)] = columns[unknown]
    return near


def search_bytes(n1: int, n2: int, input_size: int) -> int:
    """Working memory of ``close_pairs``: rows, their directions and squares; twice the cosines."""
    return np.float32().itemsize * (3 * (n1 + n2) * input_size + 2 * n1 * n2)


def _directions(x: np.ndarray) -> np.ndarray:
    """Samples as float32 rows of length 1, or 0."""
    rows = x.reshape(len(x), -1).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = np.zeros_like(rows)
    np.divide(rows, lengths, out=directions, where=lengths > 0)
    return directions
