"""One pair of samples after another on a GPU, each by one block of threads.

The same walk as ``segments.py``: planes of a segment, then pooled into the tensor between two
segments, or summed. A block runs through all displacements of its pair, so that every sum has one
owner and one order: results do not depend on how blocks are scheduled.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import complex64, complex128, cuda
from numba.core import config

from ntk_dist.kernels.arc_cosine import LIFT, SAME, TURN
from ntk_dist.kernels.gpu_planes import (
    ZERO,
    Index,
    apply,
    at,
    device,
    displacements,
    lower_rows,
    quotient,
    total_rows,
)

__all__ = ["REGISTERS", "kernel"]

ALIGNMENT = 16
"""An NNGP and an NTK are then one load of 64 or 128 bits."""
REGISTERS = {32: 80, 64: 128}
"""Per thread, by bits of a number: 25 warps of float32 on a multiprocessor, and 16 of float64. The
loop over 3 x 3 windows fits without spilling; pooling and windows of other sizes spill a little,
and without a limit they would take twice as many from everybody."""


@device
def _planes(segment: Any, first: Index) -> Index:
    """How many planes a block has from slot ``first`` on."""
    return min(segment.together, segment.first_slot + segment.slots - first)


@device
def _load(
    work: Any,
    segment: Any,
    slots: Any,
    first: Index,
    input1: Any,
    begin1: Index,
    input2: Any,
    begin2: Index,
    tensor: Any,
    share: Any,
) -> None:
    """The first planes of a segment: products of inputs over channels, or from the tensor."""
    start = segment.first_plane * segment.together * segment.area
    pixels = segment.in_y * segment.in_x
    pitch = np.int32(segment.pitch)
    per_plane = np.int32(segment.strips * segment.pitch)
    zero = ZERO * share
    stop, stride = np.int32(_planes(segment, first) * per_plane), np.int32(cuda.blockDim.x)
    for item in range(np.int32(cuda.threadIdx.x), stop, stride):
        plane = quotient(item, per_plane)
        strip = quotient(item - plane * per_plane, pitch)
        x = np.int32(item - plane * per_plane - strip * pitch)
        ahead_y, behind_y, ahead_x, behind_x = displacements(slots, first + plane)
        rows = total_rows(segment.in_y, segment.factor_y, ahead_y, behind_y)
        if x >= total_rows(segment.in_x, segment.factor_x, ahead_x, behind_x):
            continue
        seam_y = lower_rows(segment.in_y, segment.factor_y, behind_y)
        seam_x = lower_rows(segment.in_x, segment.factor_x, behind_x)
        to = start + plane * segment.area + x
        dx = ahead_x * segment.factor_x if x >= seam_x else -behind_x * segment.factor_x
        x1 = x - seam_x + dx if x >= seam_x else x
        for row in range(strip * segment.rows, min((strip + 1) * segment.rows, rows)):
            dy = ahead_y * segment.factor_y if row >= seam_y else -behind_y * segment.factor_y
            y1 = row - seam_y + dy if row >= seam_y else row
            at1 = np.int32(y1 * segment.in_x + x1)
            if segment.channels:
                at2 = np.int32(begin2 + at1 - dy * segment.in_x - dx)
                at1 = np.int32(begin1 + at1)
                q = share * input1[at(at1)] * input2[at(at2)]
                for channel in range(1, segment.channels):
                    skip = np.int32(channel * pixels)
                    q += share * input1[at(at1 + skip)] * input2[at(at2 + skip)]
                work[at(to + row * pitch)] = complex(q, zero)
            else:
                slot = dy % segment.in_slots_y * segment.in_slots_x + dx % segment.in_slots_x
                z = tensor[at(segment.in_tensor + slot * pixels + at1)]
                work[at(to + row * pitch)] = z


@device
def _sum(work: Any, segment: Any, slots: Any, first: Index) -> tuple[float, float]:
    """A thread's share of the sum over all positions of the last planes.

    A column of a thread is added up in the precision of the planes, and columns in float64.
    """
    start = segment.last_plane * segment.together * segment.area
    pitch = np.int32(segment.last_pitch)
    per_plane = np.int32(segment.last_strips * segment.last_pitch)
    q, k = 0.0, 0.0
    stop, stride = np.int32(_planes(segment, first) * per_plane), np.int32(cuda.blockDim.x)
    for item in range(np.int32(cuda.threadIdx.x), stop, stride):
        plane = quotient(item, per_plane)
        strip = quotient(item - plane * per_plane, pitch)
        x = np.int32(item - plane * per_plane - strip * pitch)
        ahead_y, behind_y, ahead_x, behind_x = displacements(slots, first + plane)
        rows = total_rows(segment.out_y, 1, ahead_y, behind_y)
        top = strip * segment.last_rows
        if top < rows and x < total_rows(segment.out_x, 1, ahead_x, behind_x):
            here = start + plane * segment.area + x
            z = work[at(here + top * pitch)]
            for row in range(top + 1, min(top + segment.last_rows, rows)):
                z += work[at(here + row * pitch)]
            q += np.float64(z.real)
            k += np.float64(z.imag)
    return q, k


@device
def _part(part: Index, size: Index, ahead: Index, behind: Index) -> tuple[Index, Index, bool]:
    """One part of a packed plane along an axis: the lower one (0) or the upper one.

    Its displacement, where the row of the first sample's position 0 would be, and whether there is
    such a part.
    """
    lower = lower_rows(size, 1, behind)
    if part == 0:
        return -behind, 0, lower > 0
    return ahead, lower - ahead, size > ahead


@device
def _partners(
    windows: Any, first: Index, size: Index, low: Index, high: Index, d: Index
) -> tuple[Index, Index]:
    """The windows of the second sample that meet positions ``low`` to ``high`` of the first one.

    The first of them, and the one past the last.
    """
    low, high = max(low - d, 0), min(high - d, size)
    if low >= high:
        return 0, 0
    return windows[at(first + low), 0], windows[at(first + high - 1), 1]


@device
def _pool(
    work: Any,
    segment: Any,
    slots: Any,
    first: Index,
    windows: Any,
    spans: Any,
    weights: Any,
    tensor: Any,
) -> None:
    """Add the last planes to the tensor after them.

    A thread has certain windows of the first sample, and everything that meets them: nobody else
    writes there, and it needs no barrier of its own.
    """
    pixels = segment.pooled_y * segment.pooled_x
    planes = _planes(segment, first)
    for item in range(cuda.threadIdx.x, pixels, cuda.blockDim.x):
        i1 = quotient(item, segment.pooled_x)
        j1 = item - i1 * segment.pooled_x
        top, bottom = spans[at(segment.weights_y + i1), 0], spans[at(segment.weights_y + i1), 1]
        left, right = spans[at(segment.weights_x + j1), 0], spans[at(segment.weights_x + j1), 1]
        weight1 = weights[at(segment.weights_y + i1)] * weights[at(segment.weights_x + j1)]
        for plane in range(planes):
            ahead_y, behind_y, ahead_x, behind_x = displacements(slots, first + plane)
            start = (segment.last_plane * segment.together + plane) * segment.area
            for quadrant in range(4):
                dy, zero_y, exists_y = _part(quadrant // 2, segment.out_y, ahead_y, behind_y)
                dx, zero_x, exists_x = _part(quadrant % 2, segment.out_x, ahead_x, behind_x)
                if not (exists_y and exists_x):
                    continue
                begin_y, end_y = _partners(
                    windows, segment.windows_y, segment.out_y, top, bottom, dy
                )
                begin_x, end_x = _partners(
                    windows, segment.windows_x, segment.out_x, left, right, dx
                )
                for i2 in range(begin_y, end_y):
                    span = at(segment.weights_y + i2)
                    first_y = max(top, spans[span, 0] + dy)
                    last_y = min(bottom, spans[span, 1] + dy)
                    if abs(i1 - i2) > segment.pooled_reach_y:
                        continue
                    for j2 in range(begin_x, end_x):
                        span = at(segment.weights_x + j2)
                        first_x = max(left, spans[span, 0] + dx)
                        last_x = min(right, spans[span, 1] + dx)
                        if abs(j1 - j2) > segment.pooled_reach_x:
                            continue
                        slot = (i1 - i2) % segment.out_slots_y * segment.out_slots_x
                        slot += (j1 - j2) % segment.out_slots_x
                        to = at(segment.out_tensor + slot * pixels + item)
                        weight = weight1 * weights[at(segment.weights_y + i2)] * weights[span]
                        z = tensor[to]
                        for y in range(first_y, last_y):
                            row = start + (y + zero_y) * segment.last_pitch + zero_x
                            for x in range(first_x, last_x):
                                add = work[at(row + x)]
                                z = complex(z.real + weight * add.real, z.imag + weight * add.imag)
                        tensor[to] = z


@device
def _clear(tensor: Any, start: Index, size: Index) -> None:
    for i in range(start + cuda.threadIdx.x, start + size, cuda.blockDim.x):
        tensor[at(i)] = 0


@device
def _one_pair(
    work: Any,
    segments: Any,
    steps: Any,
    coefficients: Any,
    slots: Any,
    windows: Any,
    spans: Any,
    weights: Any,
    i: Index,
    input1: Any,
    one: Any,
    j: Index,
    input2: Any,
    other: Any,
    input_size: Index,
    positions: Index,
    tensor: Any,
    share: Any,
    curves: Any,
) -> tuple[float, float]:
    """A thread's share of the sums over all positions of one pair."""
    q, k = 0.0, 0.0
    begin1, begin2 = np.int32(i * input_size), np.int32(j * input_size)
    start1, start2 = np.int32(i * positions), np.int32(j * positions)
    for s in range(len(segments)):
        segment = segments[s]
        _clear(tensor, segment.out_tensor, segment.out_size)
        # The tensor is cleared and the one before complete, before anyone reads them.
        cuda.syncthreads()
        end = segment.first_slot + segment.slots
        for first in range(segment.first_slot, end, segment.together):
            _load(work, segment, slots, first, input1, begin1, input2, begin2, tensor, share)
            cuda.syncthreads()
            for step in range(segment.first_step, segment.last_step):
                c = coefficients[step]
                layer = c[0], c[1], c[2], c[3], c[4], c[5]
                apply(
                    work, segment, steps[step], layer, slots, first,
                    one, start1, other, start2, curves,
                )  # fmt: skip
                cuda.syncthreads()
            if segment.out_size:
                _pool(work, segment, slots, first, windows, spans, weights, tensor)
            else:
                more_q, more_k = _sum(work, segment, slots, first)
                q += more_q
                k += more_k
            # The planes are read before the next ones are loaded over them.
            cuda.syncthreads()
    return q, k


@device
def _run(
    work: Any,
    segments: Any,
    steps: Any,
    coefficients: Any,
    slots: Any,
    windows: Any,
    spans: Any,
    weights: Any,
    pairs: Any,
    inputs1: Any,
    deviations1: Any,
    inputs2: Any,
    deviations2: Any,
    input_size: Index,
    positions: Index,
    tensors: Any,
    partial: Any,
    results: Any,
    share: Any,
    curves: Any,
) -> None:
    """All pairs that fall to this block."""
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    for pair in range(block, len(pairs), cuda.gridDim.x):
        i, j = pairs[at(pair), 0], pairs[at(pair), 1]
        q, k = _one_pair(
            work, segments, steps, coefficients, slots, windows, spans, weights,
            i, inputs1, deviations1, j, inputs2, deviations2, input_size, positions,
            tensors[block], share, curves,
        )  # fmt: skip
        mine = partial[block]
        mine[thread, 0], mine[thread, 1] = q, k
        cuda.syncthreads()
        # Pairwise, in the same order whatever the scheduler does.
        reach = 1
        while reach < cuda.blockDim.x:
            if thread % (2 * reach) == 0 and thread + reach < cuda.blockDim.x:
                mine[thread, 0] += mine[thread + reach, 0]
                mine[thread, 1] += mine[thread + reach, 1]
            reach *= 2
            cuda.syncthreads()
        if thread == 0:
            results[pair, 0], results[pair, 1] = mine[0, 0], mine[0, 1]


@functools.cache
def kernel(bits: Index, shared: bool) -> Any:
    """The compiled kernel for planes of 32 or 64 bits, in the fast memory of a block or not.

    Launch it with as many threads per block as the program says, any number of blocks, and
    ``BlockProgram.shared_bytes`` of dynamic shared memory. Arguments: the arrays of
    ``gpu_program.BlockProgram``; (n, 2) rows and columns of the pairs; samples, channels first and
    flat, and deviations of both sides; per block its planes (for those not shared), its tensors and
    its threads' sums (threads, 2); and (n, 2) where both kernels go, float64.
    """
    real, both = {32: (np.float32, complex64), 64: (np.float64, complex128)}[bits]
    turn, lift = (tuple(map(real, reversed(table[bits]))) for table in (TURN, LIFT))
    curves = turn, lift, real(SAME[bits])

    # Of float32, the reciprocal and the root are approximate: to the last bit but one.
    limits = {} if config.ENABLE_CUDASIM else {"max_registers": REGISTERS[bits]}

    # Only inlined functions may return an array that they were not given.
    @cuda.jit(device=True, inline="always")
    def in_shared_memory(planes: Any) -> Any:
        return cuda.shared.array(0, both, ALIGNMENT)

    @cuda.jit(device=True, inline="always")
    def in_global_memory(planes: Any) -> Any:
        return planes[cuda.blockIdx.x]

    work = in_shared_memory if shared else in_global_memory

    @cuda.jit(fastmath=bits == 32, **limits)
    def run(
        segments: Any,
        steps: Any,
        coefficients: Any,
        slots: Any,
        windows: Any,
        spans: Any,
        weights: Any,
        pairs: Any,
        inputs1: Any,
        deviations1: Any,
        inputs2: Any,
        deviations2: Any,
        input_size: Index,
        positions: Index,
        planes: Any,
        tensors: Any,
        partial: Any,
        results: Any,
        share: Any,
    ) -> None:
        _run(
            work(planes), segments, steps, coefficients, slots, windows, spans, weights, pairs,
            inputs1, deviations1, inputs2, deviations2, input_size, positions,
            tensors, partial, results, share, curves,
        )  # fmt: skip

    return run
