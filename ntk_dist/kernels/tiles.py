"""Whole pieces of a block, tile by tile: products in registers, then all layers in the first cache.

A panel of columns stays in the second-level cache while the panels of the rows pass by. A tile is
made, goes through all steps of the program and is written out once, as both kernels.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ntk_dist.kernels import arc_cosine, gaps, gemm, lanes
from ntk_dist.kernels.arc_cosine import turn
from ntk_dist.kernels.compiling import kept_on_disk
from ntk_dist.kernels.curves import Curves
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.gaps import apply, choose
from ntk_dist.kernels.gemm import ROWS, WORDS, add_products
from ntk_dist.kernels.lanes import (
    WORD_BYTES,
    choose_less,
    compiled,
    load,
    magnitude,
    root,
    spread,
    store,
    vector_of,
    with_sign,
)
from ntk_dist.kernels.records import integers

__all__ = ["SHAPE", "TOGETHER", "run_piece"]

CLOSE = 0.95
"""Correlations of samples, of either sign, beyond which the gap comes from their difference: there
the rounding of the correlation itself begins to show. With 0.98 the NTK in float32 was off by 2e-6
at depth 30 just below, with 0.95 it is by less than 1e-6 everywhere. A block of none but such pairs
takes 2.6 times as long as one without any."""

TOGETHER = 4
"""Panels of rows whose products are made before the layers: 128 terms of the columns, which fill
the first cache but for a quarter, are then read from the second one once for all of them. Products
alone take 0.90 of the time of one panel after the other, and 0.96 with 8 or 16 together."""

SHAPE = np.dtype(integers("n1 n2 symmetric terms others one products tiles last statistics"))
"""Rows and columns of the block, and whether only its upper triangle is computed and mirrored;
terms of a product; where in the memory of a thread what is known of the columns, of the rows, the
products of ``TOGETHER`` panels and the tiles start (the panel of columns is at 0); the place of the
last tile; and how many numbers are known of a sample, the last of them its standard deviation at
the end."""


@intrinsic
def _any_positive(typing: Any, value: Any) -> Any:
    """Whether a lane is above zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(vector_of(value), [0.0] * value.count)
        above = builder.fcmp_ordered(">", arguments[0], zero)
        bits = builder.bitcast(above, ir.IntType(value.count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(value), generate


@intrinsic
def _put(typing: Any, array: Any, offset: Any, value: Any, aligned: Any) -> Any:
    """Write a vector at element ``offset`` of a flat array, past the caches where it is aligned.

    A block is far larger than they are; nobody reads it before it is whole.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), vector_of(value).as_pointer())
        with builder.if_else(arguments[3]) as (then, otherwise):
            with then:
                streamed = builder.store(arguments[2], place, align=WORD_BYTES)
                one = ir.Constant(ir.IntType(32), 1)
                streamed.set_metadata("nontemporal", builder.module.add_metadata([one]))
            with otherwise:
                builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.boolean), generate


@compiled
def _gap_by_difference(
    work: np.ndarray, rows: np.ndarray, row: int, column: int, terms: int, c: Any
) -> Any:
    """Half the squared distance of directions, of which one is turned round where c is negative."""
    width = WORDS * (WORD_BYTES // work.itemsize)
    turned = with_sign(spread(work, 1.0), c)
    even, odd = spread(work, 0.0), spread(work, 0.0)
    for _ in range(terms // 2):
        # Two sums, so that one need not wait for the other.
        difference = load(work, column) - turned * spread(work, rows[row])
        even = even + difference * difference
        difference = load(work, column + width) - turned * spread(work, rows[row + ROWS])
        odd = odd + difference * difference
        row += 2 * ROWS
        column += 2 * width
    if terms % 2:
        difference = load(work, column) - turned * spread(work, rows[row])
        even = even + difference * difference
    return spread(work, 0.5) * (even + odd)


@compiled
def _start(work: np.ndarray, rows: np.ndarray, panel: int, products: int, shape: Any) -> None:
    """The first tile: signed gaps between the directions of the samples, and no NTK yet."""
    count = WORD_BYTES // work.itemsize
    width = WORDS * count
    size = ROWS * width
    zero, full, close = spread(work, 0.0), spread(work, 1.0), spread(work, 1.0 - CLOSE)
    for row in range(ROWS):
        for column in range(0, width, count):
            at = shape.tiles + row * width + column
            c = load(work, products + row * width + column)
            g = full - magnitude(c)
            g = choose_less(zero, g, g, zero)
            if _any_positive(close - g):
                exact = _gap_by_difference(work, rows, panel + row, column, shape.terms, c)
                g = choose(g - close, exact, g)
            store(work, at, with_sign(g, c))
            store(work, at + size, zero)


@compiled
def _finish(work: np.ndarray, shape: Any) -> Any:
    """The last tile as covariances and NTK, in place."""
    count = WORD_BYTES // work.itemsize
    width = WORDS * count
    size = ROWS * width
    start = shape.tiles + shape.last * 2 * size
    one = shape.one + (shape.statistics - 1) * ROWS
    others = shape.others + (shape.statistics - 1) * width
    full = spread(work, 1.0)
    for row in range(ROWS):
        deviation = spread(work, work[one + row])
        for column in range(0, width, count):
            at = start + row * width + column
            scale = deviation * load(work, others + column)
            sign = load(work, at)
            store(work, at, scale * with_sign(full - magnitude(sign), sign))
            store(work, at + size, scale * load(work, at + size))
    return start


@compiled
def _along_curves(
    work: np.ndarray, curves: np.ndarray, largest: float, shape: Any, first: int, last: int
) -> Any:
    """The first tile as covariances (kernel 0) and NTK (kernel 1), in place, from ``first`` on.

    Both are the product of the deviations and a polynomial of ``2 t / largest - 1``, with t the
    angle.
    """
    count = WORD_BYTES // work.itemsize
    width = WORDS * count
    size = ROWS * width
    degree = len(curves) // 2 - 1
    one = shape.one + (shape.statistics - 1) * ROWS
    others = shape.others + (shape.statistics - 1) * width
    scale = 4 * math.pi / largest  # of t / 2π
    steep, least, most = spread(work, scale), spread(work, -1.0), spread(work, scale / 2 - 1)
    for row in range(ROWS):
        deviation = spread(work, work[one + row])
        for column in range(0, width, count):
            at = shape.tiles + row * width + column
            sign = load(work, at)
            g = magnitude(sign)
            t = root(g) * turn(g)
            x = choose(sign, most - steep * t, steep * t + least)
            size_of = deviation * load(work, others + column)
            for kernel in range(first, last):
                start = kernel * (degree + 1)
                value = spread(work, curves[start])
                for power in range(start + 1, start + 1 + degree):
                    value = value * x + spread(work, curves[power])
                store(work, at + kernel * size, size_of * value)
    return shape.tiles


@compiled
def _write(
    work: np.ndarray, at: int, shape: Any, i: int, j: int, n_columns: int, out: np.ndarray
) -> None:
    """One kernel of a tile whose first entry is (i, j) of a block; and mirrored."""
    count = WORD_BYTES // work.itemsize
    width = WORDS * count
    aligned = shape.n2 % count == 0
    for row in range(min(ROWS, shape.n1 - i)):
        source, target = at + row * width, (i + row) * shape.n2 + j
        column = min(max(0, i + row - j), n_columns) if shape.symmetric else 0
        while column < n_columns:
            if column % count or column + count > n_columns:
                out[target + column] = work[source + column]
                column += 1
            else:
                _put(out, target + column, load(work, source + column), aligned)
                column += count
    if shape.symmetric:
        for column in range(n_columns):
            target = (j + column) * shape.n2 + i
            for row in range(min(ROWS, j + column - i + 1)):
                out[target + row] = work[at + row * width + column]


def _run_piece(
    steps: np.ndarray,
    lead: int,
    curves: np.ndarray,
    largest: float,
    shapes: np.ndarray,
    work: np.ndarray,
    packed: np.ndarray,
    rows: np.ndarray,
    known: np.ndarray,
    first: int,
    last: int,
    first_column: int,
    last_column: int,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    shape = shapes[0]
    count = WORD_BYTES // work.itemsize
    width = WORDS * count
    size = ROWS * width
    numbers = shape.statistics * ROWS
    zero = spread(work, 0.0)
    for j in range(first_column, last_column, width):
        n_columns = min(width, last_column - j)
        if len(packed):
            there = (j - first_column) // width * shape.one
            for at in range(0, shape.one, count):
                store(work, at, load(packed, there + at))
        for begin in range(first, last, TOGETHER):
            end = min(begin + TOGETHER, last)
            for at in range(shape.products, shape.tiles, count):
                store(work, at, zero)
            there = begin * ROWS * shape.terms
            add_products(rows, there, work, 0, shape.terms, end - begin, work, shape.products)
            for panel in range(begin, end):
                i = panel * ROWS
                for number in range(numbers):
                    work[shape.one + number] = known[panel * numbers + number]
                _start(work, rows, i * shape.terms, shape.products + (panel - begin) * size, shape)
                for step in range(lead):
                    apply(work, steps[step], shape.tiles, shape.one, shape.others)
                if len(curves):
                    wanted = 0 if len(nngp) else 1, 2 if len(ntk) else 1
                    at = _along_curves(work, curves, largest, shape, *wanted)
                else:
                    at = _finish(work, shape)
                if len(nngp):
                    _write(work, at, shape, i, j, n_columns, nngp)
                if len(ntk):
                    _write(work, at + size, shape, i, j, n_columns, ntk)


_SOURCES = (lanes, arc_cosine, gemm, gaps, sys.modules[__name__])
_ENGINES = {
    dtype: kept_on_disk(_run_piece, f"dense_engine_in_{dtype}", _SOURCES, announce=True)
    for dtype in ("float32", "float64")
}


def run_piece(
    program: DenseProgram,
    curves: Curves | None,
    shape: np.ndarray,
    work: np.ndarray,
    packed: np.ndarray,
    rows: np.ndarray,
    known: np.ndarray,
    panels: range,
    columns: range,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    """Both kernels of some panels of rows with one panel of columns, or several that are packed.

    Parameters
    ----------
    program
        What to compute.
    curves
        Polynomials that take the place of the program's steps, but for those that lead to them.
    shape
        One record of ``SHAPE``.
    work : (size,)
        Memory of one thread, aligned to 64 bytes. A panel of columns and what is known of them are
        there, unless they are packed.
    packed : (n_panels, numbers), or empty
        Panels of columns, each with what is known of them behind it; aligned to 64 bytes.
    rows : (n_panels, terms, ROWS)
        The directions of all rows, by panels.
    known : (n_panels, statistics, ROWS)
        What is known of them.
    panels
        Of rows: which.
    columns
        Which columns they are.
    nngp, ntk : (n1, n2), or empty
        Where the kernels go, if anywhere; aligned to 64 bytes.
    """
    curves = curves or Curves(np.empty((2, 0), work.dtype), lead=len(program.steps))
    _ENGINES[work.dtype.name](
        program.steps, curves.lead, curves.coefficients.reshape(-1), curves.largest,
        shape.reshape(1),
        work, packed.reshape(-1), rows.reshape(-1), known.reshape(-1),
        panels.start, panels.stop, columns.start, columns.stop, nngp.reshape(-1), ntk.reshape(-1),
    )  # fmt: skip
