"""The product of one stored block with vectors from both sides, in one read of it.

A block in float32 is read faster than two calls of a BLAS multiply by it, and sums in float32
would stall a solver (see :mod:`ntk_dist.gram.shard`). So each number is converted to float64 in a
register and serves both products there: sums of ``ROWS`` rows times up to ``TARGETS`` targets stay
in registers while a run of columns passes by, and the transposed product of those columns stays in
the first cache while all the rows of a tile do.

Every sum is taken in one order, which depends on the shape of the block and on the number of
targets, and on no number of threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

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
from ntk_dist.kernels.threads import in_threads

__all__ = ["InOrder", "Panels", "multiply", "multiply_strip", "strips"]

Array = NDArray[np.float64]
Terms = TypeVar("Terms")

SUMS = Lanes(float64)
LANES = lane_count(8)

ROWS, TARGETS = (4, 5) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (2, 2)
"""Of 64 bytes there are 32 registers with AVX-512: 20 sums, 4 words of the block, one of each side,
and room to move; 8 x 3, 5 x 5 and 4 x 6 were no faster. With AVX2 there are 16 of 32 bytes: 4 sums
and 4 words, in two halves each."""

TILE_ROWS = 64
"""A run of 256 columns, 64 KiB in float32, stays in the second cache for all targets; with 32 or
128 rows the product takes the same time within 3 %."""

STRIP_ROWS = 512
"""Rows that one thread takes at a time: with 2048 columns 0.5 ms with one target. Each strip has a
transposed product of its own to add: 3 % of the time with 10 targets."""

PANEL_COLUMNS = {1: 1024, 2: 512}
"""By the targets taken at once: runs whose vectors on both sides fill half of a first cache of
32 KiB."""
NARROW_PANEL_COLUMNS = 256
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
    """Copy a corner of a block to where zeros follow its rows and columns."""
    spare[:] = 0.0
    for row in range(rows):
        for column in range(columns):
            spare[row * width + column] = block[at + row * stride + column]


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
    """See ``multiply_strip``; all arrays are flat, and ``spared`` is ``spare``, to be read."""
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
                    for ragged in range(2):
                        if ragged and some:
                            at += whole * LANES
                            _gather(block, at, columns, many, some, spare, width)
                            source, start, stride, words = spared, 0, width, -(-some // LANES)
                            v_at += whole * LANES
                        if words and (some or not ragged):
                            # Called in one place, for it takes seconds to compile.
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


class Panels:
    """Vectors as the right side of a product, in runs of rows: ``(runs, targets, width)``.

    Parameters
    ----------
    v : (n, targets)
        In float64.
    """

    def __init__(self, v: Array) -> None:
        self.n, self.targets = v.shape
        self.width = _width(self.targets)
        self.values = _panels(self.n, self.targets)
        whole = self.n // self.width
        runs = self.values.reshape(-(-self.n // self.width), self.targets, self.width)
        split = v[: whole * self.width].reshape(whole, self.width, self.targets)
        runs[:whole] = split.swapaxes(1, 2)
        if whole < len(runs):
            rest = v[whole * self.width :]
            runs[whole, :, : len(rest)] = rest.T
            runs[whole, :, len(rest) :] = 0.0

    @staticmethod
    def unpacked(values: Array, n: int, targets: int) -> Array:
        """A transposed product as the caller knows it: shape ``(n, targets)``."""
        width = _width(targets)
        runs = values.reshape(-(-n // width), targets, width)
        return runs.swapaxes(1, 2).reshape(len(runs) * width, targets)[:n]


def _width(targets: int) -> int:
    """Columns of one run."""
    at_once = -(-targets // max(1, -(-targets // TARGETS)))
    return PANEL_COLUMNS.get(at_once, NARROW_PANEL_COLUMNS)


def _panels(n: int, targets: int) -> Array:
    """Room for them."""
    width = _width(targets)
    return aligned(-(-n // width) * width * targets, np.float64)


def strips(n_rows: int) -> Iterator[slice]:
    """Rows of a block in the pieces that threads take."""
    for start in range(0, n_rows, STRIP_ROWS):
        yield slice(start, min(start + STRIP_ROWS, n_rows))


def multiply_strip(
    block: NDArray[Any], rows: slice, v: Panels, u: Array | None
) -> tuple[Array, Array | None]:
    """``block[rows] @ v`` and, unless ``u`` is None, ``block[rows].T @ u`` as panels.

    Parameters
    ----------
    block : (n_rows, n_cols)
        Float32 or float64, contiguous.
    rows
        One of its strips.
    v
        Of ``n_cols`` rows.
    u : (rows, targets)
        For the rows of the strip, in float64; contiguous.

    Raises
    ------
    ValueError
        The block is of another kind or not contiguous, or the sides do not fit it.
    """
    height, n_cols, targets = rows.stop - rows.start, block.shape[1], v.targets
    padded = -(-height // ROWS) * ROWS
    left: Array = np.empty(0)
    if u is not None:
        left = u
        if height < padded:
            left = np.zeros((padded, targets))
            left[:height] = u
    down = np.empty((height, targets))
    across = _panels(n_cols if u is not None else 0, targets)
    sums = aligned(min(padded, TILE_ROWS) * targets * LANES, np.float64)
    spare = aligned(ROWS * v.width, block.dtype)
    _MULTIPLYING[block.dtype.name](
        _to_read(block), rows.start, height, n_cols, v.values, _to_read(left), targets, v.width,
        u is not None, down.reshape(-1), across, sums, spare, _to_read(spare),
    )  # fmt: skip
    return down, None if u is None else across


def multiply(
    block: NDArray[Any], v: Array, u: Array | None, threads: int
) -> tuple[Array, Array | None]:
    """``block @ v`` and, unless ``u`` is None, ``block.T @ u``, in one read of the block.

    Parameters
    ----------
    block : (n_rows, n_cols)
        Float32 or float64, contiguous.
    v : (n_cols, targets)
        In float64.
    u : (n_rows, targets)
        In float64.
    threads
        How many share the work; the answer is the same to the last bit for any number.

    Raises
    ------
    ValueError
        The block is of another kind or not contiguous, or the sides do not fit it.
    """
    require_block(block)
    n_rows, n_cols = block.shape
    targets = v.shape[1]
    if v.shape != (n_cols, targets) or (u is not None and u.shape != (n_rows, targets)):
        shapes = f"{v.shape} and {None if u is None else u.shape}"
        raise ValueError(
            f"a block of shape {block.shape}: expected vectors of shape ({n_cols}, k) and "
            f"({n_rows}, k), got {shapes}"
        )
    panels = Panels(v)
    left = None if u is None else np.ascontiguousarray(u, np.float64)
    down = np.empty((n_rows, targets))
    total: list[Array] = []

    def add(terms: tuple[slice, Array, Array | None]) -> None:
        rows, here, across = terms
        down[rows] = here
        if across is not None:
            if total:
                total[0] += across
            else:
                total.append(across)

    ordered = InOrder(add)

    def work(pieces: Iterator[tuple[int, slice]]) -> None:
        for number, rows in pieces:
            few = None if left is None else left[rows]
            ordered.put(number, (rows, *multiply_strip(block, rows, panels, few)))

    in_threads(threads, work, enumerate(strips(n_rows)))
    return down, Panels.unpacked(total[0], n_cols, targets) if total else None


def require_block(block: NDArray[Any]) -> None:
    """Refuse what is no block.

    Raises
    ------
    ValueError
        It is neither float32 nor float64, or its rows do not follow each other in memory.
    """
    if block.ndim != 2 or block.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"expected a block of float32 or float64 with two axes, got {block.dtype} of shape "
            f"{block.shape}"
        )
    if not (block.flags.c_contiguous and block.flags.aligned):
        raise ValueError(
            f"expected a block that is contiguous in memory, row after row, got one with strides "
            f"of {block.strides} bytes: give np.ascontiguousarray(block)"
        )


def _to_read(array: NDArray[Any]) -> NDArray[Any]:
    """The array, flat and not to be written to: one type for all that comes from anywhere."""
    flat = array.reshape(-1).view()
    flat.flags.writeable = False
    return flat


class InOrder(Generic[Terms]):
    """Adds what several threads finish, in the order of its numbers.

    Parameters
    ----------
    add
        Called with the terms of 0, 1, 2, ... as soon as their turn has come, never twice at once.
    """

    def __init__(self, add: Callable[[Terms], None]) -> None:
        self._add = add
        self._next = 0
        self._waiting: dict[int, Terms] = {}
        self._lock = threading.Lock()

    def put(self, number: int, terms: Terms) -> None:
        """Take what belongs to one number."""
        with self._lock:
            self._waiting[number] = terms
            while self._next in self._waiting:
                self._add(self._waiting.pop(self._next))
                self._next += 1
