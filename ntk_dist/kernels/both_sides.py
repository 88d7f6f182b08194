"""Products of some rows of a stored block with vectors on both of its sides, in one read of them.

Each number is converted to float64 in a register and serves both products there: sums of ``ROWS``
rows times up to ``TARGETS`` targets stay in registers while a run of columns passes by, and the
transposed product of those columns stays in the first cache while all rows of a tile pass by. Sums
run in one order, which depends on the shapes alone.
"""

from __future__ import annotations

import sys
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import float64, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ntk_dist.kernels import lanes
from ntk_dist.kernels.compiling import kept_on_disk
from ntk_dist.kernels.lanes import (
    WORD_BYTES,
    Lanes,
    aligned,
    call_vector,
    compiled,
    lane_count,
    vector_of,
)

__all__ = ["ROWS", "multiply_rows", "run_columns"]

SUMS = Lanes(float64)
LANES = lane_count(8)

ROWS, TARGETS = (4, 5) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (2, 2)
"""Of 64 bytes there are 32 registers with AVX-512: 20 sums, 4 words of the block, one of each side,
and room to move: 73 % of the multiply-adds that a core can do, with 10 targets. 5 x 5 and 4 x 6
were no faster, 6 x 4 and 8 x 2 slower by 13 and 40 %. With AVX2 there are 16 of 32 bytes: 4 sums
and 4 words, in two halves each."""

TILE_ROWS = 64
"""A run of 256 columns, 64 KiB in float32, stays in the second cache for all targets; with 32 or
128 rows the product took as long."""

RUN_COLUMNS = {1: 1024, 2: 512}
"""By the targets taken at once: runs whose vectors on both sides fill half of a first cache of
32 KiB."""
FEWER_RUN_COLUMNS = 256
"""For more targets at once."""


@intrinsic
def _add_run(
    typing: Any,
    block: Any,
    at: Any,
    stride: Any,
    v: Any,
    v_at: Any,
    u: Any,
    u_at: Any,
    u_stride: Any,
    across: Any,
    sums: Any,
    sums_at: Any,
    words: Any,
    width: Any,
    targets: Any,
    both: Any,
) -> Any:
    """Add the products of ``ROWS`` rows with some words of columns, for some targets.

    All arrays are flat. Rows start at ``block[at]``, ``stride`` apart. Targets of ``v`` and of
    ``across`` start at ``v_at``, ``width`` apart; ``u`` holds at ``u_at`` one number per target for
    each row, the rows ``u_stride`` apart; ``sums`` holds at ``sums_at`` a word for each row and
    target. Without ``both``, ``u`` and ``across`` are left alone.
    """
    stored = ir.VectorType(ir.FloatType() if block.dtype.bitwidth == 32 else ir.DoubleType(), LANES)
    vector = vector_of(SUMS)
    nothing = ir.Constant(vector, ir.Undefined)
    lane = ir.IntType(32)
    everywhere = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def number(value: int) -> Any:
            return context.get_constant(types.intp, value)

        def starts(array: int, offset: int, stride: int, count: int) -> list[Any]:
            data = context.make_array(signature.args[array])(context, builder, arguments[array])
            first = builder.gep(data.data, [arguments[offset]])
            far = arguments[stride]
            return [builder.gep(first, [builder.mul(far, number(n))]) for n in range(count)]

        def word(pointer: Any, index: Any, kind: Any = vector) -> Any:
            return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())

        def widened(pointer: Any, index: Any) -> Any:
            few = builder.load(word(pointer, index, stored), align=block.dtype.bitwidth // 8)
            return few if stored == vector else builder.fpext(few, vector)

        def spread(scalar: Any) -> Any:
            first = builder.insert_element(nothing, scalar, ir.Constant(lane, 0))
            return builder.shuffle_vector(first, nothing, everywhere)

        def multiply_add(*operands: Any) -> Any:
            return call_vector(builder, "llvm.fmuladd", SUMS, operands)

        def prefetch(pointer: Any) -> None:
            byte = ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [byte, lane, lane, lane])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            for_reading, kept, data = (ir.Constant(lane, value) for value in (0, 3, 1))
            builder.call(function, [builder.bitcast(pointer, byte), for_reading, kept, data])

        def run(count: int, transposed: bool) -> None:
            rows = starts(0, 1, 2, ROWS)
            left, right = starts(3, 4, 12, count), starts(8, 4, 12, count)
            scalars = starts(5, 6, 7, ROWS)
            (kept,) = starts(9, 10, 12, 1)
            places = [
                [word(kept, number((r * count + t) * LANES)) for t in range(count)]
                for r in range(ROWS)
            ]
            running = [
                [
                    cgutils.alloca_once_value(builder, builder.load(place, align=WORD_BYTES))
                    for place in line
                ]
                for line in places
            ]
            with cgutils.for_range(builder, arguments[11]) as loop:
                here = builder.mul(loop.index, number(LANES))
                numbers = [widened(row, here) for row in rows]
                # The same columns of the next rows, which no prefetcher of the hardware foresees:
                # 11.6 GB/s against 9.1 with three targets and one core.
                below = builder.add(here, builder.mul(arguments[2], number(ROWS)))
                for row in rows:
                    prefetch(builder.gep(row, [below]))
                for t in range(count):
                    factor = builder.load(word(left[t], here), align=WORD_BYTES)
                    for each, line in zip(numbers, running, strict=True):
                        builder.store(multiply_add(each, factor, builder.load(line[t])), line[t])
                    if transposed:
                        place = word(right[t], here)
                        total = builder.load(place, align=WORD_BYTES)
                        for each, scalar in zip(numbers, scalars, strict=True):
                            factor = spread(builder.load(builder.gep(scalar, [number(t)])))
                            total = multiply_add(each, factor, total)
                        builder.store(total, place, align=WORD_BYTES)
            for line, totals in zip(places, running, strict=True):
                for place, total in zip(line, totals, strict=True):
                    builder.store(builder.load(total), place, align=WORD_BYTES)

        for count in range(1, TARGETS + 1):
            chosen = builder.icmp_signed("==", arguments[13], number(count))
            for transposed, wanted in ((True, arguments[14]), (False, builder.not_(arguments[14]))):
                with builder.if_then(builder.and_(chosen, wanted)):
                    run(count, transposed)
        return context.get_dummy_value()

    index = types.intp
    given = (block, index, index, v, index, u, index, index, across, sums, index)
    return types.void(*given, index, index, index, types.boolean), generate


@compiled
def _gather(
    block: np.ndarray, at: int, stride: int, rows: int, columns: int, spare: np.ndarray, width: int
) -> None:
    """Copy a corner of a block, and zeros up to ``ROWS`` rows and whole words of columns."""
    for row in range(ROWS):
        for column in range(-(-columns // LANES) * LANES):
            inside = row < rows and column < columns
            value = block[at + row * stride + column] if inside else 0.0
            spare[row * width + column] = value


def _multiply(
    block: np.ndarray,
    first: int,
    rows: int,
    columns: int,
    v: np.ndarray,
    u: np.ndarray,
    targets: int,
    width: int,
    both: bool,
    down: np.ndarray,
    across: np.ndarray,
    sums: np.ndarray,
    spare: np.ndarray,
    spared: np.ndarray,
) -> None:
    """See ``multiply_rows``; all arrays are flat, and ``spared`` is ``spare``, to be read."""
    groups = -(-targets // TARGETS)
    across[:] = 0.0
    for top in range(0, rows, TILE_ROWS):
        height = min(TILE_ROWS, rows - top)
        sums[:] = 0.0
        for left in range(0, columns, width):
            span = min(width, columns - left)
            target = 0
            for group in range(groups):
                count = (targets - target) // (groups - group)
                for row in range(0, height, ROWS):
                    many = min(ROWS, height - row)
                    whole = span // LANES if many == ROWS else 0
                    some = span - whole * LANES
                    at = (first + top + row) * columns + left
                    v_at = left * targets + target * width
                    u_at = (top + row) * targets + target
                    sums_at = (row * targets + ROWS * target) * LANES
                    source, start, stride, words = block, at, columns, whole
                    for ragged in range(2 if some else 1):
                        if ragged:
                            at += whole * LANES
                            v_at += whole * LANES
                            _gather(block, at, columns, many, some, spare, width)
                            source, start, stride, words = spared, 0, width, -(-some // LANES)
                        # In one place only: it takes more than a second to compile.
                        _add_run(
                            source, start, stride, v, v_at, u, u_at, targets,
                            across, sums, sums_at, words, width, count, both,
                        )  # fmt: skip
                target += count
        for row in range(height):
            among = row % ROWS
            target = 0
            for group in range(groups):
                count = (targets - target) // (groups - group)
                at = ((row - among) * targets + ROWS * target + among * count) * LANES
                for t in range(count):
                    total = 0.0
                    for each in range(LANES):
                        total += sums[at + t * LANES + each]
                    down[(top + row) * targets + target + t] = total
                target += count


_MULTIPLYING = {
    dtype: kept_on_disk(_multiply, f"multiply_{dtype}", (sys.modules[__name__], lanes))
    for dtype in ("float32", "float64")
}


def run_columns(targets: int) -> int:
    """Columns of one run, for this number of targets."""
    at_once = -(-targets // max(1, -(-targets // TARGETS)))
    return RUN_COLUMNS.get(at_once, FEWER_RUN_COLUMNS)


def multiply_rows(
    block: NDArray[Any],
    rows: slice,
    v: NDArray[np.float64],
    u: NDArray[np.float64] | None,
    down: NDArray[np.float64],
    across: NDArray[np.float64],
) -> None:
    """Fill ``down`` with ``block[rows] @ v`` and, unless ``u`` is None, ``across`` too.

    Parameters
    ----------
    block : (n_rows, n_cols)
        Float32 or float64, contiguous.
    rows
        Which of them; start and stop only.
    v
        Runs of ``run_columns`` columns: ``(runs, targets, columns)``, flat, aligned to 64 bytes,
        with zeros after the last column.
    u : (rows, targets)
        Contiguous.
    down : (rows, targets)
        Contiguous.
    across
        ``block[rows].T @ u``, laid out as ``v`` is; empty without ``u``.
    """
    height, targets = down.shape
    width = run_columns(targets)
    padded = -(-height // ROWS) * ROWS
    left: NDArray[np.float64] = np.empty(0)
    if u is not None:
        left = u
        if height < padded:
            left = np.zeros((padded, targets))
            left[:height] = u
    sums = aligned(min(padded, TILE_ROWS) * targets * LANES, np.float64)
    spare = aligned(ROWS * width, block.dtype)
    _MULTIPLYING[block.dtype.name](
        _to_read(block), rows.start, height, block.shape[1], v, _to_read(left), targets, width,
        u is not None, down.reshape(-1), across, sums, spare, _to_read(spare),
    )  # fmt: skip


def _to_read(array: NDArray[Any]) -> NDArray[Any]:
    """The array, flat and not to be written to: one type for all that comes from anywhere."""
    flat = array.reshape(-1).view()
    flat.flags.writeable = False
    return flat
