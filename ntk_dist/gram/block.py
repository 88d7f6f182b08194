"""One block, or the statistics of some rows, on this device, in sub-batches of bounded memory.

The whole-block call ``kernel.block(x1, x2)`` is the plain reference; sub-batches must give the
same numbers. What a fused engine computes is cut only where memory ends: it goes through the pairs
in pieces that fit the cache by itself, and is compiled for no shape. For the reference recursion
sub-batches fit the cache of a CPU, and all of one call have one shape (the last ones are padded
with a repeated row), rounded up, so that compilation happens once per job and not once per edge.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from ntk_dist.errors import MemoryBudgetError
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.statistics import Statistics
from ntk_dist.settings import get_settings
from ntk_dist.units import format_bytes

__all__ = [
    "Split",
    "compute_block",
    "compute_statistics",
    "split_block",
    "sub_batch_bytes",
    "working_bytes",
]

CACHE_BYTES = 16 * 2**20
"""Working memory of the recursion on CPU, where more would be allowed: half of a 32 MiB last-level
cache. Four 3x3 convolutions on 8 x 8 images ran at 62,000 entries/s with 8 to 32 MiB and at 15,000
with 256 MiB (two cores)."""
ROOM_FOR_THREADS = (8, 4, 2, 1)
"""A part leaves room for the memory of so many threads, or of fewer where that is all that fits:
each takes 31 MB for Myrtle-5 on 32 x 32 images, and well below 1 MB where nothing is pooled."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """How a block is cut into parts."""

    rows1: int
    rows2: int
    threads: int | None
    """How many a fused engine uses; None for the recursion, which takes what JAX gives it."""
    padded: bool
    """Whether the last parts are filled up to the size of the others."""
    working_bytes: int
    """Peak memory of a part, beyond its samples and result."""


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
    few = 1 << (len(x) - 1).bit_length()  # a single prediction must not cost eight
    step = _statistics_rows(kernel, shape, pad_rows or min(few, _round_up(len(x))))
    parts = []
    for start in range(0, len(x), step):
        batch = x[start : start + step]
        parts.append(kernel.statistics(batch[_repeat_last(len(batch), step)])[: len(batch)])
    return parts[0] if len(parts) == 1 else Statistics.concatenate(parts)


def working_bytes(
    kernel: Kernel, input_shape: tuple[int, ...], block_rows: int, max_bytes: int
) -> int:
    """Peak memory of a block of so many rows and columns, and of their statistics.

    Beyond samples and results, in bytes; the same arithmetic that cuts them.

    Raises
    ------
    MemoryBudgetError
        ``max_bytes`` does not hold a single pair.
    """
    step = _statistics_rows(kernel, input_shape, block_rows)
    split = split_block(
        kernel,
        input_shape,
        block_rows,
        block_rows,
        max_bytes=max_bytes,
        square=False,
        pad_rows=block_rows,
    )
    return max(split.working_bytes, kernel.statistics_working_bytes(input_shape, step))


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


def split_block(
    kernel: Kernel,
    input_shape: tuple[int, ...],
    n1: int,
    n2: int,
    *,
    max_bytes: int,
    square: bool,
    pad_rows: int | None = None,
) -> Split:
    """How a block of ``n1`` by ``n2`` pairs is cut so that ``max_bytes`` hold each part of it.

    Rows depend on sizes and ``max_bytes`` alone and never on this machine's threads: where a block
    is cut shows in the last bits of a few entries, and a block computed again on another worker
    must repeat. It is threads that are left idle where their memory does not fit.

    Raises
    ------
    MemoryBudgetError
        ``max_bytes`` does not hold a single pair.
    """
    if not kernel.choice(input_shape).fused:
        n1, n2 = pad_rows or _round_up(n1), pad_rows or _round_up(n2)
        pair = kernel.recursion_bytes(input_shape)
        if (least := kernel.working_bytes(input_shape, 1, 1)) > max_bytes:
            raise _no_room(least, max_bytes)
        wanted = sub_batch_bytes(device_kind(), max_bytes - (least - pair))
        while True:
            rows1, rows2 = _batch_rows(pair, n1, n2, square=square, wanted_bytes=wanted)
            needs = kernel.working_bytes(input_shape, rows1, rows2)
            if needs <= max_bytes:
                return Split(rows1, rows2, None, padded=True, working_bytes=needs)
            wanted = wanted * 7 // 8  # their samples take some of it

    def needed(rows1: int, rows2: int, threads: int) -> int:
        return kernel.working_bytes(input_shape, rows1, rows2, threads)

    room_for = next((t for t in ROOM_FOR_THREADS if needed(1, 1, t) <= max_bytes), None)
    if room_for is None:
        raise _no_room(needed(1, 1, 1), max_bytes)
    rows1, rows2 = n1, n2
    while needed(rows1, rows2, room_for) > max_bytes:
        longer = max(rows1, rows2)
        rows1 = -(-rows1 // 2) if square or rows1 == longer else rows1
        rows2 = -(-rows2 // 2) if square or rows2 == longer else rows2
    threads = get_settings().threads
    if threads > room_for:  # as many more as there is memory for, which grows with each
        more = range(room_for + 1, threads + 1)
        threads = room_for + bisect_right(more, max_bytes, key=lambda t: needed(rows1, rows2, t))
    if threads < get_settings().threads:
        log.info(
            "a block uses %d of %d threads: more need more than %s each; "
            "raise NTK_DIST_BLOCK_MAX_BYTES",
            threads,
            get_settings().threads,
            format_bytes(max_bytes),
        )
    needs = needed(rows1, rows2, threads)
    return Split(rows1, rows2, threads, padded=False, working_bytes=needs)


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


def _statistics_rows(kernel: Kernel, input_shape: tuple[int, ...], rows: int) -> int:
    """How many of ``rows`` samples are evaluated at a time."""
    most = max(1, CACHE_BYTES // kernel.sample_working_bytes(input_shape))
    return _split(rows, min(rows, most))


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


def _no_room(needed: int, max_bytes: int) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"one pair of inputs needs {format_bytes(needed)} of working memory, got "
        f"{format_bytes(max_bytes)}: raise NTK_DIST_BLOCK_MAX_BYTES"
    )


def _batch_rows(
    bytes_per_pair: int, n1: int, n2: int, *, square: bool, wanted_bytes: int
) -> tuple[int, int]:
    """Rows and columns of a sub-batch: as square as the budget and the sizes allow."""
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
