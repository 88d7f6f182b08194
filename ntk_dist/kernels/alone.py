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

import functools
import itertools
import math
from collections.abc import Callable, Iterator
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

__all__ = ["each_with_itself", "each_with_opposite", "sample_bytes", "word_bytes"]

Keep: TypeAlias = Callable[[slice, np.ndarray, np.ndarray], None]
"""Takes which samples were computed, their kernels (2, ...), and the memory it happened in."""


def each_with_itself(
    architecture: Layer, x: np.ndarray, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """What ``recursion.each_with_itself`` gives.

    Parameters
    ----------
    architecture
        One that has a program.
    x : (n, ..., channels)
        Samples, float64.
    threads
        How many to use.

    Returns
    -------
    nngp, ntk : (n,)
    variances : list of (n, ...)
        The variance that enters each activation and LayerNorm.
    """
    program = _matched(architecture, x.shape[1:])
    variances: list[np.ndarray] = []
    with jax.enable_x64(True):  # whatever the process or thread is set to
        entering = np.square(x).mean(-1)
        for before, between in _pieces(program):
            if before:
                entering = _variance_after(before, Side(x, variances), threads)
            walk = Pass(lead=1, want_ntk=False)
            state = KernelState(jnp.asarray(entering), None, entering.shape[1:], 1, False)
            walk.walk(between, state, False)
            variances += map(np.asarray, walk.recorded)
        side = Side(x, variances)
        both = _where_axes_end(program, side, side, threads)
        walk = Pass(lead=1, want_ntk=True)
        after = walk.run(program.tail, _state(program, both))
        variances += map(np.asarray, walk.recorded)
        return np.array(after[0]), np.array(after[1]), variances


def each_with_opposite(
    architecture: Layer, side: Side, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What ``recursion.each_with_opposite`` gives, from the variances of ``each_with_itself``."""
    program = _matched(architecture, side.samples.shape[1:])
    both = _where_axes_end(program, side, Side(-side.samples, side.variances), threads)
    with jax.enable_x64(True):
        rest = [jnp.asarray(v) for v in side.variances[len(program.statistics) :]]
        walk = Pass(lead=1, want_ntk=True, variances=zip(rest, rest, strict=True))
        after = walk.run(program.tail, _state(program, both))
        return np.array(after[0]), np.array(after[1])


def sample_bytes(architecture: Layer, input_shape: tuple[int, ...]) -> int:
    """Memory of each sample, in bytes: that of the walks over single positions."""
    program = _matched(architecture, input_shape)
    walks = []
    for (_, between), segment in zip(_pieces(program), program.segments, strict=True):
        size = (int(segment["in_y"]), int(segment["in_x"]))[-len(input_shape[:-1]) :]
        flat = Serial((between, Flatten()))
        walks.append(pair_cost(flat, (*size, 1), DOUBLE.itemsize, 1).bytes)
    return max(walks)


def word_bytes(architecture: Layer, input_shape: tuple[int, ...]) -> int:
    """Memory of each thread, in bytes."""
    program = _matched(architecture, input_shape)
    row = math.prod(input_shape) + 2 * program.positions
    # The samples of a word and what is known of them: on both sides, and before they are a word.
    return DOUBLE.itemsize * (program.size + 3 * program.lanes * row)


@functools.lru_cache(maxsize=64)
def _matched(architecture: Layer, shape: tuple[int, ...]) -> Program:
    """The program in float64 whose lanes have rows of their own."""
    program = compile_program(architecture, shape, lane_count(DOUBLE.itemsize), matched=True)
    if isinstance(program, str):
        raise NotImplementedError(f"{architecture!r} cannot be fused: {program}")
    return program


def _pieces(program: Program) -> list[tuple[Layer | None, Layer]]:
    """For each segment, the layers from the input to the pooling before it, flat; and its own."""
    layers = program.head.layers
    # The first layer does nothing.
    ends = [0, *(i for i, layer in enumerate(layers) if isinstance(layer, Pool)), len(layers)]
    return [
        (
            Serial((*layers[: start + 1], Flatten())) if start else None,
            Serial((layers[0], *layers[start + 1 : end])),
        )
        for start, end in itertools.pairwise(ends)
    ]


def _state(program: Program, both: np.ndarray) -> KernelState:
    return KernelState(jnp.asarray(both[0]), jnp.asarray(both[1]), (), program.channels, False)


def _where_axes_end(program: Program, left: Side, right: Side, threads: int) -> np.ndarray:
    """Both kernels of each pair of rows where the spatial axes end: (2, n)."""
    both = np.empty((2, len(left)))

    def keep(some: slice, kernels: np.ndarray, memory: np.ndarray) -> None:
        both[:, some] = kernels

    _run(program, left, right, threads, keep)
    return both


def _variance_after(before: Layer, side: Side, threads: int) -> np.ndarray:
    """The variance at each position where the last pooling of ``before`` ends: (n, ...)."""
    program = _matched(before, side.samples.shape[1:])
    last = program.segments[-1]
    # Nothing but Flatten follows: of the tensor after the pooling there is displacement 0 alone.
    size = (int(last["in_y"]), int(last["in_x"]))
    start = int(last["in_tensor"])
    pooled = np.empty((len(side), *size))

    def keep(some: slice, kernels: np.ndarray, memory: np.ndarray) -> None:
        plane = memory[start : start + 2 * program.lanes * math.prod(size)]
        nngp = plane.reshape(*size, 2, program.lanes)[:, :, 0, : kernels.shape[1]]
        pooled[some] = np.moveaxis(nngp, -1, 0)

    _run(program, side, side, threads, keep)
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
