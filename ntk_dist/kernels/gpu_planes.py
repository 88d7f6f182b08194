"""What the layers do to packed planes, as functions on a GPU.

The same arithmetic as ``planes.py``, with one thread per column and some rows of a packed plane
(see ``gpu_program``). A number of a plane is complex: its real part is the NNGP and its imaginary
part the NTK, so that both are loaded and added up at once. Nothing here knows its precision: that
of the planes, of the coefficients and of the polynomials decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import cuda
from numba.core import config

__all__ = [
    "ZERO",
    "Index",
    "apply",
    "at",
    "device",
    "displacements",
    "lower_rows",
    "quotient",
    "total_rows",
]

F = TypeVar("F", bound=Callable[..., Any])

Index: TypeAlias = Any
"""An integer. Those of inner loops have 32 bits: in 64, counting took as long as the arithmetic."""

# In compiled code float32 is the weaker precision, and to NumPy a Python number is.
_number = float if config.ENABLE_CUDASIM else np.float32
ZERO, QUARTER, ONE = _number(0), _number(0.25), _number(1)
TINY = _number(1e-30)
"""A standard deviation below which a sample counts as zero: its correlations are then zero."""

OPTIONS = {} if config.ENABLE_CUDASIM else {"forceinline": True}


def device(function: F) -> F:
    """The function compiled into those kernels that call it, for the types it is called with."""
    return cast("F", cuda.jit(device=True, **OPTIONS)(function))


@device
def at(index: Index) -> Index:
    """An index that is not negative: what could count from the end costs two instructions more."""
    return np.uint64(index)


@device
def quotient(number: Index, divisor: Index) -> Index:
    """``number // divisor`` of small numbers that are not negative, in 32 bits."""
    return np.int32(np.uint32(number) // np.uint32(divisor))


@device
def lower_rows(size: Index, factor: Index, behind: Index) -> Index:
    """Rows of the part of a packed plane where the first sample is behind; it comes first."""
    rows = np.int32(size - behind * factor)
    return rows if rows > 0 else np.int32(0)


@device
def total_rows(size: Index, factor: Index, ahead: Index, behind: Index) -> Index:
    """Rows of a packed plane."""
    return np.int32(lower_rows(size, factor, behind) + lower_rows(size, factor, ahead))


@device
def displacements(slots: Any, slot: Index) -> tuple[Index, ...]:
    """How far the first sample of a packed plane is ahead and behind: rows, then columns."""
    i = at(slot)
    return slots[i, 0], slots[i, 1], slots[i, 2], slots[i, 3]


@device
def _polynomial(coefficients: tuple[Any, ...], gap: Any) -> Any:
    """By Horner's rule, highest power first."""
    value = coefficients[0]
    for c in coefficients[1:]:
        value = value * gap + c
    return value


@device
def _activated(z: Any, deviation: Any, layer: Any, curves: Any) -> Any:
    """A random linear layer over a sum of positions and the activation after it.

    One square root and one reciprocal; ``arc_cosine`` has the formulas, and ``planes`` the reason
    for gaps that are none.
    """
    turn, lift, same = curves
    scale, bias, own, own_bias, weight, level = layer
    q = scale * z.real + bias
    k = scale * z.imag + (own * z.real + own_bias)
    size = abs(q)
    g = ONE - size * (ONE / max(deviation, TINY))
    g = g if g > same else ZERO
    h = math.sqrt(g)
    swing = weight * (deviation * (h * g))
    value = level * q + (QUARTER * weight * size + swing * _polynomial(lift, g))
    excess = math.copysign(QUARTER - h * _polynomial(turn, g), q)
    return complex(value, k * (weight * excess + level))


@device
def _affine(z: Any, layer: Any) -> Any:
    """A random linear layer over a sum of positions."""
    scale, bias, own, own_bias, _, _ = layer
    return complex(scale * z.real + bias, scale * z.imag + (own * z.real + own_bias))


@device
def _across(
    work: Any, middle: Index, left: Index, right: Index, keep_left: Any, keep_right: Any
) -> Any:
    """The sum of three neighbours in a row; those beyond an edge are multiplied by zero."""
    a, b, c = work[at(middle + left)], work[at(middle)], work[at(middle + right)]
    return complex(
        b.real + keep_left * a.real + keep_right * c.real,
        b.imag + keep_left * a.imag + keep_right * c.imag,
    )


@device
def _keeps(edge: Index, seam: Index, end: Index, cyclic: bool) -> Any:
    """1 if the windows reach over the edge before this row, or 0 at a seam or an end."""
    return ONE if cyclic or (edge > 0 and edge != seam and edge != end) else ZERO


@device
def _beside(row: Index, step: Index, end: Index, cyclic: bool) -> Index:
    """The row before or after, or the row itself where there is none; cyclic planes go round."""
    there = np.int32(row + step)
    if there < 0:
        return np.int32(end - 1) if cyclic else np.int32(row)
    if there >= end:
        return np.int32(0) if cyclic else np.int32(row)
    return there


@device
def _three_by_three(
    activates: bool,
    work: Any,
    source: Index,
    target: Index,
    x: Index,
    row: Index,
    share: Index,
    rows: Index,
    columns: Index,
    seam_y: Index,
    seam_x: Index,
    cyclic: bool,
    pitch: Index,
    layer: Any,
    one: Any,
    at1: Index,
    other: Any,
    at2: Index,
    width: Index,
    jump1: Index,
    jump2: Index,
    curves: Any,
) -> None:
    """A 3 x 3 window that keeps the size: each row is summed across once for three results.

    ``share`` is how many rows it computes; ``at1`` and ``at2`` are the positions of both samples at
    the first one. They go on by ``width`` per row, and by the jumps where the upper part begins.
    """
    left = np.int32(_beside(x, -1, columns, cyclic) - x)
    right = np.int32(_beside(x, 1, columns, cyclic) - x)
    keep_left = _keeps(x, seam_x, columns, cyclic)
    keep_right = _keeps(np.int32(x + 1), seam_x, columns, cyclic)
    start = np.int32(source + x)
    to = np.int32(target + x + row * pitch)
    before = np.int32(start + _beside(row, -1, rows, cyclic) * pitch)
    above = _across(work, before, left, right, keep_left, keep_right)
    next_at = np.int32(start + row * pitch)
    wrapped = start if cyclic else np.int32(start + (rows - 1) * pitch)
    here = _across(work, next_at, left, right, keep_left, keep_right)
    keep_above = _keeps(row, seam_y, rows, cyclic)
    end = np.int32(row + share)
    end = end if end < rows else rows
    while row < end:
        row = np.int32(row + 1)
        next_at = wrapped if row == rows else np.int32(next_at + pitch)
        below = _across(work, next_at, left, right, keep_left, keep_right)
        keep_below = ONE if cyclic or (row != rows and row != seam_y) else ZERO
        z = complex(
            here.real + keep_above * above.real + keep_below * below.real,
            here.imag + keep_above * above.imag + keep_below * below.imag,
        )
        if activates:
            deviation = one[at(at1)] * other[at(at2)]
            work[at(to)] = _activated(z, deviation, layer, curves)
            at1 = np.int32(at1 + (jump1 if row == seam_y else width))
            at2 = np.int32(at2 + (jump2 if row == seam_y else width))
        else:
            work[at(to)] = _affine(z, layer)
        to = np.int32(to + pitch)
        above, here, keep_above = here, below, keep_below


@device
def _window(
    work: Any, source: Index, y: Index, x: Index, slot: Any, step: Any, cyclic: bool, zero: Any
) -> Any:
    """The sum over the window of one position, of any size and stride."""
    ahead_y, behind_y, ahead_x, behind_x = slot
    rows = lower_rows(step.in_y, step.in_factor_y, behind_y)
    columns = lower_rows(step.in_x, step.in_factor_x, behind_x)
    seam_y = lower_rows(step.out_y, step.out_factor_y, behind_y)
    seam_x = lower_rows(step.out_x, step.out_factor_x, behind_x)
    # The part that the position lies in: where it starts, and how many rows and columns it has.
    base_y, base_x = 0, 0
    if cyclic:
        rows, columns = step.in_y, step.in_x
    else:
        if y >= seam_y:
            y, base_y, rows = y - seam_y, rows, lower_rows(step.in_y, step.in_factor_y, ahead_y)
        if x >= seam_x:
            x, base_x = x - seam_x, columns
            columns = lower_rows(step.in_x, step.in_factor_x, ahead_x)
    q = k = zero
    for i in range(step.taps_y):
        row = y * step.step_y - step.pad_y + i
        while cyclic and row < 0:
            row += rows
        while cyclic and row >= rows:
            row -= rows
        if 0 <= row < rows:
            for j in range(step.taps_x):
                column = x * step.step_x - step.pad_x + j
                while cyclic and column < 0:
                    column += columns
                while cyclic and column >= columns:
                    column -= columns
                if 0 <= column < columns:
                    z = work[at(source + (base_y + row) * step.in_pitch + base_x + column)]
                    q += z.real
                    k += z.imag
    return complex(q, k)


@device
def _finish(
    work: Any, to: Index, z: Any, step: Any, layer: Any, deviation: Any, curves: Any
) -> None:
    """Write what a step of any kind makes of the sum over its window at one position."""
    if step.normalizes:
        r = ONE / deviation
        work[at(to)] = complex(r * z.real, r * z.imag)
    elif step.adds:
        before = work[at(to)]
        work[at(to)] = complex(before.real + z.real, before.imag + z.imag)
    elif step.statistic >= 0:
        work[at(to)] = _activated(z, deviation, layer, curves)
    else:
        work[at(to)] = _affine(z, layer)


@device
def apply(
    work: Any,
    segment: Any,
    step: Any,
    layer: Any,
    slots: Any,
    first: Index,
    one: Any,
    start1: Index,
    other: Any,
    start2: Index,
    curves: Any,
) -> None:
    """One step of the program on all planes of a block; every thread of it calls this.

    Parameters
    ----------
    work
        The planes.
    segment, step, layer
        Records of ``gpu_program``, and the coefficients of the step.
    slots, first
        Displacements of packed planes, and which is the block's first one.
    one, start1, other, start2
        Standard deviations, and where those of both samples begin.
    curves
        Coefficients of ``turn`` and ``lift``, highest power first, and the gap that is none.
    """
    cyclic = segment.cyclic != 0
    pitch, width = np.int32(step.pitch), np.int32(step.out_x)
    area = segment.area
    place = segment.together * area
    per_plane = np.int32(step.strips * pitch)
    planes = segment.first_slot + segment.slots - first
    planes = np.int32(planes if planes < segment.together else segment.together)
    stop, stride = np.int32(planes * per_plane), np.int32(cuda.blockDim.x)
    for item in range(np.int32(cuda.threadIdx.x), stop, stride):
        plane = quotient(item, per_plane)
        strip = quotient(item - plane * per_plane, pitch)
        x = np.int32(item - plane * per_plane - strip * pitch)
        slot = displacements(slots, first + plane)
        ahead_y, behind_y, ahead_x, behind_x = slot
        rows = total_rows(step.out_y, step.out_factor_y, ahead_y, behind_y)
        columns = total_rows(step.out_x, step.out_factor_x, ahead_x, behind_x)
        first_row = np.int32(strip * step.rows)
        if x >= columns or first_row >= rows:
            continue
        seam_y = lower_rows(step.out_y, step.out_factor_y, behind_y)
        seam_x = lower_rows(step.out_x, step.out_factor_x, behind_x)
        source = np.int32(step.source * place + plane * area)
        target = np.int32(step.target * place + plane * area)
        # Where the samples' positions are: to the left of the seam and above it, and beyond.
        at1 = np.int32(start1 + step.statistic + x)
        at2 = np.int32(start2 + step.statistic + x)
        if x < seam_x:
            at2 = np.int32(at2 + behind_x * step.out_factor_x)
        else:
            at1 = np.int32(at1 - seam_x + ahead_x * step.out_factor_x)
            at2 = np.int32(at2 - seam_x)
        jump1 = np.int32((ahead_y * step.out_factor_y - seam_y + 1) * width)
        jump2 = np.int32((1 - behind_y * step.out_factor_y - seam_y) * width)
        at1 = np.int32(at1 + first_row * width)
        at2 = np.int32(at2 + (first_row + behind_y * step.out_factor_y) * width)
        if first_row >= seam_y:
            at1, at2 = np.int32(at1 + jump1 - width), np.int32(at2 + jump2 - width)
        if step.fast and step.statistic >= 0:
            _three_by_three(
                True, work, source, target, x, first_row, step.rows, rows, columns,
                seam_y, seam_x, cyclic,
                pitch, layer, one, at1, other, at2, width, jump1, jump2, curves,
            )  # fmt: skip
        elif step.fast:
            _three_by_three(
                False, work, source, target, x, first_row, step.rows, rows, columns,
                seam_y, seam_x, cyclic,
                pitch, layer, one, at1, other, at2, width, jump1, jump2, curves,
            )  # fmt: skip
        else:
            zero = ZERO * layer[0]
            for row in range(first_row, min(first_row + step.rows, rows)):
                deviation = zero
                if step.statistic >= 0:
                    deviation = one[at(at1)] * other[at(at2)]
                    at1 = np.int32(at1 + (jump1 if row + 1 == seam_y else width))
                    at2 = np.int32(at2 + (jump2 if row + 1 == seam_y else width))
                z = _window(work, source, row, x, slot, step, cyclic, zero)
                to = target + row * pitch + x
                _finish(work, to, z, step, layer, deviation, curves)
