"""Blocks of convolutional kernels on CPU, plane by plane, without the big tensors.

Same numbers as ``recursion.py``: ``planes.py`` has the idea and ``arc_cosine.py`` the arithmetic.
What comes after Flatten or global pooling is left to ``tail.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ntk_dist.kernels.closeness import close_pairs, search_bytes
from ntk_dist.kernels.lanes import DOUBLE, SINGLE
from ntk_dist.kernels.program import Program, Programs
from ntk_dist.kernels.segments import Prepared, run_block
from ntk_dist.kernels.statistics import Side
from ntk_dist.kernels.tail import tail_bytes, through_tail
from ntk_dist.kernels.threads import PIECES_PER_THREAD, in_threads, thread_memory

__all__ = [
    "fused_block",
    "in_words",
    "plane_dtype",
    "prepared",
    "spatial_bytes",
    "spatial_part",
    "working_bytes",
]

MOST_TERMS = 4096
"""Running sums of more float32 numbers are left to float64: windows of 8 x 8 positions, 4096 terms,
err by 2e-7, and 16 x 16 by 3e-6."""
CLOSE_COLUMNS = 32
"""Close pairs of a row computed at a time, so that a thread's share does not grow with the block:
four layers on 32 x 32 images take 4 MB, and each call costs a tenth of a millisecond."""


def fused_block(
    programs: Programs,
    left: Side,
    right: Side | None,
    dtype: np.dtype[np.floating],
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK between all samples of two sets: (n1, n2) each, float64.

    Planes are computed in ``plane_dtype``, those of close pairs in float64; sums over positions
    and the layers after them in float64. The same numbers come out bit for bit with any number of
    threads. Pairs of equal or opposite samples are computed like all others, as if nobody knew
    that their correlation is exactly 1 or -1: the caller puts the known values there.

    Parameters
    ----------
    programs
        Those of the architecture for such samples.
    left
        n1 samples.
    right
        n2 samples; ``None`` states that they are those on the left. Then only the upper triangle
        is computed, and mirrored.
    dtype
        float32 or float64.
    threads
        How many to use.
    """
    dtype = plane_dtype(programs[dtype], dtype)
    nngp, ntk = spatial_part(programs[dtype], left, right, dtype, threads)
    if dtype == SINGLE:
        _compute_close_pairs(programs[DOUBLE], left, right, threads, nngp, ntk)
    return through_tail(programs[dtype], left, right, nngp, ntk)


def spatial_bytes(program: Program, n1: int, n2: int, itemsize: int, threads: int) -> int:
    """Working memory of ``spatial_part`` for n1 and n2 samples.

    Parameters
    ----------
    program
        What is to be computed.
    n1, n2
        Samples on the left and on the right.
    itemsize
        Bytes per number in the planes.
    threads
        Each of them has memory of its own.
    """
    per_sample = program.input_size + 2 * program.positions
    padded = n2 + program.lanes
    # The columns exist twice while they are brought into words.
    return itemsize * (threads * program.size + (n1 + 2 * padded) * per_sample)


def working_bytes(
    programs: Programs, n1: int, n2: int, dtype: np.dtype[np.floating], threads: int
) -> int:
    """Working memory of ``fused_block`` for n1 and n2 samples.

    Whether samples are close is not known before they are seen: all of them may be.
    """
    dtype = plane_dtype(programs[dtype], dtype)
    program = programs[dtype]
    sums = 2 * DOUBLE.itemsize * n1 * (n2 + program.lanes)
    peak = spatial_bytes(program, n1, n2, dtype.itemsize, threads)
    if dtype == SINGLE:
        numbers = program.input_size
        columns = min(n2, CLOSE_COLUMNS)
        row = spatial_bytes(programs[DOUBLE], 1, columns, DOUBLE.itemsize, 1)
        row += DOUBLE.itemsize * columns * (numbers + program.positions)
        pairs = n1 * n2 * np.int32().itemsize
        peak = max(peak, threads * row + pairs, search_bytes(n1, n2, numbers))
    return max(sums + peak, tail_bytes(program) * n1 * (n2 + program.lanes))


def plane_dtype(program: Program, dtype: np.dtype[np.floating]) -> np.dtype[np.floating]:
    """The precision of the planes where ``dtype`` is asked for.

    Float64 for float32 where running sums are too long (``MOST_TERMS``), or where a kink follows
    nearly constant activations: a ReLU after four sigmoids erred by 1.3e-4 in float32.
    """
    return DOUBLE if program.most_terms > MOST_TERMS or program.blurs_angles else dtype


def spatial_part(
    program: Program,
    left: Side,
    right: Side | None,
    dtype: np.dtype[np.floating],
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Both kernels where the spatial axes end: (n1, n2) each, float64."""
    others = left if right is None else right
    n_words = -(-len(others) // program.lanes)
    rows = prepared(program, left, dtype, weighted=True)
    columns = prepared(program, others, dtype, weighted=False)
    words = Prepared(*(in_words(each, program.lanes) for each in columns))
    nngp, ntk = (np.zeros((len(left), n_words * program.lanes)) for _ in range(2))

    def work(pieces: Iterator[tuple[int, int, int]]) -> None:
        memory = thread_memory(program.size, dtype)
        for piece in pieces:
            run_block(program, memory, rows, words, piece, right is None, nngp, ntk)

    in_threads(threads, work, _pieces(len(left), n_words, program.lanes, right is None, threads))
    return nngp[:, : len(others)], ntk[:, : len(others)]


def _compute_close_pairs(
    program: Program,
    left: Side,
    right: Side | None,
    threads: int,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    """Put pairs of close samples in their places, computed by a program in float64."""
    others = left if right is None else right
    pieces = (
        (row, columns[start : start + CLOSE_COLUMNS])
        for row, columns in close_pairs(program, left, right).items()
        for start in range(0, len(columns), CLOSE_COLUMNS)
    )

    def work(pieces: Iterator[tuple[int, np.ndarray]]) -> None:
        for row, columns in pieces:
            nngp[row, columns], ntk[row, columns] = spatial_part(
                program, left[row : row + 1], others[columns], DOUBLE, threads=1
            )

    in_threads(threads, work, pieces)


def _pieces(
    n_rows: int, n_words: int, lanes: int, symmetric: bool, threads: int
) -> Iterator[tuple[int, int, int]]:
    """A word of columns, and the first and past the last of some rows to compute it for."""
    rows = max(1, n_rows * n_words // (PIECES_PER_THREAD * threads))
    for word in reversed(range(n_words)):
        wanted = min(n_rows, (word + 1) * lanes) if symmetric else n_rows
        for first in range(0, wanted, rows):
            yield word, first, min(first + rows, wanted)


def prepared(
    program: Program, side: Side, dtype: np.dtype[np.floating], weighted: bool
) -> Prepared:
    """Samples as the engine reads them; those of the rows carry the weights of their products."""
    x = side.samples
    deviations = np.empty((len(x), program.positions, 2), dtype)
    start = 0
    for statistic, v in zip(program.statistics, side.variances, strict=False):
        first, second = statistic.numbers(np.asarray(v, np.float64))
        here = slice(start, start + math.prod(first.shape[1:]))
        for at, numbers in enumerate((statistic.weight * first if weighted else first, second)):
            deviations[:, here, at] = numbers.reshape(len(x), -1)
        start = here.stop
    # Divided here, where errors are as random as the samples: 1/3 in float32 is too large. And in
    # the better precision of both: close pairs in float32 would keep the errors they come with.
    inputs = np.divide(
        x,
        x.shape[-1] if weighted else 1,
        out=np.empty(x.shape, dtype),
        dtype=np.result_type(x, dtype),
        casting="same_kind",
    )
    return Prepared(inputs.reshape(len(x), -1), deviations.reshape(len(x), -1))


def in_words(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Rows as words of lanes, the lanes innermost: (n_words, columns * lanes)."""
    n_words = -(-len(rows) // lanes)
    words = np.zeros((n_words, rows.shape[1], lanes), rows.dtype)
    for word in range(n_words):
        some = rows[word * lanes : (word + 1) * lanes]
        words[word, :, : len(some)] = some.T
    return words.reshape(n_words, -1)
