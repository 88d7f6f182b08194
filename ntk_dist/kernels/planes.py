"""What the layers do to one plane: the covariances of one displacement between two positions.

Under a shared filter the covariance between positions ``i`` and ``i'`` only ever meets others of
the same displacement ``i - i'``. A plane holds one displacement of a word of pairs: rows, columns,
kernel (NNGP, NTK), lanes. At 32 x 32 positions it is 128 KiB, so that a few of them live in the
second-level cache for all the layers up to the next pooling.

A plane is open or cyclic. Where filters pad with zeros, the open plane of displacement ``d`` has
``n - |d|`` rows; counted from its own start, the filter sees an ordinary zero-padded image. Where
they wrap round, the displacements ``d`` and ``d - n`` mix, and the cyclic plane holds both: ``n``
rows. The other axis alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ntk_dist.kernels.activations import Family
from ntk_dist.kernels.arc_cosine import SAME, lift, turn
from ntk_dist.kernels.lanes import (
    WORD_BYTES,
    choose_less,
    compiled,
    load,
    magnitude,
    root,
    spread,
    store,
    with_sign,
)
from ntk_dist.kernels.smooth import erf, gelu, sine

__all__ = ["apply", "copy_row", "plane_total"]

SAME_32, SAME_64 = SAME[32], SAME[64]
KNOWN_SAME = 2.0**-40
"""Gaps of a position with itself below this are none, where each sample meets itself or its
opposite: 4000 roundings in float64, of which a layer makes a dozen."""
PIECEWISE_LINEAR, ERF, GELU, SINE = (
    int(each) for each in (Family.PIECEWISE_LINEAR, Family.ERF, Family.GELU, Family.SINE)
)


@compiled
def copy_row(work: np.ndarray, source: int, target: int, columns: int) -> None:
    """Copy both kernels of ``columns`` positions."""
    half = WORD_BYTES // work.itemsize
    for at in range(0, columns * 2 * half, half):
        store(work, target + at, load(work, source + at))


@compiled
def plane_total(
    work: np.ndarray, plane: int, rows: int, columns: int, scratch: int, total: np.ndarray
) -> None:
    """Add the sum over all positions to the float64 numbers ``total``: NNGP, then NTK.

    Rows are summed first: running sums over a million positions lose half the digits of float32.
    """
    half = WORD_BYTES // work.itemsize
    all_q, all_k = spread(work, 0.0), spread(work, 0.0)
    for row in range(rows):
        start = plane + row * columns * 2 * half
        q, k = load(work, start), load(work, start + half)
        for at in range(start + 2 * half, start + columns * 2 * half, 2 * half):
            q = q + load(work, at)
            k = k + load(work, at + half)
        all_q, all_k = all_q + q, all_k + k
    store(work, scratch, all_q)
    store(work, scratch + half, all_k)
    for lane in range(2 * half):
        total[lane] += work[scratch + lane]


@compiled
def _at(work: np.ndarray, row: int, column: int, columns: int, cyclic: bool) -> Any:
    """One number per pair of a row, or zero beside it."""
    width = 2 * WORD_BYTES // work.itemsize
    while cyclic and column < 0:
        column += columns
    while cyclic and column >= columns:
        column -= columns
    if 0 <= column < columns:
        return load(work, row + column * width)
    return spread(work, 0.0)


@compiled
def _sum_columns(
    work: np.ndarray,
    source: int,
    target: int,
    columns: int,
    columns_out: int,
    taps: int,
    step: int,
    pad: int,
    cyclic: bool,
) -> None:
    """The sums over all windows of a row, for one of both kernels."""
    width = 2 * WORD_BYTES // work.itemsize
    if taps == 3 and step == 1:
        # Each number is loaded once; beyond the last column come at most two more.
        left = _at(work, source, -pad, columns, cyclic)
        middle = _at(work, source, 1 - pad, columns, cyclic)
        simple = max(min(columns_out, columns + pad - 2), 0)
        at = source + (2 - pad) * width
        for to in range(target, target + simple * width, width):
            right = load(work, at)
            store(work, to, left + middle + right)
            left, middle = middle, right
            at += width
        for column in range(simple, columns_out):
            right = _at(work, source, column + 2 - pad, columns, cyclic)
            store(work, target + column * width, left + middle + right)
            left, middle = middle, right
        return
    for column in range(columns_out):
        first = column * step - pad
        total = _at(work, source, first, columns, cyclic)
        for tap in range(1, taps):
            total = total + _at(work, source, first + tap, columns, cyclic)
        store(work, target + column * width, total)


@compiled
def _add_row(work: np.ndarray, source: int, target: int, columns: int) -> None:
    half = WORD_BYTES // work.itemsize
    for at in range(0, columns * 2 * half, half):
        store(work, target + at, load(work, target + at) + load(work, source + at))


@compiled
def _sum_window(
    work: np.ndarray,
    op: Any,
    source: int,
    row: int,
    columns: int,
    columns_out: int,
    rows: int,
    summed: int,
    slot: int,
    ring: int,
    zero: int,
    cyclic: bool,
) -> tuple[int, int, int]:
    """Sum the windows along the rows that one output row needs, and say where three of them are.

    Sums stay in a ring of ``taps`` rows until no output row needs them. With other than three
    taps, the total over all of them and twice a row of zeros take the place of three rows.
    """
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    length = columns_out * width
    taps = op.taps_y
    first = row * op.step_y - op.pad_y
    for y in range(max(summed, first), first + taps):
        inside = y
        while cyclic and inside < 0:
            inside += rows
        while cyclic and inside >= rows:
            inside -= rows
        if 0 <= inside < rows:
            place = slot + y - first
            place = place - taps if place >= taps else place
            at, to = source + inside * columns * width, ring + place * length
            for kernel in range(0, width, half):
                _sum_columns(
                    work, at + kernel, to + kernel, columns, columns_out,
                    op.taps_x, op.step_x, op.pad_x, cyclic,
                )  # fmt: skip
    a, b, c = zero, zero, zero
    if taps != 3:
        a = ring + taps * length
        copy_row(work, zero, a, columns_out)
    for tap in range(taps):
        if cyclic or 0 <= first + tap < rows:
            place = slot + tap
            place = place - taps if place >= taps else place
            at = ring + place * length
            if taps != 3:
                _add_row(work, at, a, columns_out)
            elif tap == 0:
                a = at
            elif tap == 1:
                b = at
            else:
                c = at
    return a, b, c


@compiled
def _activate(
    work: np.ndarray,
    op: Any,
    a: int,
    b: int,
    c: int,
    target: int,
    columns: int,
    one: int,
    others: int,
    same: float,
) -> None:
    """A random linear layer over the sum of three rows, and a piecewise linear activation."""
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    scale, bias = spread(work, op.scale), spread(work, op.bias)
    own, own_bias = spread(work, op.own), spread(work, op.own_bias)
    weight, level = spread(work, op.weight), spread(work, op.level)
    fold = spread(work, 0.25 * op.weight)
    full, quarter, zero = spread(work, 1.0), spread(work, 0.25), spread(work, 0.0)
    tiny = spread(work, same)
    for at in range(0, columns * width, width):
        n = at + half
        q = load(work, a + at) + load(work, b + at) + load(work, c + at)
        k = load(work, a + n) + load(work, b + n) + load(work, c + n)
        k = scale * k + (own * q + own_bias)
        q = scale * q + bias
        s = spread(work, work[one]) * load(work, others + at)
        r = spread(work, work[one + 1]) * load(work, others + n)
        one += 2
        size = magnitude(q)
        g = full - size * r
        g = choose_less(tiny, g, g, zero)
        h = root(g)
        store(work, target + at, level * q + (fold * size + (s * (h * g)) * lift(g)))
        # (π - t) / 2π, the share of the plane where both are positive, less a quarter.
        excess = with_sign(quarter - h * turn(g), q)
        store(work, target + n, k * (weight * excess + level))


@compiled
def _scale(work: np.ndarray, op: Any, a: int, b: int, c: int, target: int, columns: int) -> None:
    """A random linear layer over the sum of three rows."""
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    scale, bias = spread(work, op.scale), spread(work, op.bias)
    own, own_bias = spread(work, op.own), spread(work, op.own_bias)
    for at in range(0, columns * width, width):
        n = at + half
        q = load(work, a + at) + load(work, b + at) + load(work, c + at)
        k = load(work, a + n) + load(work, b + n) + load(work, c + n)
        store(work, target + at, scale * q + bias)
        store(work, target + n, scale * k + (own * q + own_bias))


@compiled
def _normalize(
    work: np.ndarray, source: int, target: int, columns: int, one: int, others: int
) -> None:
    """LayerNorm: both kernels divided by the standard deviations of both samples."""
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    for at in range(0, columns * width, width):
        r = spread(work, work[one + 1]) * load(work, others + at + half)
        one += 2
        store(work, target + at, r * load(work, source + at))
        store(work, target + at + half, r * load(work, source + at + half))


@compiled
def _combine(work: np.ndarray, op: Any, one: int, others: int, products: int, columns: int) -> None:
    """What a pair of samples has at each position of a row, where each lane has its own pair."""
    half = WORD_BYTES // work.itemsize
    for at in range(0, columns * 2 * half, half):
        left, right = load(work, one + at), load(work, others + at)
        both = left + right if op.family == SINE else left * right
        store(work, products + at, both)


@compiled
def apply(
    work: np.ndarray, op: Any, source: int, target: int, layout: Any, cyclic: bool, dy: int, dx: int
) -> None:
    """One step of the program on one plane.

    Parameters
    ----------
    work : (size,)
        All that one thread needs, aligned to 64 bytes.
    op
        A record of ``program.STEP``.
    source, target : int
        Where in ``work`` the planes start.
    layout
        A record of ``program.LAYOUT``: where the rest is.
    cyclic : bool
        Whether the planes are cyclic.
    dy, dx : int
        Displacement at the end of the segment.
    """
    width = 2 * WORD_BYTES // work.itemsize
    rows, columns = op.in_y, op.in_x
    rows_out, columns_out = op.out_y, op.out_x
    if not cyclic:
        rows -= abs(dy) * op.in_factor_y
        columns -= abs(dx) * op.in_factor_x
        rows_out -= abs(dy) * op.out_factor_y
        columns_out -= abs(dx) * op.out_factor_x
    dy, dx = dy * op.out_factor_y, dx * op.out_factor_x
    if op.adds:
        _add_row(work, source, target, rows_out * columns_out)
        return
    plain = op.taps_y * op.taps_x * op.step_y * op.step_x == 1
    zero, apart = layout.zero, layout.apart
    same = SAME_32 if work.itemsize == 4 else SAME_64
    if apart > 1 and dy == 0 and dx == 0:
        same = KNOWN_SAME
    # Not a literal zero, for which numba would compile functions that others have compiled.
    summed, slot = -op.pad_y, 0 * op.pad_y
    for row in range(rows_out):
        if plain:
            a, b, c = source + row * columns * width, zero, zero
        else:
            a, b, c = _sum_window(
                work, op, source, row, columns, columns_out, rows, summed, slot,
                layout.ring, zero, cyclic,
            )  # fmt: skip
            summed = row * op.step_y - op.pad_y + op.taps_y
            slot += op.step_y
            while slot >= op.taps_y:
                slot -= op.taps_y
        to = target + row * columns_out * width
        if op.statistic < 0:
            _scale(work, op, a, b, c, to, columns_out)
            continue
        # Positions of either sample; in a cyclic plane the second one starts over once.
        y1, y2 = row + max(0, dy), row + max(0, -dy)
        x1, x2 = max(0, dx), max(0, -dx)
        count = columns_out
        if cyclic:
            y1, y2 = row, row - dy + (op.out_y if row < dy else 0)
            x1, x2 = 0, op.out_x - dx if dx else 0
            count = columns_out - x2
        done = 0
        while done < columns_out:
            one = layout.one + 2 * apart * (op.statistic + y1 * op.out_x + x1)
            others = layout.others + (op.statistic + y2 * op.out_x + x2) * width
            if apart > 1:
                _combine(work, op, one, others, layout.products, count)
                one, others = layout.zero if op.family == SINE else layout.units, layout.products
            skip = done * width
            if op.normalizes:
                _normalize(work, a + skip, to + skip, count, one, others)
            elif op.family == PIECEWISE_LINEAR:
                _activate(
                    work, op, a + skip, b + skip, c + skip, to + skip, count, one, others, same
                )
            else:
                _scale(work, op, a + skip, b + skip, c + skip, to + skip, count)
                if op.family == ERF:
                    erf(work, op, to + skip, count, one, others)
                elif op.family == GELU:
                    gelu(work, op, to + skip, count, one, others)
                else:
                    sine(work, op, to + skip, count, one, others)
            done += count
            x1, x2, count = done, 0, columns_out - done
