"""One block, or the statistics of some rows, on this device, in sub-batches of bounded memory.

The whole-block call ``kernel.block(x1, x2)`` is the plain reference; sub-batches must give the
same numbers. How many rows go into each, :mod:`~ntk_dist.gram.cut` says.
"""

from __future__ import annotations

import numpy as np

from ntk_dist.gram.cut import split_block, statistics_rows
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.statistics import Statistics

__all__ = ["compute_block", "compute_statistics"]


def compute_statistics(kernel: Kernel, x: np.ndarray, *, pad_rows: int | None = None) -> Statistics:
    """What every block needs to know of each of some samples alone, in bounded memory.

    Samples are evaluated so many at a time as the cache holds: a function of sizes alone, because
    how they are batched shows in the last bits.

    Parameters
    ----------
    kernel
        What number belongs to a pair.
    x
        Inputs of shape ``(n, *input_shape)``.
    pad_rows
        As if there were this many, so that the last batch of a data set shares the compiled
        programs of the others; None rounds up a little.
    """
    shape = x.shape[1:]
    kernel.check(shape)
    if not len(x):
        return kernel.statistics(x)
    step = statistics_rows(kernel, shape, len(x), pad_rows)
    parts = []
    for start in range(0, len(x), step):
        batch = x[start : start + step]
        parts.append(kernel.statistics(batch[_repeat_last(len(batch), step)])[: len(batch)])
    return parts[0] if len(parts) == 1 else Statistics.concatenate(parts)


def compute_block(
    kernel: Kernel,
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    statistics1: Statistics | None = None,
    statistics2: Statistics | None = None,
    *,
    max_bytes: int,
    pad_rows: int | None = None,
) -> dict[str, np.ndarray]:
    """The kernel between two sets of inputs, in bounded memory.

    Parameters
    ----------
    kernel
        What number belongs to a pair.
    x1, x2
        Inputs of shape ``(n1, *input_shape)`` and ``(n2, *input_shape)``; ``x2=None`` states that
        both sides are ``x1``: the block is then symmetric, exactly, at half the cost.
    statistics1, statistics2
        What ``compute_statistics`` gave for either; computed here if None.
    max_bytes
        Most working memory beyond inputs and output, in bytes; the recursion on CPU takes what
        fits the cache.
    pad_rows
        Pad both sides to this many rows where evaluations are compiled by shape, so that the
        ragged blocks of a grid share that of the whole ones; None rounds each side up a little.

    Returns
    -------
    dict
        Kernel name to array of shape ``(n1, n2)`` in the kernel's dtype.

    Raises
    ------
    ArchitectureError, DataShapeError
        The inputs do not fit the architecture, or each other.
    MemoryBudgetError
        ``max_bytes`` does not hold a single pair.
    """
    kernel.check(x1.shape[1:])
    n1, n2 = len(x1), len(x1) if x2 is None else len(x2)
    if not (n1 and n2):
        return kernel.block(x1, x2)
    split = split_block(
        kernel, x1.shape[1:], n1, n2, max_bytes=max_bytes, square=x2 is None, pad_rows=pad_rows
    )
    rows1, rows2 = split.rows1, split.rows2
    if statistics1 is None:
        statistics1 = compute_statistics(kernel, x1, pad_rows=pad_rows)
    if x2 is None:
        right, statistics2 = x1, statistics1
    else:
        right = x2
        statistics2 = statistics2 or compute_statistics(kernel, x2, pad_rows=pad_rows)
    out = {name: np.empty((n1, n2), kernel.dtype) for name in kernel.kernels}
    for start1 in range(0, n1, rows1):
        a, a_statistics = _batch(x1, statistics1, start1, rows1, padded=split.padded)
        for start2 in range(start1 if x2 is None else 0, n2, rows2):
            if x2 is None and start2 == start1:
                part = kernel.block(a, None, a_statistics, threads=split.threads)
            else:
                b, b_statistics = _batch(right, statistics2, start2, rows2, padded=split.padded)
                part = kernel.block(a, b, a_statistics, b_statistics, split.threads)
            if (rows1, rows2) == (n1, n2):
                return part  # whole: a copy of 4096 x 4096 would take 64 MiB
            here, there = slice(start1, start1 + rows1), slice(start2, start2 + rows2)
            for name, values in part.items():
                values = values[: n1 - start1, : n2 - start2]
                out[name][here, there] = values
                if x2 is None and start2 > start1:
                    out[name][there, here] = values.T
    return out


def _batch(
    x: np.ndarray, statistics: Statistics, start: int, rows: int, *, padded: bool
) -> tuple[np.ndarray, Statistics]:
    """``rows`` samples and their statistics; the last ones may be fewer, if not ``padded``."""
    x, statistics = x[start : start + rows], statistics[start : start + rows]
    if padded and len(x) < rows:
        indices = _repeat_last(len(x), rows)
        return x[indices], statistics[indices]
    return x, statistics


def _repeat_last(n: int, rows: int) -> slice | np.ndarray:
    """Indices of ``n`` rows, the last one repeated until there are ``rows``."""
    return slice(None) if n == rows else np.minimum(np.arange(rows), n - 1)
