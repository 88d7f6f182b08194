"""One block on this device, in sub-batches that fit a memory budget.

The whole-block call ``kernel.block(x1, x2)`` is the plain reference; sub-batches must give the
same numbers. What the fused engine computes is cut only where memory ends: it goes through the
pairs in cache-sized words by itself and knows no shapes. For the reference recursion sub-batches
fit the cache of a CPU, and all of one call have one shape (the last ones are padded with a repeated
row), rounded up, so that compilation happens once per job and not once per edge.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from ntk_dist.errors import MemoryBudgetError
from ntk_dist.gram.plan import format_bytes
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.statistics import Statistics

__all__ = ["compute_block", "sub_batch_bytes"]

Batch: TypeAlias = tuple[int, np.ndarray, Statistics]
"""First row, inputs and their statistics."""

CACHE_BYTES = 16 * 2**20
"""Working memory of a sub-batch on CPU, where more would be allowed: half of a 32 MiB last-level
cache.
Four 3x3 convolutions on 8 x 8 images ran at 62,000 entries/s with 8 to 32 MiB and at 15,000 with
256 MiB (two cores)."""


def compute_block(
    kernel: Kernel,
    x1: np.ndarray,
    x2: np.ndarray | None = None,
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
    max_bytes
        Most working memory beyond inputs and output, in bytes; on CPU what fits the cache is
        used.
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
    shape = x1.shape[1:]
    if fused := kernel.path(shape).fused:
        rows1, rows2 = _most_rows(kernel, shape, n1, n2, max_bytes, square=x2 is None)
    else:
        rows1, rows2 = _batch_rows(
            kernel.block_bytes(shape, 1, 1),
            pad_rows or _round_up(n1),
            pad_rows or _round_up(n2),
            max_bytes,
            square=x2 is None,
            wanted_bytes=sub_batch_bytes(device_kind(), max_bytes),
        )
    out = {name: np.empty((n1, n2), kernel.dtype) for name in kernel.kernels}
    batches = _slices if fused else _padded
    batches1 = batches(kernel, x1, rows1, max_bytes)
    batches2 = batches1 if x2 is None else batches(kernel, x2, rows2, max_bytes)
    for start1, a, a_statistics in batches1:
        stop1 = min(start1 + rows1, n1)
        for start2, b, b_statistics in batches2:
            if x2 is None and start2 < start1:
                continue
            stop2 = min(start2 + rows2, n2)
            if x2 is None and start2 == start1:
                part = kernel.block(a, None, a_statistics)
            else:
                part = kernel.block(a, b, a_statistics, b_statistics)
            for name, values in part.items():
                values = values[: stop1 - start1, : stop2 - start2]
                out[name][start1:stop1, start2:stop2] = values
                if x2 is None and start2 > start1:
                    out[name][start2:stop2, start1:stop1] = values.T
    return out


def sub_batch_bytes(device: str, max_bytes: int) -> int:
    """Working memory of a sub-batch of the recursion, in bytes.

    Parameters
    ----------
    device
        ``cpu``, ``gpu`` or ``tpu``, see ``device.device_kind``.
    max_bytes
        The most that is allowed.
    """
    # An accelerator has no cache to stay in, and thousands of threads to keep busy.
    return min(max_bytes, CACHE_BYTES) if device == "cpu" else max_bytes


def _padded(kernel: Kernel, x: np.ndarray, rows: int, max_bytes: int) -> list[Batch]:
    """Ranges of exactly ``rows`` rows, the last one padded."""
    del max_bytes  # a batch of pairs fits, and its statistics take less
    batches = []
    for start in range(0, len(x), rows):
        batch = _pad(x[start : start + rows], rows)
        batches.append((start, batch, kernel.statistics(batch)))
    return batches


def _slices(kernel: Kernel, x: np.ndarray, rows: int, max_bytes: int) -> list[Batch]:
    """Ranges of at most ``rows`` rows; their statistics take less than ``max_bytes`` at a time."""
    step = len(x)
    while step > 1 and kernel.statistics_bytes(x.shape[1:], step) > max_bytes:
        step = -(-step // 2)
    parts = []
    for start in range(0, len(x), step):
        batch = x[start : start + step]
        parts.append(kernel.statistics(_pad(batch, step))[: len(batch)])
    statistics = Statistics.concatenate(parts)
    starts = range(0, len(x), rows)
    return [(s, x[s : s + rows], statistics[s : s + rows]) for s in starts]


def _pad(batch: np.ndarray, rows: int) -> np.ndarray:
    """The batch with its last row repeated until there are ``rows``."""
    if len(batch) == rows:
        return batch
    padding = np.broadcast_to(batch[-1:], (rows - len(batch), *batch.shape[1:]))
    return np.concatenate([batch, padding])


def _most_rows(
    kernel: Kernel, shape: tuple[int, ...], n1: int, n2: int, max_bytes: int, *, square: bool
) -> tuple[int, int]:
    """Rows and columns of the largest parts that fit, halving the longer side."""
    rows1, rows2 = n1, n2
    while (needed := kernel.block_bytes(shape, rows1, rows2)) > max_bytes:
        if rows1 == rows2 == 1:
            raise _no_room(needed, max_bytes)
        longer = max(rows1, rows2)
        rows1 = -(-rows1 // 2) if square or rows1 == longer else rows1
        rows2 = -(-rows2 // 2) if square or rows2 == longer else rows2
    return rows1, rows2


def _no_room(needed: int, max_bytes: int) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"one pair of inputs needs {format_bytes(needed)} of working memory, got "
        f"{format_bytes(max_bytes)}: raise NTK_DIST_BLOCK_MAX_BYTES"
    )


def _batch_rows(
    bytes_per_pair: int, n1: int, n2: int, max_bytes: int, *, square: bool, wanted_bytes: int
) -> tuple[int, int]:
    """Rows and columns of a sub-batch: as square as the budget and the sizes allow."""
    if bytes_per_pair > max_bytes:
        raise _no_room(bytes_per_pair, max_bytes)
    pairs = max(1, wanted_bytes // bytes_per_pair)
    side = math.isqrt(pairs)
    rows1 = _split(n1, min(n1, side))
    rows2 = _split(n2, min(n2, pairs // rows1))
    rows1 = _split(n1, min(n1, pairs // rows2))
    return (min(rows1, rows2),) * 2 if square else (rows1, rows2)


def _split(n: int, most: int) -> int:
    """Rows of equal batches of at most ``most`` rows: 1000 rows by 630 are two of 500."""
    return -(-n // -(-n // most))


def _round_up(n: int) -> int:
    """``n`` rounded up to one of four sizes an octave: at most 12.5 % waste, few compilations."""
    step = max(8, 1 << max(0, (n - 1).bit_length() - 3))
    return -(-n // step) * step
