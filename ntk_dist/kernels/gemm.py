"""Products of a few rows with a few words of columns, held in registers while terms are added up.

A *tile* is ``ROWS`` rows times ``WORDS`` words of columns. Both sides come as panels: the terms
one after another, and for each of them the numbers of all rows, or of all columns, of the panel.
Every entry of a product is one sum in one order, whatever lies beside it: its bits do not depend
on how a matrix is cut into blocks, pieces and threads, as they do with a BLAS.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ntk_dist.kernels.compiling import kept_on_disk
from ntk_dist.kernels.lanes import WORD_BYTES, Lanes, call_vector, compiled, vector_of

__all__ = ["ROWS", "WORDS", "add_products", "pack"]

MOST_TERMS = 128
"""Terms of one running sum; sums of so many are then added up. Of 1023 positive terms, one running
sum is off by up to 11 roundings and eight of 128 terms by 2, for 2 % of the time."""

TERMS_AT_ONCE = 16
"""Of each sample when it is packed: a line of the cache, so that lines that displace each other,
as those at a distance of 4096 bytes do, have been used up before."""


def _tile_shape() -> tuple[int, int]:
    """Rows and words: their sums, one row's number and the words must fit the registers.

    Of 64 bytes there are 32 registers with AVX-512: 24 sums, 3 words and a row's number. With AVX2
    there are 16 of 32 bytes: 12 sums, 2 halves of a word and a row's number; NEON has twice that.
    """
    return (8, 3) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (6, 1)


ROWS, WORDS = _tile_shape()


@intrinsic
def _add_run(
    typing: Any, rows: Any, row: Any, columns: Any, column: Any, terms: Any, tile: Any, at: Any
) -> Any:
    """Add the products of ``terms`` terms to a tile.

    The numbers of the rows start at ``rows[row]``, those of the columns at ``columns[column]``,
    the tile at ``tile[at]``; all three are flat, the last two aligned to 64 bytes.
    """
    vectors = Lanes(tile.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def start(array: int, offset: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, arguments[array])
            return builder.gep(data.data, [arguments[offset]])

        def word(pointer: Any, index: Any) -> Any:
            return builder.bitcast(builder.gep(pointer, [index]), vector_of(vectors).as_pointer())

        def number(value: int) -> Any:
            return context.get_constant(types.intp, value)

        left, right, sums = start(0, 1), start(2, 3), start(5, 6)
        vector = vector_of(vectors)
        nothing = ir.Constant(vector, ir.Undefined)
        first_lane = ir.Constant(ir.IntType(32), 0)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), vectors.count), [0] * vectors.count)
        zero = ir.Constant(vector, [0.0] * vectors.count)
        running = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(WORDS)] for _ in range(ROWS)
        ]
        with cgutils.for_range(builder, arguments[4]) as loop:
            here = builder.mul(loop.index, number(WORDS * vectors.count))
            words = [
                builder.load(
                    word(right, builder.add(here, number(w * vectors.count))), align=WORD_BYTES
                )
                for w in range(WORDS)
            ]
            there = builder.mul(loop.index, number(ROWS))
            for r in range(ROWS):
                scalar = builder.load(builder.gep(left, [builder.add(there, number(r))]))
                spread = builder.shuffle_vector(
                    builder.insert_element(nothing, scalar, first_lane), nothing, everywhere
                )
                for total, each in zip(running[r], words, strict=True):
                    operands = (spread, each, builder.load(total))
                    builder.store(call_vector(builder, "llvm.fmuladd", vectors, operands), total)
        for r in range(ROWS):
            for w in range(WORDS):
                place = word(sums, number((r * WORDS + w) * vectors.count))
                total = builder.fadd(
                    builder.load(place, align=WORD_BYTES), builder.load(running[r][w])
                )
                builder.store(total, place, align=WORD_BYTES)
        return context.get_dummy_value()

    return types.void(rows, row, columns, column, terms, tile, at), generate


@compiled
def add_products(
    rows: np.ndarray,
    row: int,
    columns: np.ndarray,
    column: int,
    terms: int,
    panels: int,
    tiles: np.ndarray,
    at: int,
) -> None:
    """Add the products of some panels of rows with one of columns to a tile each.

    Parameters
    ----------
    rows, row
        A flat array, and where in it the panels of ``ROWS`` rows start: (panels, terms, ROWS).
    columns, column
        The same of the columns, aligned to 64 bytes: (terms, WORDS * lanes).
    terms
        How many of each sample.
    panels
        How many of rows. All of them use the columns of one short sum while those are in the first
        cache.
    tiles, at
        A flat array aligned to 64 bytes, and where in it the tiles start:
        (panels, ROWS, WORDS * lanes).
    """
    width = WORDS * (WORD_BYTES // tiles.itemsize)
    for done in range(0, terms, MOST_TERMS):
        run = min(MOST_TERMS, terms - done)
        for panel in range(panels):
            left, tile = row + (panel * terms + done) * ROWS, at + panel * ROWS * width
            _add_run(rows, left, columns, column + done * width, run, tiles, tile)


def _pack(
    samples: np.ndarray, scales: np.ndarray, first: int, panels: np.ndarray, width: int
) -> None:
    """See ``pack``; the samples and the panels are flat."""
    n = len(scales)
    terms = len(samples) // n
    for start in range(0, len(panels) // terms, width):
        for done in range(0, terms, TERMS_AT_ONCE):
            past = min(done + TERMS_AT_ONCE, terms)
            for lane in range(width):
                sample = first + start + lane
                to = start * terms + lane
                for term in range(done, past):
                    inside = sample < n
                    value = samples[sample * terms + term] * scales[sample] if inside else 0.0
                    panels[to + term * width] = value


_PACKING = {
    (stored, dtype): kept_on_disk(_pack, f"pack_{stored}_{dtype}", (sys.modules[__name__],))
    for stored, dtype in itertools.product(("float32", "float64"), repeat=2)
}


def pack(samples: np.ndarray, scales: np.ndarray, first: int, panels: np.ndarray) -> None:
    """Fill panels with samples from ``first`` on, and with zeros beyond the last.

    Parameters
    ----------
    samples : (n, terms)
        Float32 or float64, contiguous.
    scales : (n,)
        What each of them is multiplied by, float64.
    first
        The first sample.
    panels : (n_panels, terms, width)
        Where they go, contiguous; rounded once.
    """
    packing = _PACKING[samples.dtype.name, panels.dtype.name]
    packing(samples.reshape(-1), scales, first, panels.reshape(-1), panels.shape[2])
