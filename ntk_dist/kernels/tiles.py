"""Whole pieces of a block, tile by tile: products in registers, then all layers in the first cache.

A panel of columns stays in the second-level cache while the panels of the rows pass by. A tile is
made, goes through all steps of the program and is written out once, as both kernels.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import event
from numba.extending import intrinsic

from ntk_dist.kernels import arc_cosine, gaps, gemm, lanes
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.gaps import apply
from ntk_dist.kernels.gemm import ROWS, WORDS, add_products
from ntk_dist.kernels.lanes import (
    COMPILER_OPTIONS,
    WORD_BYTES,
    compiled,
    keep_positive,
    load,
    magnitude,
    spread,
    store,
    vector_of,
    with_sign,
)

__all__ = ["LAYOUT", "run_piece"]

log = logging.getLogger(__name__)

WORK_ARGUMENT = 2
"""Place of ``work`` among the arguments of ``_run_piece``: its type is that of the tiles."""

CLOSE = 0.99
"""Correlations of samples, of either sign, beyond which the gap comes from their difference."""

LAYOUT = np.dtype([(name, "i8") for name in "terms others one tiles last statistics".split()])
"""Terms of a product; where in the memory of a thread what is known of the columns, of the rows,
and the tiles start (the panel of columns is at 0); the place of the last tile; and how many
numbers are known of a sample, the last of them its standard deviation at the end."""


@intrinsic
def _any_positive(typing: Any, value: Any) -> Any:
    """Whether a lane is above zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(vector_of(value), [0.0] * value.count)
        above = builder.fcmp_ordered(">", arguments[0], zero)
        bits = builder.bitcast(above, ir.IntType(value.count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(value), generate


@compiled
def _gap_by_difference(
    work: np.ndarray, rows: np.ndarray, row: int, column: int, terms: int, c: Any
) -> Any:
    """Half the squared distance of directions, of which one is turned round where c is negative."""
    turned = with_sign(spread(work, 1.0), c)
    total = spread(work, 0.0)
    width = WORDS * (WORD_BYTES // work.itemsize)
    for term in range(terms):
        difference = load(work, column) - turned * spread(work, rows[row])
        total = total + difference * difference
        row += ROWS
        column += width
    return spread(work, 0.5) * total


@compiled
def _start(work: np.ndarray, rows: np.ndarray, panel: int, layout: Any) -> None:
    """The first tile: signed gaps between the directions of the samples, and no NTK yet."""
    count = WORD_BYTES // work.itemsize
    width = WORDS * count
    size = ROWS * width
    zero, full, close = spread(work, 0.0), spread(work, 1.0), spread(work, 1.0 - CLOSE)
    for at in range(layout.tiles, layout.tiles + 2 * size, count):
        store(work, at, zero)
    add_products(rows, panel, work, 0, layout.terms, work, layout.tiles)
    for row in range(ROWS):
        for column in range(0, width, count):
            at = layout.tiles + row * width + column
            c = load(work, at)
            g = keep_positive(full - magnitude(c))
            if _any_positive(close - g):
                exact = _gap_by_difference(work, rows, panel + row, column, layout.terms, c)
                g = gaps.choose(g - close, exact, g)
            store(work, at, with_sign(g, c))


@compiled
def _finish(work: np.ndarray, layout: Any) -> int:
    """The last tile as covariances and NTK, in place."""
    count = WORD_BYTES // work.itemsize
    width = WORDS * count
    size = ROWS * width
    start = layout.tiles + layout.last * 2 * size
    one = layout.one + (layout.statistics - 1) * ROWS
    others = layout.others + (layout.statistics - 1) * width
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
def _write(
    work: np.ndarray, at: int, i: int, j: int, n_columns: int, symmetric: bool, out: np.ndarray
) -> None:
    """One kernel of a tile whose first entry is (i, j) of a block; and mirrored."""
    width = WORDS * (WORD_BYTES // work.itemsize)
    for row in range(min(ROWS, out.shape[0] - i)):
        first = max(0, i + row - j) if symmetric else 0
        for column in range(first, n_columns):
            out[i + row, j + column] = work[at + row * width + column]
    if symmetric:
        for column in range(n_columns):
            for row in range(min(ROWS, j + column - i + 1)):
                out[j + column, i + row] = work[at + row * width + column]


@compiled
def _run_piece(
    steps: np.ndarray,
    layouts: np.ndarray,
    work: np.ndarray,
    rows: np.ndarray,
    known: np.ndarray,
    first: int,
    last: int,
    j: int,
    n_columns: int,
    symmetric: bool,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    layout = layouts[0]
    size = ROWS * WORDS * (WORD_BYTES // work.itemsize)
    for panel in range(first, last):
        i = panel * ROWS
        work[layout.one : layout.one + known.shape[1]] = known[panel]
        _start(work, rows, i * layout.terms, layout)
        for step in range(len(steps)):
            apply(work, steps[step], layout.tiles, layout.one, layout.others)
        at = _finish(work, layout)
        _write(work, at, i, j, n_columns, symmetric, nngp)
        _write(work, at + size, i, j, n_columns, symmetric, ntk)


def _kept_on_disk(digest: str) -> Any:
    """``_run_piece``, compiled once per machine and precision.

    numba recompiles when the file of a function changes, but not when the file of one that it
    calls does; the digest of all of them is part of the key because the function reads it.
    """

    def entry(*arguments: Any) -> None:
        assert digest
        _run_piece(*arguments)

    try:
        return njit(cache=True, **COMPILER_OPTIONS)(entry)
    except RuntimeError:  # numba found no folder to write to: each process compiles for itself
        return njit(**COMPILER_OPTIONS)(entry)


_entry = _kept_on_disk(
    hashlib.sha256(
        "".join(
            map(inspect.getsource, (lanes, arc_cosine, gemm, gaps, sys.modules[__name__]))
        ).encode()
    ).hexdigest()
)


class _Announcement(event.Listener):
    """Says what is being waited for; silent where the compiled function was found on disk."""

    def on_start(self, event: Any) -> None:
        """Called before numba compiles any function."""
        if event.data["dispatcher"] is _entry:
            (arguments,) = event.data["args"]
            log.info(
                "compiling the fused dense engine in %s: some seconds, and then kept in %s",
                arguments[WORK_ARGUMENT].dtype,
                _entry.stats.cache_path or "this process",
            )

    def on_end(self, event: Any) -> None:
        """Called after it."""


event.register("numba:compile", _Announcement())


def run_piece(
    program: DenseProgram,
    layout: np.ndarray,
    work: np.ndarray,
    rows: np.ndarray,
    known: np.ndarray,
    panels: range,
    columns: slice,
    symmetric: bool,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    """Both kernels of some panels of rows with one panel of columns.

    Parameters
    ----------
    program
        What to compute.
    layout
        One record of ``LAYOUT``.
    work : (size,)
        Memory of one thread, aligned to 64 bytes; the columns and what is known of them are there.
    rows : (n_panels, terms, ROWS)
        The directions of all rows, by panels.
    known : (n_panels, statistics * ROWS)
        What is known of them.
    panels
        Of rows: which.
    columns
        Which columns they are.
    symmetric : bool
        Whether to write only entries from the diagonal on, and each also mirrored.
    nngp, ntk : (n1, n2)
        Where the kernels go.
    """
    _entry(
        program.steps, layout.reshape(1), work, rows.reshape(-1), known,
        panels.start, panels.stop, columns.start, columns.stop - columns.start,
        symmetric, nngp, ntk,
    )  # fmt: skip
