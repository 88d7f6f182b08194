"""The product of one stored block with vectors from both sides, in one read of it.

A block in float32 is read faster than two calls of a BLAS multiply by it, and sums in float32
would stall a solver (see :mod:`ntk_dist.gram.shard`), so :mod:`ntk_dist.kernels.both_sides`
multiplies, compiled. Here the work is cut into strips for threads, by the shape of the block and
never by the number of threads, and what strips say is added in their order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_dist.kernels.both_sides import multiply_rows, run_columns
from ntk_dist.kernels.lanes import aligned
from ntk_dist.kernels.threads import in_threads

__all__ = ["STRIP_ROWS", "InOrder", "Panels", "multiply", "multiply_strip", "strips"]

Array = NDArray[np.float64]
Terms = TypeVar("Terms")

STRIP_ROWS = 1024
"""Rows that one thread takes at a time: with 2048 columns 0.7 ms with one target, 2 ms with 10.
Each has a transposed product of its own to add: strips of 512 rows took 5 % longer."""


class Panels:
    """Vectors as the right side of a product, in runs of rows: ``(runs, targets, width)``.

    Parameters
    ----------
    v : (n, targets)
        In float64.
    """

    def __init__(self, v: Array) -> None:
        self.n, self.targets = v.shape
        self.width = run_columns(self.targets)
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
        width = run_columns(targets)
        runs = values.reshape(-(-n // width), targets, width)
        return runs.swapaxes(1, 2).reshape(len(runs) * width, targets)[:n]


def _panels(n: int, targets: int) -> Array:
    """Room for them."""
    width = run_columns(targets)
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
    """
    down = np.empty((rows.stop - rows.start, v.targets))
    across = _panels(block.shape[1] if u is not None else 0, v.targets)
    multiply_rows(block, rows, v.values, u, down, across)
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
    targets = v.shape[-1]
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
