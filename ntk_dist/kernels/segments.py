"""Whole blocks: one segment of layers after another, plane by plane, word by word of pairs.

A segment runs from the input, or from a pooling, up to the next pooling. Pooling mixes
displacements, so between two segments there is a tensor of all the planes that the next one needs,
smaller than the input by the fourth power of the window. Its planes are open ones stitched
together: the plane in slot ``d mod slots`` has all ``n`` rows, of which displacement ``d`` takes
those ``i`` with ``0 <= i - d < n``.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from ntk_dist.kernels import activations, arc_cosine, lanes, planes, smooth
from ntk_dist.kernels.compiling import kept_on_disk
from ntk_dist.kernels.lanes import WORD_BYTES, compiled, load, spread, store
from ntk_dist.kernels.planes import apply, copy_row, plane_total
from ntk_dist.kernels.program import Program

__all__ = ["Prepared", "run_block"]


class Prepared(NamedTuple):
    """Samples as the engine reads them: a row for each, or for each word of them."""

    inputs: np.ndarray
    """All numbers of a sample; of a word of them, lanes innermost."""
    deviations: np.ndarray
    """The standard deviation at each position, followed by its reciprocal; likewise."""


@compiled
def _of_row(work: np.ndarray, at: int, apart: int) -> Any:
    """A number of the row for all lanes, or one of each lane's own row."""
    if apart == 1:
        return spread(work, work[at])
    return load(work, at)


@compiled
def _load_input(
    work: np.ndarray,
    plane: int,
    rows: int,
    columns: int,
    segment: Any,
    layout: Any,
    cyclic: bool,
    dy: int,
    dx: int,
) -> None:
    """The covariance of the inputs on one plane: products over channels, and no NTK yet."""
    half = WORD_BYTES // work.itemsize
    zero = spread(work, 0.0)
    channels, apart = segment.channels, layout.apart
    at = plane
    for row in range(rows):
        y1, y2 = row + max(0, dy), row + max(0, -dy)
        x1, x2 = max(0, dx), max(0, -dx)
        if cyclic:
            y1, y2 = row, row - dy + (segment.in_y if row < dy else 0)
            x1, x2 = 0, segment.in_x - dx if dx else 0
        one = layout.input1 + (y1 * segment.in_x + x1) * channels * apart
        first = layout.input2 + y2 * segment.in_x * channels * half
        others = first + x2 * channels * half
        for _ in range(columns):
            if x2 == segment.in_x:
                others = first
            x2 += 1
            q = _of_row(work, one, apart) * load(work, others)
            for channel in range(1, channels):
                number = _of_row(work, one + channel * apart, apart)
                q = q + number * load(work, others + channel * half)
            one += channels * apart
            others += channels * half
            store(work, at, q)
            store(work, at + half, zero)
            at += 2 * half


@compiled
def _load_plane(
    work: np.ndarray,
    plane: int,
    rows: int,
    columns: int,
    segment: Any,
    cyclic: bool,
    dy: int,
    dx: int,
) -> None:
    """One plane of the tensor between two segments."""
    width = 2 * WORD_BYTES // work.itemsize
    first_y, first_x = max(0, dy), max(0, dx)
    if cyclic:
        first_y, first_x = 0, 0
    slot = dy % segment.in_slots_y * segment.in_slots_x + dx % segment.in_slots_x
    base = (slot * segment.in_y + first_y) * segment.in_x + first_x
    for row in range(rows):
        start = segment.in_tensor + (base + row * segment.in_x) * width
        copy_row(work, start, plane + row * columns * width, columns)


@compiled
def _column_windows(
    segment: Any,
    columns: int,
    cyclic: bool,
    dx: int,
    windows: np.ndarray,
    weights: np.ndarray,
    column_of: np.ndarray,
    offset_of: np.ndarray,
    weight_of: np.ndarray,
) -> int:
    """Which pairs of windows each column of a plane lies in, where, and with what weight."""
    plane = segment.pooled_y * segment.pooled_x
    first = segment.windows_x
    found = 0
    for column in range(columns):
        x1, x2 = column + max(0, dx), column + max(0, -dx)
        if cyclic:
            x1, x2 = column, (column - dx) % segment.out_x
        for j1 in range(windows[first + x1, 0], windows[first + x1, 1]):
            for j2 in range(windows[first + x2, 0], windows[first + x2, 1]):
                if abs(j1 - j2) <= segment.pooled_reach_x:
                    column_of[found] = column
                    offset_of[found] = (j1 - j2) % segment.out_slots_x * plane + j1
                    weight_of[found] = (
                        weights[segment.weights_x + j1] * weights[segment.weights_x + j2]
                    )
                    found += 1
    return found


@compiled
def _pool(
    work: np.ndarray,
    plane: int,
    rows: int,
    columns: int,
    segment: Any,
    cyclic: bool,
    dy: int,
    dx: int,
    windows: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Add one plane to the tensor after it, each position of a pair to the windows it lies in."""
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    # Found once per plane: with the divisions inside, pooling took longer than two layers.
    most = columns * segment.overlap_x * segment.overlap_x
    column_of, offset_of = np.empty(most, np.int64), np.empty(most, np.int64)
    weight_of = np.empty(most, np.float64)
    found = _column_windows(
        segment, columns, cyclic, dx, windows, weights, column_of, offset_of, weight_of
    )
    out_plane = segment.pooled_y * segment.pooled_x
    first = segment.windows_y
    for row in range(rows):
        y1, y2 = row + max(0, dy), row + max(0, -dy)
        if cyclic:
            y1, y2 = row, (row - dy) % segment.out_y
        source = plane + row * columns * width
        for i1 in range(windows[first + y1, 0], windows[first + y1, 1]):
            for i2 in range(windows[first + y2, 0], windows[first + y2, 1]):
                if abs(i1 - i2) > segment.pooled_reach_y:
                    continue
                slots = (i1 - i2) % segment.out_slots_y * segment.out_slots_x
                target = slots * out_plane + i1 * segment.pooled_x
                weight_y = weights[segment.weights_y + i1] * weights[segment.weights_y + i2]
                for e in range(found):
                    at = source + column_of[e] * width
                    to = segment.out_tensor + (target + offset_of[e]) * width
                    weight = spread(work, weight_y * weight_of[e])
                    store(work, to, load(work, to) + weight * load(work, at))
                    at, to = at + half, to + half
                    store(work, to, load(work, to) + weight * load(work, at))


@compiled
def _clear(work: np.ndarray, start: int, end: int) -> None:
    half = WORD_BYTES // work.itemsize
    zero = spread(work, 0.0)
    for at in range(start, end, half):
        store(work, at, zero)


@compiled
def _run_segment(
    segment: Any,
    steps: np.ndarray,
    layout: Any,
    windows: np.ndarray,
    weights: np.ndarray,
    work: np.ndarray,
    total: np.ndarray,
) -> None:
    """All planes of one segment."""
    cyclic = segment.cyclic != 0
    first_y, last_y = -segment.reach_y, segment.reach_y
    first_x, last_x = -segment.reach_x, segment.reach_x
    if cyclic:
        first_y, first_x = 0, 0
    _clear(work, segment.out_tensor, segment.out_tensor + segment.out_size)
    for dy in range(first_y, last_y + 1):
        for dx in range(first_x, last_x + 1):
            in_dy, in_dx = dy * segment.factor_y, dx * segment.factor_x
            rows, columns = segment.in_y, segment.in_x
            rows_out, columns_out = segment.out_y, segment.out_x
            if not cyclic:
                rows, columns = rows - abs(in_dy), columns - abs(in_dx)
                rows_out, columns_out = rows_out - abs(dy), columns_out - abs(dx)
            start = segment.first_plane * layout.plane
            if segment.channels:
                _load_input(work, start, rows, columns, segment, layout, cyclic, in_dy, in_dx)
            else:
                _load_plane(work, start, rows, columns, segment, cyclic, in_dy, in_dx)
            for i in range(segment.first_step, segment.last_step):
                step = steps[i]
                source, target = step.source * layout.plane, step.target * layout.plane
                apply(work, step, source, target, layout, cyclic, dy, dx)
            end = segment.last_plane * layout.plane
            if segment.out_size:
                _pool(
                    work, end, rows_out, columns_out, segment, cyclic, dy, dx, windows, weights
                )  # fmt: skip
            else:
                plane_total(work, end, rows_out, columns_out, layout.ring, total)


@compiled
def _copy(work: np.ndarray, start: int, row: np.ndarray) -> None:
    # Not by slices: numba compiles two seconds of error messages for shapes that do not match.
    for i in range(len(row)):
        work[start + i] = row[i]


def _run_rows(
    segments: np.ndarray,
    steps: np.ndarray,
    layouts: np.ndarray,
    windows: np.ndarray,
    weights: np.ndarray,
    work: np.ndarray,
    inputs1: np.ndarray,
    deviations1: np.ndarray,
    inputs2: np.ndarray,
    deviations2: np.ndarray,
    first: int,
    last: int,
    word: int,
    symmetric: bool,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    half = WORD_BYTES // work.itemsize
    layout = layouts[0]
    _clear(work, layout.zero, layout.ring)
    for at in range(layout.units, layout.products):
        work[at] = 1.0
    # One array for everything: passing several through every call costs more than small rows.
    _copy(work, layout.input2, inputs2[word])
    _copy(work, layout.others, deviations2[word])
    total = np.empty(2 * half, np.float64)
    for row in range(first, last):
        if symmetric and row >= (word + 1) * half:
            break
        _copy(work, layout.input1, inputs1[row])
        _copy(work, layout.one, deviations1[row])
        for lane in range(2 * half):
            total[lane] = 0.0
        for i in range(len(segments)):
            _run_segment(segments[i], steps, layout, windows, weights, work, total)
        for lane in range(half):
            nngp[row, word * half + lane] = layout.share * total[lane]
            ntk[row, word * half + lane] = layout.share * total[half + lane]


# The families of activations are numbers to compiled code, and constants.
_SOURCES = (activations, lanes, arc_cosine, smooth, planes, sys.modules[__name__])
_ENGINES = {
    dtype: kept_on_disk(_run_rows, f"convolution_engine_in_{dtype}", _SOURCES, announce=True)
    for dtype in ("float32", "float64")
}


def run_block(
    program: Program,
    work: np.ndarray,
    rows: Prepared,
    words: Prepared,
    piece: tuple[int, int, int],
    symmetric: bool,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    """Some rows of a block against one word of its columns, summed over all positions.

    Parameters
    ----------
    program
        What to compute.
    work : (program.size,)
        Memory of one thread, aligned to 64 bytes.
    rows, words
        The samples of the rows, and those of the columns in words.
    piece
        Which word of columns, and the first row and the one past the last.
    symmetric : bool
        Whether only columns from the row itself on are wanted.
    nngp, ntk : (n1, n_words * lanes)
        Where the sums go: float64.
    """
    word, first, last = piece
    _ENGINES[work.dtype.name](
        program.segments, program.steps, program.layout, program.windows, program.weights,
        work, *rows, *words, first, last, word, symmetric, nngp, ntk,
    )  # fmt: skip
