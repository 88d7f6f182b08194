"""Each sample with itself, or with its opposite, by the fused engine where pooling mixes positions.

The engine takes a word of samples at a time, each lane with a row of its own. Where a position
meets itself, correlations are 1, or -1, and the engine takes them for exactly that. It needs the
variances first, and a pooling mixes those with covariances: behind a window of 2 x 2 that moves by
2 a variance is made of 9 displacements before it, behind two such windows of 49. So the engine goes
as far as each pooling with no more displacements than these, and the variances of the layers up to
the next one come from a walk of the recursion over single positions. Over all pairs of them it
would need H x W times the memory: 83 MiB for an image of 32 x 32 before two poolings, and 1 GiB for
one of 64 x 64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.cost import pair_cost
from ntk_dist.kernels.fused_cpu import in_words, prepared
from ntk_dist.kernels.lanes import DOUBLE, lane_count
from ntk_dist.kernels.layers import Flatten, Layer, Pool
from ntk_dist.kernels.program import Program, compile_program
from ntk_dist.kernels.recursion import KernelState, Pass
from ntk_dist.kernels.segments import Prepared, run_block
from ntk_dist.kernels.statistics import Side
from ntk_dist.kernels.threads import in_threads, thread_memory

__all__ = [
    "MatchedPrograms",
    "Piece",
    "compile_matched",
    "each_with_itself",
    "each_with_opposite",
    "sample_bytes",
    "words_bytes",
]

THREADS_BYTES = 128 * 2**20
"""Most memory of all threads together: nine threads for Myrtle-5 at 32 x 32."""

Keep: TypeAlias = Callable[[slice, np.ndarray, np.ndarray], None]
"""Takes which samples were computed, their kernels (2, ...), and the memory it happened in."""


@dataclass(frozen=True)
class Piece:
    """The layers of one segment, and what gives the variances that enter them."""

    before: Program | None
    """All layers as far as the pooling before these, flat; None where these are the first."""
    layers: Serial


@dataclass(frozen=True)
class MatchedPrograms:
    """Programs in float64 whose lanes have rows of their own, for one architecture and shape."""

    whole: Program
    pieces: tuple[Piece, ...]
    """One for each segment."""


def compile_matched(architecture: Layer, input_shape: tuple[int, ...]) -> MatchedPrograms | str:
    """The programs of an architecture for samples alone, or why it has none.

    Parameters are those of ``compile_program``.
    """
    lanes = lane_count(DOUBLE.itemsize)
    whole = compile_program(architecture, input_shape, lanes, matched=True)
    if isinstance(whole, str):
        return whole
    layers = whole.head.layers
    # The first layer does nothing.
    ends = [0, *(i for i, layer in enumerate(layers) if isinstance(layer, Pool)), len(layers)]
    pieces = []
    for start, end in itertools.pairwise(ends):
        before = None
        if start:
            flat = Serial((*layers[: start + 1], Flatten()))
            before = compile_program(flat, input_shape, lanes, matched=True)
        if isinstance(before, str):
            return before
        pieces.append(Piece(before, Serial((layers[0], *layers[start + 1 : end]))))
    return MatchedPrograms(whole, tuple(pieces))


def each_with_itself(
    programs: MatchedPrograms, x: np.ndarray, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """What ``recursion.each_with_itself`` gives.

    Parameters
    ----------
    programs
        Those of the architecture, for such samples.
    x : (n, ..., channels)
        Samples, float64.
    threads
        How many may be used.

    Returns
    -------
    nngp, ntk : (n,)
    variances : list of (n, ...)
        The variance that enters each activation and LayerNorm.
    """
    threads = _busy(programs.whole, len(x), threads)
    variances: list[np.ndarray] = []
    with jax.enable_x64(True):  # whatever the process or thread is set to
        entering = np.square(x).mean(-1)
        for piece in programs.pieces:
            if piece.before:
                entering = _variance_after(piece.before, Side(x, variances), threads)
            walk = Pass(lead=1, want_ntk=False)
            state = KernelState(jnp.asarray(entering), None, entering.shape[1:], 1, False)
            walk.walk(piece.layers, state, False)
            variances += map(np.asarray, walk.recorded)
        side = Side(x, variances)
        both = _where_axes_end(programs.whole, side, side, threads)
        walk = Pass(lead=1, want_ntk=True)
        after = walk.run(programs.whole.tail, _state(programs.whole, both))
        variances += map(np.asarray, walk.recorded)
        return np.array(after[0]), np.array(after[1]), variances


def each_with_opposite(
    programs: MatchedPrograms, side: Side, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What ``recursion.each_with_opposite`` gives, from the variances of ``each_with_itself``."""
    whole = programs.whole
    threads = _busy(whole, len(side), threads)
    both = _where_axes_end(whole, side, Side(-side.samples, side.variances), threads)
    with jax.enable_x64(True):
        rest = [jnp.asarray(v) for v in side.variances[len(whole.statistics) :]]
        walk = Pass(lead=1, want_ntk=True, variances=zip(rest, rest, strict=True))
        after = walk.run(whole.tail, _state(whole, both))
        return np.array(after[0]), np.array(after[1])


def sample_bytes(programs: MatchedPrograms, axes: int) -> int:
    """Memory of each sample, in bytes: that of the walks over single positions.

    Parameters
    ----------
    programs
        Those of the architecture.
    axes
        How many of them are spatial in a sample: 1 or 2.
    """
    walks = []
    for piece, segment in zip(programs.pieces, programs.whole.segments, strict=True):
        size = (int(segment["in_y"]), int(segment["in_x"]))[-axes:]
        flat = Serial((piece.layers, Flatten()))
        walks.append(pair_cost(flat, (*size, 1), DOUBLE.itemsize, 1).bytes)
    return max(walks)


def words_bytes(programs: MatchedPrograms, n: int, threads: int) -> int:
    """Memory of the threads that work on n samples, in bytes."""
    return _busy(programs.whole, n, threads) * _word_bytes(programs.whole)


def _word_bytes(program: Program) -> int:
    """Memory of each thread, in bytes."""
    row = program.input_size + 2 * program.positions
    # The samples of a word and what is known of them: on both sides, and before they are a word.
    return DOUBLE.itemsize * (program.size + 3 * program.lanes * row)


def _busy(program: Program, n: int, threads: int) -> int:
    """How many of ``threads`` have something to do, and room."""
    words = -(-n // program.lanes)
    return max(1, min(threads, words, THREADS_BYTES // _word_bytes(program)))


def _state(program: Program, both: np.ndarray) -> KernelState:
    return KernelState(jnp.asarray(both[0]), jnp.asarray(both[1]), (), program.channels, False)


def _where_axes_end(program: Program, left: Side, right: Side, threads: int) -> np.ndarray:
    """Both kernels of each pair of rows where the spatial axes end: (2, n)."""
    both = np.empty((2, len(left)))

    def keep(some: slice, kernels: np.ndarray, memory: np.ndarray) -> None:
        both[:, some] = kernels

    _run(program, left, right, threads, keep)
    return both


def _variance_after(before: Program, side: Side, threads: int) -> np.ndarray:
    """The variance at each position where the last pooling of ``before`` ends: (n, ...)."""
    last = before.segments[-1]
    # Nothing but Flatten follows: of the tensor after the pooling there is displacement 0 alone.
    size = (int(last["in_y"]), int(last["in_x"]))
    start = int(last["in_tensor"])
    pooled = np.empty((len(side), *size))

    def keep(some: slice, kernels: np.ndarray, memory: np.ndarray) -> None:
        plane = memory[start : start + 2 * before.lanes * math.prod(size)]
        nngp = plane.reshape(*size, 2, before.lanes)[:, :, 0, : kernels.shape[1]]
        pooled[some] = np.moveaxis(nngp, -1, 0)

    _run(before, side, side, threads, keep)
    return pooled if side.samples.ndim == 4 else pooled[:, 0]


def _run(program: Program, left: Side, right: Side, threads: int, keep: Keep) -> None:
    """Run a program on each pair of rows, a word of them at a time.

    Parameters
    ----------
    program
        One whose lanes have rows of their own.
    left, right
        n samples each, with variances as far as the program needs them.
    threads
        How many to use.
    keep
        Called after each word, in any thread.
    """
    lanes = program.lanes

    def work(starts: Iterator[int]) -> None:
        memory = thread_memory(program.size, DOUBLE)
        for start in starts:
            some = slice(start, start + lanes)
            rows, words = (
                Prepared(*(in_words(each, lanes) for each in of_side))
                for of_side in (
                    prepared(program, left[some], DOUBLE, weighted=True),
                    prepared(program, right[some], DOUBLE, weighted=False),
                )
            )
            nngp, ntk = kernels = np.empty((2, 1, lanes))
            run_block(program, memory, rows, words, (0, 0, 1), False, nngp, ntk)
            keep(some, kernels[:, 0, : len(left[some])], memory)

    in_threads(threads, work, iter(range(0, len(left), lanes)))
