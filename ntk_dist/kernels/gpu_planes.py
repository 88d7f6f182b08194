"""What the layers do to packed planes, as functions on a GPU.

The same arithmetic as ``planes.py``, with one thread per column and ``ROWS`` rows of a packed plane
(see ``gpu_program``). A number of a plane is complex: its real part is the NNGP and its imaginary
part the NTK, so that both are loaded and added up at once. Nothing here knows its precision: that
of the planes, of the coefficients and of the polynomials decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import cuda
from numba.core import config

from ntk_dist.kernels.gpu_program import ROWS

__all__ = ["apply", "at", "device", "displacements", "lower_rows", "quotient", "total_rows"]

F = TypeVar("F", bound=Callable[..., Any])

ZERO, QUARTER, ONE = np.float32(0), np.float32(0.25), np.float32(1)
"""Exact in float64 too, where they are promoted."""
TINY = np.float32(1e-30)
"""A standard deviation below which a sample counts as zero: its correlations are then zero."""

OPTIONS = {} if config.ENABLE_CUDASIM else {"forceinline": True}


def device(function: F) -> F:
    """The function compiled into those kernels that call it, for the types it is called with."""
    return cast("F", cuda.jit(device=True, **OPTIONS)(function))


@device
def at(index: int) -> np.uint64:
    """An index that is not negative: what could count from the end costs two instructions more."""
    return np.uint64(index)


@device
def quotient(number: int, divisor: int) -> int:
    """``number // divisor`` of small numbers that are not negative, in 32 bits."""
    return np.int64(np.uint32(number) // np.uint32(divisor))


@device
def lower_rows(size: int, factor: int, behind: int) -> int:
    """Rows of the part of a packed plane where the first sample is behind; it comes first."""
    return max(0, size - behind * factor)


@device
def total_rows(size: int, factor: int, ahead: int, behind: int) -> int:
    """Rows of a packed plane."""
    return max(0, size - behind * factor) + max(0, size - ahead * factor)


@device
def displacements(slots: Any, slot: int) -> tuple[int, int, int, int]:
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
def _activated(z: Any, deviation: Any, layer: Any, turn: Any, lift: Any) -> Any:
    """A random linear layer over a sum of positions and the activation after it.

    One square root and one reciprocal; ``arc_cosine`` has the formulas.
    """
    scale, bias, own, own_bias, weight, level = layer
    q = scale * z.real + bias
    k = scale * z.imag + (own * z.real + own_bias)
    size = abs(q)
    g = max(ONE - size * (ONE / max(deviation, TINY)), ZERO)
    h = math.sqrt(g)
    swing = weight * (deviation * (h * g))
    value = level * q + (QUARTER * weight * size + swing * _polynomial(lift, g))
    excess = math.copysign(QUARTER - h * _polynomial(turn, g), q)
    return complex(value, k * (weight * excess + level))


@device
def _finish(
    work: Any,
    to: int,
    z: Any,
    step: Any,
    layer: Any,
    one: Any,
    at1: int,
    other: Any,
    at2: int,
    turn: Any,
    lift: Any,
) -> None:
    """Write what a step makes of the sum over its window at one position."""
    if step.statistic >= 0:
        deviation = one[at(at1)] * other[at(at2)]
        if step.normalizes:
            r = ONE / deviation
            work[at(to)] = complex(r * z.real, r * z.imag)
        else:
            work[at(to)] = _activated(z, deviation, layer, turn, lift)
    elif step.adds:
        before = work[at(to)]
        work[at(to)] = complex(before.real + z.real, before.imag + z.imag)
    else:
        scale, bias, own, own_bias, _, _ = layer
        k = scale * z.imag + (own * z.real + own_bias)
        work[at(to)] = complex(scale * z.real + bias, k)


@device
def _across(work: Any, middle: int, left: int, right: int, keep_left: Any, keep_right: Any) -> Any:
    """The sum of three neighbours in a row; those beyond an edge are multiplied by zero."""
    a, b, c = work[at(middle + left)], work[at(middle)], work[at(middle + right)]
    return complex(
        b.real + keep_left * a.real + keep_right * c.real,
        b.imag + keep_left * a.imag + keep_right * c.imag,
    )


@device
def _keeps(edge: int, seam: int, end: int, cyclic: bool) -> Any:
    """1 if the windows reach over the edge before this row, or 0 at a seam or an end."""
    return ONE if cyclic or (0 < edge < end and edge != seam) else ZERO


@device
def _inside(row: int, end: int, cyclic: bool) -> int:
    """The row itself, or beyond the ends the one to load instead: the one that a cyclic plane has
    there, or any."""
    if row < 0:
        return end - 1 if cyclic else 0
    if row >= end:
        return 0 if cyclic else end - 1
    return row


@device
def _three_by_three(
    work: Any,
    source: int,
    target: int,
    x: int,
    first_row: int,
    rows: int,
    columns: int,
    seam_y: int,
    seam_x: int,
    ahead_y: int,
    behind_y: int,
    cyclic: bool,
    step: Any,
    layer: Any,
    one: Any,
    at1: int,
    other: Any,
    at2: int,
    turn: Any,
    lift: Any,
) -> None:
    """A 3 x 3 window that keeps the size: each row is summed across once for three results."""
    pitch = step.pitch
    left = _inside(x - 1, columns, cyclic) - x
    right = _inside(x + 1, columns, cyclic) - x
    keep_left = _keeps(x, seam_x, columns, cyclic)
    keep_right = _keeps(x + 1, seam_x, columns, cyclic)
    start = source + x
    above = _across(
        work, start + _inside(first_row - 1, rows, cyclic) * pitch,
        left, right, keep_left, keep_right,
    )  # fmt: skip
    here = _across(work, start + first_row * pitch, left, right, keep_left, keep_right)
    keep_above = _keeps(first_row, seam_y, rows, cyclic)
    for k in range(ROWS):
        row = first_row + k
        if row < rows:
            below = _across(
                work, start + _inside(row + 1, rows, cyclic) * pitch,
                left, right, keep_left, keep_right,
            )  # fmt: skip
            keep_below = _keeps(row + 1, seam_y, rows, cyclic)
            z = complex(
                here.real + keep_above * above.real + keep_below * below.real,
                here.imag + keep_above * above.imag + keep_below * below.imag,
            )
            y1 = row if row < seam_y else row - seam_y + ahead_y
            y2 = row + behind_y if row < seam_y else row - seam_y
            _finish(
                work, target + row * pitch + x, z, step, layer,
                one, at1 + y1 * step.out_x, other, at2 + y2 * step.out_x, turn, lift,
            )  # fmt: skip
            above, here, keep_above = here, below, keep_below


@device
def _window(
    work: Any, source: int, y: int, x: int, slot: Any, step: Any, cyclic: bool, zero: Any
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
def apply(
    work: Any,
    segment: Any,
    step: Any,
    layer: Any,
    slots: Any,
    first: int,
    one: Any,
    other: Any,
    turn: Any,
    lift: Any,
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
    one, other
        Standard deviations of both samples.
    turn, lift
        Coefficients, highest power first.
    """
    cyclic = segment.cyclic != 0
    last = segment.first_slot + segment.slots
    area = segment.area
    width = segment.together * area
    per_plane = step.strips * step.pitch
    for item in range(cuda.threadIdx.x, segment.together * per_plane, cuda.blockDim.x):
        plane = quotient(item, per_plane)
        if first + plane >= last:
            continue
        strip = quotient(item - plane * per_plane, step.pitch)
        x = item - plane * per_plane - strip * step.pitch
        slot = displacements(slots, first + plane)
        ahead_y, behind_y, ahead_x, behind_x = slot
        rows = total_rows(step.out_y, step.out_factor_y, ahead_y, behind_y)
        columns = total_rows(step.out_x, step.out_factor_x, ahead_x, behind_x)
        if x >= columns:
            continue
        seam_y = lower_rows(step.out_y, step.out_factor_y, behind_y)
        seam_x = lower_rows(step.out_x, step.out_factor_x, behind_x)
        source = step.source * width + plane * area
        target = step.target * width + plane * area
        x1 = x if x < seam_x else x - seam_x + ahead_x * step.out_factor_x
        x2 = x + behind_x * step.out_factor_x if x < seam_x else x - seam_x
        at1, at2 = step.statistic + x1, step.statistic + x2
        further, back = ahead_y * step.out_factor_y, behind_y * step.out_factor_y
        if step.fast:
            _three_by_three(
                work, source, target, x, strip * ROWS, rows, columns, seam_y, seam_x,
                further, back, cyclic, step, layer, one, at1, other, at2, turn, lift,
            )  # fmt: skip
        else:
            zero = ZERO * layer[0]
            for row in range(strip * ROWS, min(strip * ROWS + ROWS, rows)):
                z = _window(work, source, row, x, slot, step, cyclic, zero)
                y1 = row if row < seam_y else row - seam_y + further
                y2 = row + back if row < seam_y else row - seam_y
                _finish(
                    work, target + row * step.pitch + x, z, step, layer,
                    one, at1 + y1 * step.out_x, other, at2 + y2 * step.out_x, turn, lift,
                )  # fmt: skip
