"""Blocks of convolutional kernels on an NVIDIA GPU, from the same layer programs as on CPU.

Same numbers as ``recursion.py``. One block of threads computes one pair of samples from the inputs
to the sum over positions (``gpu_segments.py``), and this module feeds it: columns go over
launch by launch, the next ones while the last ones are computed. Layers after Flatten or global
pooling, and pairs too close for float32, are treated as in ``fused_cpu.py``.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_dist.errors import MemoryBudgetError
from ntk_dist.kernels.closeness import close_pairs, search_bytes
from ntk_dist.kernels.fused_cpu import plane_dtype
from ntk_dist.kernels.gpu_program import BlockProgram, BlockPrograms
from ntk_dist.kernels.lanes import DOUBLE, SINGLE
from ntk_dist.kernels.statistics import Side
from ntk_dist.kernels.tail import tail_bytes, through_tail

__all__ = ["available", "gpu_block", "working_bytes"]

PAIRS_PER_LAUNCH = 1 << 16
"""Forty waves of the 1600 blocks that a large GPU holds at once, so that the last wave costs
little, and few enough that the host prepares the next launch meanwhile."""
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
    programs: BlockPrograms, left: Side, right: Side | None, dtype: np.dtype[np.floating]
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK between all samples of two sets: (n1, n2) each, float64.

    Parameters and law are those of ``fused_cpu.fused_block``: planes in ``dtype``, close pairs in
    float64, sums over positions and what follows them in float64. The same numbers come out bit
    for bit on one kind of GPU, however its blocks of threads are scheduled.
    """
    dtype = plane_dtype(programs[dtype].program, dtype)
    others = left if right is None else right
    nngp, ntk = (np.zeros((len(left), len(others))) for _ in range(2))

    def all_pairs(columns: slice) -> np.ndarray:
        rows, places = np.indices((len(left), columns.stop - columns.start), np.int32)
        pairs = np.stack([rows.ravel(), places.ravel()], axis=1)
        return pairs[pairs[:, 0] <= pairs[:, 1] + columns.start] if right is None else pairs

    launches = ((columns, all_pairs(columns)) for columns in _launched(len(left), len(others)))
    for columns, pairs, values in _computed(programs[dtype], left, others, launches):
        i, j = pairs[:, 0], pairs[:, 1] + columns.start
        nngp[i, j], ntk[i, j] = values.T
    if dtype == SINGLE:
        _compute_close_pairs(programs[DOUBLE], left, right, nngp, ntk)
    return through_tail(programs[dtype].program, left, right, nngp, ntk)


def working_bytes(programs: BlockPrograms, n1: int, n2: int, dtype: np.dtype[np.floating]) -> int:
    """Working memory of ``gpu_block`` on the host for n1 and n2 samples.

    The GPU holds the samples too, but the columns of at most two launches at once,
    and ``WORKSPACE_BYTES`` besides.
    """
    program = programs[dtype].program
    numbers = program.input_size
    columns = _launched(n1, n2)[0].stop if n2 else 0
    # In float64 while they are prepared, in both precisions for close pairs, whose rows are copied.
    per_sample = 2 * DOUBLE.itemsize * (numbers + program.positions)
    samples = 2 * (n1 + columns) * per_sample + search_bytes(n1, n2, numbers)
    return samples + tail_bytes(program) * n1 * n2


def _simulated() -> bool:
    from numba.core import config

    return bool(config.ENABLE_CUDASIM)


def _launched(n1: int, n2: int) -> list[slice]:
    """Ranges of columns that go to the GPU together."""
    columns = max(1, PAIRS_PER_LAUNCH // max(1, n1))
    return [slice(start, min(start + columns, n2)) for start in range(0, n2, columns)]


def _compute_close_pairs(
    program: BlockProgram, left: Side, right: Side | None, nngp: np.ndarray, ntk: np.ndarray
) -> None:
    """Put pairs of close samples in their places, computed by a program in float64."""
    close = close_pairs(program.program, left, right)
    if not close:
        return
    others = left if right is None else right
    place = np.fromiter(close, np.int32)
    rows = np.repeat(np.arange(len(close), dtype=np.int32), [len(j) for j in close.values()])
    columns = np.concatenate(list(close.values()))
    by_column = np.argsort(columns, kind="stable")
    rows, columns = rows[by_column], columns[by_column]

    def launches() -> Iterator[tuple[slice, np.ndarray]]:
        # As many columns at once as before: biases may make all pairs close.
        for some in _launched(len(left), len(others)):
            here = slice(*np.searchsorted(columns, (some.start, some.stop)))
            if here.start < here.stop:
                yield some, np.stack([rows[here], columns[here] - some.start], axis=1)

    for some, pairs, values in _computed(program, left[place], others, launches()):
        i, j = place[pairs[:, 0]], pairs[:, 1] + some.start
        nngp[i, j], ntk[i, j] = values.T


@dataclass
class _Uploaded:
    """Samples on the GPU, and the standard deviations at their positions; both flat."""

    inputs: Any
    deviations: Any
    pinned: list[np.ndarray]
    """What they are copied from, as soon as the GPU gets there."""


@dataclass
class _Running:
    """A launch on its way; what it refers to must stay until its stream is done."""

    columns: slice
    pairs: np.ndarray
    values: np.ndarray
    stream: Any
    kept: tuple[Any, ...]


def _computed(
    program: BlockProgram,
    left: Side,
    right: Side,
    launches: Iterator[tuple[slice, np.ndarray]],
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Columns of each launch, their pairs, and both kernels of each pair: (n_pairs, 2), float64.

    Two streams take turns: while one computes, the other brings the next samples and takes away
    the last results.
    """
    from numba import cuda

    streams = [cuda.stream(), cuda.stream()]
    rows = _upload(program, left, streams[0])
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
        launches, itertools.cycle(streams), itertools.cycle(areas), strict=False
    ):
        if len(running) == len(streams):
            yield _finished(program, running.popleft())
        uploaded = _upload(program, right[columns], stream)
        running.append(_launch(program, constants, rows, uploaded, columns, pairs, area, stream))
    while running:
        yield _finished(program, running.popleft())


def _upload(program: BlockProgram, side: Side, stream: Any) -> _Uploaded:
    """Samples, channels first, and standard deviations."""
    from numba import cuda

    x = side.samples
    dtype = program.weights.dtype
    deviations = np.zeros((len(x), program.program.positions), dtype)
    start = 0
    for statistic, v in zip(program.program.statistics, side.variances, strict=False):
        deviation, _ = statistic.numbers(np.asarray(v, np.float64))
        rows = deviation.reshape(len(x), -1)
        deviations[:, start : start + rows.shape[1]] = rows
        start += rows.shape[1]
    channels_first = np.ascontiguousarray(np.moveaxis(x, -1, 1), dtype)
    pinned = [_pinned(channels_first), _pinned(deviations)]
    inputs, on_device = (cuda.to_device(each, stream=stream) for each in pinned)
    return _Uploaded(inputs, on_device, pinned)


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
    left: _Uploaded,
    right: _Uploaded,
    columns: slice,
    pairs: np.ndarray,
    areas: tuple[Any, Any, Any],
    stream: Any,
) -> _Running:
    """Start all pairs of a launch, and the way back of their results."""
    from numba import cuda

    from ntk_dist.kernels.gpu_segments import kernel

    real = program.weights.dtype.type
    on_device = cuda.to_device(pairs, stream=stream)
    results = cuda.device_array((len(pairs), 2), np.float64, stream=stream)
    blocks = min(len(pairs), areas[0].shape[0])
    run = kernel(8 * program.weights.dtype.itemsize, program.shared_bytes > 0)
    run[blocks, program.threads, stream, program.shared_bytes](
        *constants, on_device, left.inputs, left.deviations, right.inputs, right.deviations,
        np.int32(program.program.input_size), np.int32(program.program.positions), *areas, results,
        real(1 / int(program.segments["channels"][0])),
    )  # fmt: skip
    values = cuda.pinned_array((len(pairs), 2), np.float64)
    results.copy_to_host(values, stream=stream)
    return _Running(columns, pairs, values, stream, (left, right, on_device, results))


def _finished(program: BlockProgram, running: _Running) -> tuple[slice, np.ndarray, np.ndarray]:
    running.stream.synchronize()
    return running.columns, running.pairs, program.program.share * running.values
