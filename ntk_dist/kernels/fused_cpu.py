"""Blocks of convolutional kernels on CPU, plane by plane, without the big tensors.

Same numbers as ``recursion.py``: ``planes.py`` has the idea and ``arc_cosine.py`` the arithmetic.
What comes after Flatten or global pooling is left to ``tail.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ntk_dist.kernels.closeness import close_pairs, search_bytes
from ntk_dist.kernels.evaluations import mirrored
from ntk_dist.kernels.lanes import lane_count
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.program import Program, compile_program
from ntk_dist.kernels.segments import run_block
from ntk_dist.kernels.tail import tail_bytes, through_tail
from ntk_dist.kernels.threads import PIECES_PER_THREAD, in_threads, thread_memory

__all__ = [
    "block_bytes",
    "fused_block",
    "in_words",
    "plane_dtype",
    "prepared",
    "program_for",
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
    architecture: Layer,
    x1: np.ndarray,
    x2: np.ndarray | None,
    variances1: Sequence[np.ndarray],
    variances2: Sequence[np.ndarray],
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
    architecture
        One that ``compile_program`` accepts for such samples.
    x1 : (n1, ..., channels)
        Samples.
    x2 : (n2, ..., channels) or None
        Other samples; ``None`` states that they are ``x1``. Then only the upper triangle is
        computed, and mirrored.
    variances1, variances2
        What ``Statistics.variances`` holds for either set.
    dtype
        float32 or float64.
    threads
        How many to use.
    """
    dtype = plane_dtype(architecture, x1.shape[1:], dtype)
    program = program_for(architecture, x1.shape[1:], dtype)
    nngp, ntk = spatial_part(program, x1, x2, variances1, variances2, dtype, threads)
    if dtype == np.float32:
        _compute_close_pairs(architecture, x1, x2, variances1, variances2, threads, nngp, ntk)
    done = len(program.statistics)
    nngp, ntk = through_tail(program, nngp, ntk, variances1[done:], variances2[done:])
    if x2 is None:
        nngp, ntk = mirrored(nngp), mirrored(ntk)
    return nngp, ntk


def block_bytes(
    program: Program, n1: int, n2: int, itemsize: int, threads: int, input_size: int
) -> int:
    """Memory of a block of this shape, beside samples, variances and the two results.

    Parameters
    ----------
    program
        What is to be computed.
    n1, n2
        Rows and columns.
    itemsize
        Bytes per number in the planes.
    threads
        Each of them has memory of its own.
    input_size
        Numbers per sample.
    """
    per_sample = input_size + 2 * program.positions
    padded = n2 + program.lanes
    # The columns exist twice while they are brought into words.
    return itemsize * (threads * program.size + (n1 + 2 * padded) * per_sample)


def working_bytes(
    architecture: Layer,
    input_shape: tuple[int, ...],
    dtype: np.dtype[np.floating],
    n1: int,
    n2: int,
    threads: int,
) -> int:
    """Peak memory of ``fused_block`` for n1 and n2 samples, beside samples and variances.

    Whether samples are close is not known before they are seen: all of them may be.
    """
    numbers = math.prod(input_shape)
    dtype = plane_dtype(architecture, input_shape, dtype)
    program = program_for(architecture, input_shape, dtype)
    sums = 2 * np.float64().itemsize * n1 * (n2 + program.lanes)
    peak = sums + block_bytes(program, n1, n2, dtype.itemsize, threads, numbers)
    if dtype == np.float32:
        double = np.dtype(np.float64)
        exact = program_for(architecture, input_shape, double)
        columns = min(n2, CLOSE_COLUMNS)
        row = block_bytes(exact, 1, columns, double.itemsize, 1, numbers)
        row += double.itemsize * columns * (numbers + exact.positions)
        peak = max(peak, sums + threads * row, sums + search_bytes(n1, n2, numbers))
    return max(peak, tail_bytes(program) * n1 * (n2 + program.lanes))


def plane_dtype(
    architecture: Layer, input_shape: tuple[int, ...], dtype: np.dtype[np.floating]
) -> np.dtype[np.floating]:
    """The precision of the planes where ``dtype`` is asked for.

    Float64 for float32 where running sums are too long (``MOST_TERMS``), or where a kink follows
    nearly constant activations: a ReLU after four sigmoids erred by 1.3e-4 in float32.
    """
    program = program_for(architecture, input_shape, dtype)
    if dtype == np.float32 and (program.most_terms > MOST_TERMS or program.blurs_angles):
        return np.dtype(np.float64)
    return dtype


@functools.lru_cache(maxsize=64)
def program_for(
    architecture: Layer,
    shape: tuple[int, ...],
    dtype: np.dtype[np.floating],
    matched: bool = False,
) -> Program:
    """The program of an architecture that has one, in words of this precision."""
    program = compile_program(architecture, shape, lane_count(dtype.itemsize), matched)
    if isinstance(program, str):
        raise NotImplementedError(f"{architecture!r} cannot be fused: {program}")
    return program


def spatial_part(
    program: Program,
    x1: np.ndarray,
    x2: np.ndarray | None,
    variances1: Sequence[np.ndarray],
    variances2: Sequence[np.ndarray],
    dtype: np.dtype[np.floating],
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Both kernels where the spatial axes end: (n1, n2) each, float64."""
    right = x1 if x2 is None else x2
    n_words = -(-len(right) // program.lanes)
    inputs1, deviations1 = prepared(program, x1, variances1, dtype, weighted=True)
    inputs2, deviations2 = (
        in_words(rows, program.lanes)
        for rows in prepared(program, right, variances2, dtype, weighted=False)
    )
    nngp, ntk = (np.zeros((len(x1), n_words * program.lanes)) for _ in range(2))

    def work(pieces: Iterator[tuple[int, int, int]]) -> None:
        memory = thread_memory(program.size, dtype)
        for piece in pieces:
            run_block(
                program, memory, inputs1, deviations1, inputs2, deviations2,
                piece, x2 is None, nngp, ntk,
            )  # fmt: skip

    in_threads(threads, work, _pieces(len(x1), n_words, program.lanes, x2 is None, threads))
    return nngp[:, : len(right)], ntk[:, : len(right)]


def _compute_close_pairs(
    architecture: Layer,
    x1: np.ndarray,
    x2: np.ndarray | None,
    variances1: Sequence[np.ndarray],
    variances2: Sequence[np.ndarray],
    threads: int,
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    """Put pairs of close samples in their places, computed in float64."""
    double = np.dtype(np.float64)
    program = program_for(architecture, x1.shape[1:], double)
    right = x1 if x2 is None else x2

    def one_row(row: int, columns: np.ndarray) -> None:
        nngp[row, columns], ntk[row, columns] = spatial_part(
            program,
            x1[row : row + 1],
            right[columns],
            [v[row : row + 1] for v in variances1],
            [v[columns] for v in variances2],
            double,
            threads=1,
        )

    pieces = [
        (row, columns[start : start + CLOSE_COLUMNS])
        for row, columns in close_pairs(x1, x2).items()
        for start in range(0, len(columns), CLOSE_COLUMNS)
    ]
    with ThreadPoolExecutor(threads) as pool:
        # Consuming the results raises what a row raised.
        list(pool.map(lambda piece: one_row(*piece), pieces))


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
    program: Program,
    x: np.ndarray,
    variances: Sequence[np.ndarray],
    dtype: np.dtype[np.floating],
    weighted: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Samples, and at each position the standard deviation and its reciprocal; a row per sample."""
    deviations = np.empty((len(x), program.positions, 2), dtype)
    start = 0
    for statistic, v in zip(program.statistics, variances, strict=False):
        first, second = statistic.numbers(np.asarray(v, np.float64))
        here = slice(start, start + math.prod(first.shape[1:]))
        for at, numbers in enumerate((statistic.weight * first if weighted else first, second)):
            deviations[:, here, at] = numbers.reshape(len(x), -1)
        start = here.stop
    # Divided here, where errors are as random as the samples: 1/3 in float32 is too large.
    inputs = np.divide(
        x, x.shape[-1] if weighted else 1, out=np.empty(x.shape, dtype), casting="same_kind"
    )
    return inputs.reshape(len(x), -1), deviations.reshape(len(x), -1)


def in_words(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Rows as words of lanes, the lanes innermost: (n_words, columns * lanes)."""
    n_words = -(-len(rows) // lanes)
    words = np.zeros((n_words, rows.shape[1], lanes), rows.dtype)
    for word in range(n_words):
        some = rows[word * lanes : (word + 1) * lanes]
        words[word, :, : len(some)] = some.T
    return words.reshape(n_words, -1)
