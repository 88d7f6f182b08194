"""Blocks of kernels without spatial axes on CPU: one product of samples, and all layers after it.

Same numbers as ``recursion.py``: ``gaps.py`` has the arithmetic, ``tiles.py`` the loops.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from ntk_dist.kernels.curves import Curves, fit
from ntk_dist.kernels.dense_program import DenseProgram
from ntk_dist.kernels.gemm import ROWS, WORDS, pack
from ntk_dist.kernels.lanes import aligned, lane_count
from ntk_dist.kernels.threads import PIECES_PER_THREAD, in_threads
from ntk_dist.kernels.tiles import SHAPE, TOGETHER, run_piece

__all__ = ["Columns", "columns_bytes", "dense_block", "working_bytes"]

SMALLEST_SQUARE = 1e-290
"""Below it, the squares that were added up have lost digits."""
SAME_NORM = {np.dtype(np.float32): 2.0**-22, np.dtype(np.float64): 2.0**-50}
"""Relative: samples scaled to one norm in either precision differ by less. Kernels change by as
much as norms do, and less where only their share beside biases counts."""
PANELS_PER_RUN = 8
"""Samples are looked at 64 at a time: 1.5 MB in float64 at 3072 features."""


def dense_block(
    program: DenseProgram,
    x1: np.ndarray,
    x2: np.ndarray | Columns | None,
    dtype: np.dtype[np.floating],
    threads: int = 1,
    kernels: Iterable[str] = ("nngp", "ntk"),
) -> dict[str, np.ndarray]:
    """Each kernel between all samples of two sets: (n1, n2) each, in ``dtype``.

    An entry has the same bits with any number of threads, in every block it may be computed in,
    and is the same for (x, y) and (y, x); but where biases count and all samples of a block have
    one norm to ``SAME_NORM``, its last digits know that. Pairs of equal or opposite samples are
    computed like all others, as if nobody knew that their correlation is exactly 1 or -1: the
    caller puts the known values there.

    Parameters
    ----------
    program
        What ``compile_dense`` made of an architecture for such samples.
    x1 : (n1, features)
        Samples, float32 or float64, as they are stored.
    x2 : (n2, features), Columns or None
        Other samples, or what was made of them by the same program in the same dtype; ``None``
        states that they are ``x1``. Then only the upper triangle is computed, and mirrored.
    dtype
        float32 or float64, of the arithmetic and of the block.
    threads
        How many to use.
    kernels
        ``"nngp"``, ``"ntk"`` or both; one alone saves writing the other.
    """
    dtype = np.dtype(dtype)
    left = _Side(program, x1, dtype, threads)
    right: _Side | Columns
    if isinstance(x2, Columns):
        right = x2
    else:
        right = left if x2 is None else _Side(program, x2, dtype, threads)
    length = 1.0 if program.sees_angles_alone else _one_length(left, right, dtype)
    curves = None if program.adds or length is None else _curves(program, length, dtype)
    return _block(program, curves, left, right, dtype, threads, tuple(kernels))


def _block(
    program: DenseProgram,
    curves: Curves | None,
    left: _Side,
    right: _Side | Columns,
    dtype: np.dtype[np.floating],
    threads: int,
    kernels: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """See ``dense_block``; symmetric if both sides are one."""
    symmetric, features = left is right, left.samples.shape[1]
    n1, n2 = len(left.lengths), len(right.lengths)
    shape, size = _shape(program, features, dtype)
    shape["n1"], shape["n2"], shape["symmetric"] = n1, n2, symmetric
    n_panels = -(-n1 // ROWS)
    rows = np.empty((n_panels, features, ROWS), dtype)
    known = np.empty((n_panels, len(program.statistics), ROWS), dtype)
    block = {name: aligned(n1 * n2, dtype).reshape(n1, n2) for name in kernels}
    nothing = np.empty((0, 0), dtype)

    def prepare(panels: Iterator[range]) -> None:
        for some in panels:
            here = slice(some.start, some.stop)
            left.put(some.start * ROWS, rows[here], known[here])

    def compute(pieces: Iterator[tuple[range, range]]) -> None:
        memory = aligned(size, dtype)
        columns = memory[: shape["others"]].reshape(1, features, -1)
        others = memory[shape["others"] : shape["one"]].reshape(1, len(program.statistics), -1)
        for here, panels in pieces:
            packed = nothing
            if isinstance(right, Columns):
                packed = right.panels(here)
            else:
                right.put(here.start, columns, others)
            run_piece(
                program, curves, shape, memory, packed, rows, known, panels, here,
                block.get("nngp", nothing), block.get("ntk", nothing),
            )  # fmt: skip

    in_threads(threads, prepare, _runs(n_panels, PANELS_PER_RUN))
    width = WORDS * lane_count(dtype.itemsize)
    if isinstance(right, Columns):
        pieces = _packed_pieces(n1, n2, width, threads)
    else:
        pieces = _pieces(n1, n2, width, symmetric, threads)
    in_threads(threads, compute, pieces)
    return block


def working_bytes(
    program: DenseProgram,
    features: int,
    dtype: np.dtype[np.floating],
    n1: int,
    n2: int,
    threads: int,
) -> int:
    """Peak memory of ``dense_block`` for n1 and n2 samples, beside samples and results."""
    dtype = np.dtype(dtype)
    numbers = len(program.statistics)
    panels = -(-n1 // ROWS) * ROWS * (features + numbers)
    thread = _shape(program, features, dtype)[1]
    double = np.float64().itemsize
    # Of each sample in float64: its deviations, and the statistics before they are stacked.
    alone = double * (n1 + n2) * (len(program.deviations) + 2 * numbers)
    squares = double * PANELS_PER_RUN * ROWS * features
    return dtype.itemsize * (panels + threads * thread) + alone + squares


def _one_length(left: _Side, right: _Side | Columns, dtype: np.dtype[np.floating]) -> float | None:
    """The root mean square that all samples of both sides share, rounded; or None."""
    lengths = np.concatenate([left.lengths, right.lengths])
    least, most = float(lengths.min()), float(lengths.max())
    same = SAME_NORM[dtype]
    if not (most > 0 and most - least <= same * most):
        return None
    # Rounded so that the blocks of one data set share their curves, which are fitted once.
    mantissa, exponent = math.frexp((least + most) / 2)
    return math.ldexp(round(mantissa / same) * same, exponent)


@functools.lru_cache(maxsize=64)
def _curves(program: DenseProgram, length: float, dtype: np.dtype[np.floating]) -> Curves | None:
    """Polynomials in place of the program's layers, if they are worth it: see ``curves.py``.

    Parameters
    ----------
    program
        What they take the place of.
    length
        Root mean square of every sample.
    dtype
        Of the arithmetic with them.
    """
    double = np.dtype(np.float64)
    share = program.share_of_weights(length)
    if not share:
        return None

    def kernels_at(angles: np.ndarray) -> np.ndarray:
        before = 2 * np.arcsin(np.minimum(np.sin(angles / 2) / share, 1))
        flat = math.sqrt(2) * length * np.stack([np.cos(before), np.sin(before)], axis=1)
        first, others = (_Side(program, x, double, 1) for x in (flat[:1], flat))
        block = _block(program, None, first, others, double, 1, ("nngp", "ntk"))
        return np.concatenate([block["nngp"], block["ntk"]])

    return fit(kernels_at, dtype, 2 * math.asin(share), lead=int(program.begins_with_bias))


class _Side:
    """Samples, and what is known of each of them alone."""

    def __init__(
        self, program: DenseProgram, x: np.ndarray, dtype: np.dtype[np.floating], threads: int
    ) -> None:
        self.samples = np.ascontiguousarray(x)
        norms = np.empty(len(x))

        def measure(runs: Iterator[range]) -> None:
            for some in runs:
                here = slice(some.start, some.stop)
                norms[here] = _norms(self.samples[here])

        # One thread took a tenth of a block of 4096 x 4096 pairs for this.
        in_threads(threads, measure, _runs(len(x), PANELS_PER_RUN * ROWS))
        self._inverses = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        self.lengths = norms / math.sqrt(x.shape[1])
        """Root mean square of each sample."""
        self._known = program.known(self.lengths, dtype)

    def put(self, first: int, directions: np.ndarray, known: np.ndarray) -> None:
        """Fill panels with samples from ``first`` on, and with zeros beyond the last.

        Parameters
        ----------
        first
            The first sample.
        directions : (panels, features, width)
            Where the samples go, at length 1.
        known : (panels, statistics, width)
            Where what is known of them goes.
        """
        pack(self.samples, self._inverses, first, directions)
        n_panels, _, width = known.shape
        numbers = self._known[first : first + n_panels * width]
        padded = np.zeros((n_panels * width, numbers.shape[1]), numbers.dtype)
        padded[: len(numbers)] = numbers
        known[...] = padded.reshape(n_panels, width, -1).transpose(0, 2, 1)


class Columns:
    """Samples in the panels that tiles are made with, for all blocks whose columns they are.

    A block of one row and 10,000 columns took 100 ms, nearly all of it to measure and pack columns.

    Parameters
    ----------
    program
        What ``compile_dense`` made of an architecture for such samples.
    x : (n, features)
        Samples, float32 or float64; not kept.
    dtype
        Of the arithmetic.
    """

    def __init__(self, program: DenseProgram, x: np.ndarray, dtype: np.dtype[np.floating]) -> None:
        side = _Side(program, x, dtype, 1)
        self.lengths = side.lengths
        """Root mean square of each sample."""
        self._width = WORDS * lane_count(dtype.itemsize)
        n_panels, terms = -(-len(x) // self._width), x.shape[1]
        numbers = terms + len(program.statistics)
        flat = aligned(n_panels * numbers * self._width, dtype)
        self._panels = flat.reshape(n_panels, numbers, self._width)
        self._terms = terms
        for panel, values in enumerate(self._panels):
            side.put(panel * self._width, values[None, :terms], values[None, terms:])

    def panels(self, columns: range) -> np.ndarray:
        """Whole panels, each with what is known of its samples behind it."""
        width = self._width
        found: np.ndarray = self._panels[columns.start // width : -(-columns.stop // width)]
        return found

    def direction(self, sample: int) -> np.ndarray:
        """One sample at length 1, rounded: (features,)."""
        panel, lane = divmod(sample, self._width)
        values: np.ndarray = self._panels[panel, : self._terms, lane]
        return values


def columns_bytes(
    program: DenseProgram, features: int, dtype: np.dtype[np.floating], n: int
) -> int:
    """Memory of ``Columns`` of n samples."""
    width = WORDS * lane_count(dtype.itemsize)
    panel = width * (features + len(program.statistics)) * dtype.itemsize
    return -(-n // width) * panel + n * np.float64().itemsize


def _norms(x: np.ndarray) -> np.ndarray:
    """The length of each row, in float64; its bits do not depend on the other rows."""
    rows = x.astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    norms: np.ndarray = np.sqrt(squares)
    # Squares of what is below 1e-154, or beyond 1e154, are nothing or infinite.
    for i in (~((squares > SMALLEST_SQUARE) & np.isfinite(squares))).nonzero()[0]:
        largest = np.abs(rows[i]).max()
        if largest > 0:
            norms[i] = largest * np.sqrt(np.square(rows[i] / largest).sum())
    return norms


def _shape(
    program: DenseProgram, features: int, dtype: np.dtype[np.floating]
) -> tuple[np.ndarray, int]:
    """Where everything is in the memory of one thread, and how many numbers that is."""
    lanes = lane_count(dtype.itemsize)
    width = WORDS * lanes
    numbers = len(program.statistics)
    shape = np.zeros((), SHAPE)
    shape["terms"], shape["statistics"], shape["last"] = features, numbers, program.last
    shape["others"] = features * width
    shape["one"] = shape["others"] + numbers * width
    shape["products"] = shape["one"] + -(-numbers * ROWS // lanes) * lanes
    shape["tiles"] = shape["products"] + TOGETHER * ROWS * width
    return shape, int(shape["tiles"]) + program.places * 2 * ROWS * width


def _runs(n: int, length: int) -> Iterator[range]:
    """``range(n)`` in runs."""
    return (range(i, min(i + length, n)) for i in range(0, n, length))


def _pieces(
    n1: int, n2: int, width: int, symmetric: bool, threads: int
) -> Iterator[tuple[range, range]]:
    """A panel of columns, and some panels of rows to compute it for."""
    n_panels, n_words = -(-n1 // ROWS), -(-n2 // width)
    length = max(1, n_panels * n_words // (PIECES_PER_THREAD * threads))
    for word in reversed(range(n_words)):
        columns = range(word * width, min((word + 1) * width, n2))
        wanted = min(n_panels, -(-columns.stop // ROWS)) if symmetric else n_panels
        for rows in _runs(wanted, length):
            yield columns, rows


def _packed_pieces(n1: int, n2: int, width: int, threads: int) -> Iterator[tuple[range, range]]:
    """Some panels of columns, and all panels of rows to compute them for.

    To ask for each panel alone took half of the time of a block of one row.
    """
    panels = range(-(-n1 // ROWS))
    n_words = -(-n2 // width)
    for words in _runs(n_words, max(1, n_words // (PIECES_PER_THREAD * threads))):
        yield range(words.start * width, min(words.stop * width, n2)), panels
