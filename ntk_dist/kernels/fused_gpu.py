"""Blocks of convolutional kernels on an NVIDIA GPU, from the same layer programs as on CPU.

Same numbers as ``recursion.py``. One block of threads computes one pair of samples from the inputs
to the sum over positions (``gpu_segments.py``), and this module feeds it: columns go over in
chunks, the next one while the last one is computed. Layers after Flatten or global pooling, and
pairs too close for float32, are treated as in ``fused_cpu.py``.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_dist.errors import MemoryBudgetError
from ntk_dist.kernels.closeness import close_pairs, search_bytes
from ntk_dist.kernels.evaluations import mirrored
from ntk_dist.kernels.fused_cpu import plane_dtype
from ntk_dist.kernels.gpu_program import BlockProgram, lay_out
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.tail import tail_bytes, through_tail

__all__ = ["available", "gpu_block", "working_bytes"]

CHUNK_PAIRS = 1 << 16
"""Pairs per launch: forty waves of the 1600 blocks that a large GPU holds at once, so that the last
wave costs little, and few enough that the host prepares the next chunk meanwhile."""
WORKSPACE_BYTES = 1 << 30
"""Most memory on the GPU for tensors between segments, and for planes too large for shared memory.
At 32 x 32 positions before a 2 x 2 pooling a pair needs 512 KiB; 2048 such pairs at once fill any
GPU."""
MOST_NUMBERS = 2**31 - 1
"""In one array on the GPU: positions are counted in 32 bits there."""
SM_THREADS, SM_SHARED_BYTES, SM_REGISTERS = 2048, 227 * 1024, 65536
"""What one multiprocessor holds (compute capability 8.0 and 9.0)."""


def available() -> str | None:
    """Why blocks cannot be computed on a GPU here, or None if they can."""
    if not _simulated() and importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed (pip install 'ntk_dist[gpu]')"
    from numba import cuda

    if not cuda.is_available():
        return "numba-cuda finds no NVIDIA driver and device"
    return None


def gpu_block(
    architecture: Layer,
    x1: np.ndarray,
    x2: np.ndarray | None,
    variances1: Sequence[np.ndarray],
    variances2: Sequence[np.ndarray],
    dtype: np.dtype[np.floating],
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK between all samples of two sets: (n1, n2) each, float64.

    Parameters and law are those of ``fused_cpu.fused_block``: planes in ``dtype``, close pairs in
    float64, sums over positions and what follows them in float64. The same numbers come out bit
    for bit on one kind of GPU, however its blocks of threads are scheduled.
    """
    dtype = plane_dtype(architecture, x1.shape[1:], dtype)
    program = _program(architecture, x1.shape[1:], dtype)
    right = x1 if x2 is None else x2
    nngp, ntk = (np.zeros((len(x1), len(right))) for _ in range(2))

    def all_pairs(columns: slice) -> np.ndarray:
        rows, chunk = np.indices((len(x1), columns.stop - columns.start), np.int32)
        pairs = np.stack([rows.ravel(), chunk.ravel()], axis=1)
        return pairs[pairs[:, 0] <= pairs[:, 1] + columns.start] if x2 is None else pairs

    chunks = _chunks(len(x1), len(right))
    for columns, pairs, values in _computed(
        program, x1, variances1, right, variances2, ((c, all_pairs(c)) for c in chunks)
    ):
        i, j = pairs[:, 0], pairs[:, 1] + columns.start
        nngp[i, j], ntk[i, j] = values.T
    if dtype == np.float32:
        _compute_close_pairs(architecture, x1, x2, variances1, variances2, nngp, ntk)
    done = len(program.program.statistics)
    nngp, ntk = through_tail(program.program, nngp, ntk, variances1[done:], variances2[done:])
    if x2 is None:
        nngp, ntk = mirrored(nngp), mirrored(ntk)
    return nngp, ntk


def working_bytes(
    architecture: Layer,
    input_shape: tuple[int, ...],
    dtype: np.dtype[np.floating],
    n1: int,
    n2: int,
) -> int:
    """Peak memory of ``gpu_block`` on the host, beside samples and variances.

    The GPU holds the samples too, but at most two chunks of columns at once, and
    ``WORKSPACE_BYTES`` besides.
    """
    dtype = plane_dtype(architecture, input_shape, dtype)
    numbers = math.prod(input_shape)
    program = _program(architecture, input_shape, dtype).program
    chunk = _chunks(n1, n2)[0].stop if n2 else 0
    # In float64 while they are prepared, in both precisions for close pairs.
    per_sample = 2 * np.float64().itemsize * (numbers + program.positions)
    samples = (n1 + 2 * chunk) * per_sample + search_bytes(n1, n2, numbers)
    return samples + tail_bytes(program) * n1 * n2


def _simulated() -> bool:
    from numba.core import config

    return bool(config.ENABLE_CUDASIM)


def _program(
    architecture: Layer, shape: tuple[int, ...], dtype: np.dtype[np.floating]
) -> BlockProgram:
    program = lay_out(architecture, shape, dtype)
    if isinstance(program, str):
        raise NotImplementedError(f"{architecture!r} cannot be fused: {program}")
    return program


def _chunks(n1: int, n2: int) -> list[slice]:
    """Ranges of columns that go to the GPU together."""
    columns = max(1, CHUNK_PAIRS // max(1, n1))
    return [slice(start, min(start + columns, n2)) for start in range(0, n2, columns)]


def _compute_close_pairs(
    architecture: Layer,
    x1: np.ndarray,
    x2: np.ndarray | None,
    variances1: Sequence[np.ndarray],
    variances2: Sequence[np.ndarray],
    nngp: np.ndarray,
    ntk: np.ndarray,
) -> None:
    """Put pairs of close samples in their places, computed in float64."""
    near = [(i, j) for i, columns in close_pairs(x1, x2).items() for j in columns]
    program = _program(architecture, x1.shape[1:], np.dtype(np.float64))
    right = x1 if x2 is None else x2
    for start in range(0, len(near), CHUNK_PAIRS):
        i, j = np.array(near[start : start + CHUNK_PAIRS]).T
        rows, at1 = np.unique(i, return_inverse=True)
        columns, at2 = np.unique(j, return_inverse=True)
        everything = slice(0, len(columns))
        pairs = np.stack([at1, at2], axis=1).astype(np.int32)
        ((_, _, values),) = _computed(
            program,
            x1[rows],
            [v[rows] for v in variances1],
            right[columns],
            [v[columns] for v in variances2],
            iter([(everything, pairs)]),
        )
        nngp[i, j], ntk[i, j] = values.T


@dataclass
class _Side:
    """Samples on the GPU, and the standard deviations at their positions; both flat."""

    inputs: Any
    deviations: Any
    pinned: list[np.ndarray]
    """What they are copied from, as soon as the GPU gets there."""


@dataclass
class _Running:
    """A chunk on its way; what it refers to must stay until its stream is done."""

    columns: slice
    pairs: np.ndarray
    values: np.ndarray
    stream: Any
    kept: tuple[Any, ...]


def _computed(
    program: BlockProgram,
    x1: np.ndarray,
    variances1: Sequence[np.ndarray],
    x2: np.ndarray,
    variances2: Sequence[np.ndarray],
    chunks: Iterator[tuple[slice, np.ndarray]],
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Chunks of columns with their pairs, and both kernels of each pair: (n_pairs, 2), float64.

    Two streams take turns: while one computes, the other brings the next samples and takes away
    the last results.
    """
    from numba import cuda

    streams = [cuda.stream(), cuda.stream()]
    left = _upload(program, x1, variances1, streams[0])
    constants = [
        cuda.to_device(each, stream=streams[0])
        for each in (
            program.segments, program.steps, program.coefficients, program.slots,
            program.windows, program.spans, program.weights,
        )
    ]  # fmt: skip
    areas = [_areas(program) for _ in streams]
    streams[0].synchronize()
    running: deque[_Running] = deque()
    for (columns, pairs), stream, area in zip(
        chunks, itertools.cycle(streams), itertools.cycle(areas), strict=False
    ):
        if len(running) == len(streams):
            yield _finished(program, running.popleft())
        right = _upload(program, x2[columns], [v[columns] for v in variances2], stream)
        running.append(_launch(program, constants, left, right, columns, pairs, area, stream))
    while running:
        yield _finished(program, running.popleft())


def _upload(
    program: BlockProgram, x: np.ndarray, variances: Sequence[np.ndarray], stream: Any
) -> _Side:
    """Samples, channels first, and standard deviations."""
    from numba import cuda

    dtype = program.weights.dtype
    deviations = np.zeros((len(x), program.program.positions), dtype)
    start = 0
    for statistic, v in zip(program.program.statistics, variances, strict=False):
        deviation, _ = statistic.numbers(np.asarray(v, np.float64))
        rows = deviation.reshape(len(x), -1)
        deviations[:, start : start + rows.shape[1]] = rows
        start += rows.shape[1]
    channels_first = np.ascontiguousarray(np.moveaxis(x, -1, 1), dtype)
    pinned = [_pinned(channels_first), _pinned(deviations)]
    inputs, on_device = (cuda.to_device(each, stream=stream) for each in pinned)
    return _Side(inputs, on_device, pinned)


def _pinned(array: np.ndarray) -> np.ndarray:
    """A flat copy that the GPU can read while the host goes on."""
    from numba import cuda

    if array.size > MOST_NUMBERS:
        raise MemoryBudgetError(
            f"expected at most {MOST_NUMBERS:,} numbers for one side of a block on a GPU, "
            f"got {array.size:,}: choose fewer block_rows"
        )
    # Never empty: an architecture without activations has no deviations.
    pinned: np.ndarray = cuda.pinned_array(max(1, array.size), array.dtype)
    pinned[: array.size] = array.ravel()
    return pinned


def _areas(program: BlockProgram) -> tuple[Any, Any, Any]:
    """Memory of as many blocks as run at once: their planes, their tensors and their sums."""
    from numba import cuda

    pair = np.result_type(program.weights.dtype, np.complex64)
    planes = 1 if program.shared_bytes else program.work
    tensors = max(1, program.tensors)
    blocks = min(
        _resident_blocks(program), WORKSPACE_BYTES // 2 // ((planes + tensors) * pair.itemsize)
    )
    return (
        cuda.device_array((max(1, blocks), planes), pair),
        cuda.device_array((max(1, blocks), tensors), pair),
        cuda.device_array((max(1, blocks), program.threads, 2), np.float64),
    )


def _resident_blocks(program: BlockProgram) -> int:
    """How many blocks the GPU holds at once, as far as it is known before compiling."""
    from numba import cuda

    from ntk_dist.kernels.gpu_segments import REGISTERS

    per_processor = min(
        SM_THREADS // program.threads,
        SM_REGISTERS // (REGISTERS[8 * program.weights.dtype.itemsize] * program.threads),
        SM_SHARED_BYTES // (program.shared_bytes + 1024),
    )
    processors = 1 if _simulated() else cuda.get_current_device().MULTIPROCESSOR_COUNT
    return max(1, per_processor) * int(processors)


def _launch(
    program: BlockProgram,
    constants: list[Any],
    left: _Side,
    right: _Side,
    columns: slice,
    pairs: np.ndarray,
    areas: tuple[Any, Any, Any],
    stream: Any,
) -> _Running:
    """Start all pairs of a chunk, and the way back of their results."""
    from numba import cuda

    from ntk_dist.kernels.gpu_segments import kernel

    real = program.weights.dtype.type
    on_device = cuda.to_device(pairs, stream=stream)
    results = cuda.device_array((len(pairs), 2), np.float64, stream=stream)
    blocks = min(len(pairs), areas[0].shape[0])
    run = kernel(8 * program.weights.dtype.itemsize, program.shared_bytes > 0)
    channels = int(program.segments["channels"][0])
    input_size = int(program.segments["in_y"][0] * program.segments["in_x"][0]) * channels
    run[blocks, program.threads, stream, program.shared_bytes](
        *constants, on_device, left.inputs, left.deviations, right.inputs, right.deviations,
        np.int32(input_size), np.int32(program.program.positions), *areas, results,
        real(1 / channels),
    )  # fmt: skip
    values = cuda.pinned_array((len(pairs), 2), np.float64)
    results.copy_to_host(values, stream=stream)
    return _Running(columns, pairs, values, stream, (left, right, on_device, results))


def _finished(program: BlockProgram, running: _Running) -> tuple[slice, np.ndarray, np.ndarray]:
    running.stream.synchronize()
    return running.columns, running.pairs, program.program.share * running.values
