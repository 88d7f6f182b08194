"""How a block is cut into parts that memory holds: numbers of rows, nothing is computed.

What a fused engine computes is cut only where memory ends: it goes through the pairs in pieces
that fit the cache by itself, and is compiled for no shape. For the reference recursion sub-batches
fit the cache of a CPU, and all of one call have one shape (the last ones are padded with a repeated
row), rounded up, so that compilation happens once per job and not once per edge.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from dataclasses import dataclass

from ntk_dist.errors import MemoryBudgetError
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.settings import get_settings
from ntk_dist.units import format_bytes

__all__ = ["Split", "split_block", "statistics_rows", "sub_batch_bytes", "working_bytes"]

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
    step = statistics_rows(kernel, input_shape, block_rows, block_rows)
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
    if kernel.choice(input_shape).fused:
        return _cut_fused(kernel, input_shape, n1, n2, max_bytes, square=square)
    n1, n2 = pad_rows or _round_up(n1), pad_rows or _round_up(n2)
    return _cut_recursion(kernel, input_shape, n1, n2, max_bytes, square=square)


def statistics_rows(
    kernel: Kernel, input_shape: tuple[int, ...], n: int, pad_rows: int | None = None
) -> int:
    """How many of ``n`` samples are evaluated alone at a time.

    As if there were ``pad_rows`` of them; None rounds ``n`` up a little.
    """
    few = 1 << (n - 1).bit_length()  # a single prediction must not cost eight
    rows = pad_rows or min(few, _round_up(n))
    most = max(1, CACHE_BYTES // kernel.sample_working_bytes(input_shape))
    return _split(rows, min(rows, most))


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


def _cut_recursion(
    kernel: Kernel,
    input_shape: tuple[int, ...],
    n1: int,
    n2: int,
    max_bytes: int,
    *,
    square: bool,
) -> Split:
    """Sub-batches of one shape that fit the cache, with the samples that they hold."""
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


def _cut_fused(
    kernel: Kernel,
    input_shape: tuple[int, ...],
    n1: int,
    n2: int,
    max_bytes: int,
    *,
    square: bool,
) -> Split:
    """Halves of the longer side, until a part leaves room for some threads; then as many as fit."""

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
