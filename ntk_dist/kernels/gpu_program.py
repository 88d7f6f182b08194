"""A layer program laid out for thread blocks: packed planes, and how many fit one block.

Along an axis of ``n`` positions the open plane of displacement ``d`` has ``n - d`` rows, and that
of ``d - n`` the other ``d``. A *packed* plane holds both, one after the other, so that planes of
every displacement are equally full: without that, three quarters of the threads would have nothing
to do. Where filters wrap round, the two parts are one cyclic plane, row for row in the same places.
The other axis alike, so that a packed plane has up to four parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ntk_dist.kernels.activations import Family
from ntk_dist.kernels.lanes import DOUBLE, SINGLE
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.program import SEGMENT, STEP, Program, compile_program
from ntk_dist.kernels.records import integers

__all__ = ["ROWS", "BlockProgram", "BlockPrograms", "lay_out", "packed_slots"]

ROWS = 16
"""Rows of a plane that one thread computes, one after another, or about as many in equal parts.
Finding its place costs a thread as much as four rows, and two rows beside its own are loaded; with
more rows, too few threads would be left to hide how long memory takes."""
WARP = 32
"""Threads that run together."""
MOST_THREADS = 256
"""Per block: eight warps wait for each other at a barrier."""
SHARED_BYTES = 48 * 1024
"""What any block may have of the fast memory without asking; 32 x 32 positions in float64 on three
planes are exactly that. Larger planes live in global memory."""
ABSENT = 1 << 15
"""A displacement beyond every plane: that part is not wanted."""

BLOCK_STEP = np.dtype(
    [(name, "i4") for name in STEP.names or () if STEP[name] == np.int64]
    + integers("fast in_pitch pitch strips rows", "i4"),
    align=True,
)
"""The integers of ``program.STEP``; whether the window is the common one of 3 x 3 that keeps the
size; columns of the packed planes before and after; and groups of how many rows after."""

BLOCK_SEGMENT = np.dtype(
    [(name, "i4") for name in SEGMENT.names or ()]
    + integers(
        "first_slot slots together area pitch strips rows last_pitch last_strips last_rows", "i4"
    ),
    align=True,
)
"""``program.SEGMENT``, its tensors counted in pairs of numbers from 0 on; which packed planes it
has, how many of them a block computes at once, and the sizes of the first and the last one."""

COEFFICIENTS = ("scale", "bias", "own", "own_bias", "weight", "level")


@dataclass(frozen=True)
class BlockProgram:
    """Arrays for the kernel, for one architecture, shape of samples and precision."""

    program: Program
    segments: np.ndarray
    steps: np.ndarray
    coefficients: np.ndarray
    """(n_steps, 6) in the precision of the planes: see ``COEFFICIENTS``."""
    slots: np.ndarray
    """(n, 4): per axis, how far ahead the first sample is in the upper part of a packed plane, and
    how far behind in the lower one; ``ABSENT`` where there is no such part."""
    windows: np.ndarray
    """As in the program."""
    spans: np.ndarray
    """For each window, its first position and the one past its last."""
    weights: np.ndarray
    """As in the program, in the precision of the planes."""
    threads: int
    """Of one block."""
    work: int
    """Pairs of numbers in the planes of one block."""
    tensors: int
    """Pairs of numbers in the tensors between the segments of one pair of samples."""

    @property
    def pair_bytes(self) -> int:
        """Bytes of an NNGP and an NTK together."""
        return 2 * self.weights.dtype.itemsize

    @property
    def shared_bytes(self) -> int:
        """Fast memory of a block; 0 where its planes are too large for that."""
        needed = self.work * self.pair_bytes
        return needed if needed <= SHARED_BYTES else 0


BlockPrograms: TypeAlias = Mapping[np.dtype[np.floating], BlockProgram]
"""Those of one architecture, by precision of the planes."""


def packed_slots(size: int, reach: int) -> list[tuple[int, int]]:
    """The packed planes along an axis, as pairs of displacements ahead and behind.

    Parameters
    ----------
    size
        Positions of an image at the end of the segment.
    reach
        Largest displacement wanted there.
    """
    ahead = [d if d <= reach else ABSENT for d in range(size)]
    behind = [size - d if 0 < size - d <= reach and d else ABSENT for d in range(size)]
    return [pair for pair in zip(ahead, behind, strict=True) if min(pair) < ABSENT]


def lay_out(architecture: Layer, input_shape: tuple[int, ...]) -> BlockPrograms | str:
    """The programs of an architecture for thread blocks in both precisions, or why it has none.

    Parameters are those of ``compile_program``.
    """
    program = compile_program(architecture, input_shape, lanes=1)
    if isinstance(program, str):
        return program
    if (program.steps["family"] != Family.PIECEWISE_LINEAR).any():
        return "on a GPU only piecewise linear activations are fused"
    segments = np.zeros(len(program.segments), BLOCK_SEGMENT)
    steps = np.zeros(len(program.steps), BLOCK_STEP)
    _copy(program.segments, segments)
    _copy(program.steps, steps)
    for name in ("in_tensor", "out_tensor"):
        segments[name] = (program.segments[name] - int(program.layout["tensors"][0])) // 2
    segments["out_size"] //= 2
    slots: list[tuple[int, int, int, int]] = []
    for segment in segments:
        _lay_out_segment(segment, steps[segment["first_step"] : segment["last_step"]], slots)
    threads = max(_threads(s, steps[s["first_step"] : s["last_step"]]) for s in segments)
    work = 0
    for segment in segments:
        own = steps[segment["first_step"] : segment["last_step"]]
        units = _threads(segment, own)
        places = 1 + max([segment["first_plane"], *own["source"], *own["target"]])
        segment["together"] = max(1, min(threads // units, segment["slots"]))
        work = max(work, int(segment["together"]) * int(places) * int(segment["area"]))
    numbers = np.array([program.steps[name] for name in COEFFICIENTS])
    double = BlockProgram(
        program=program,
        segments=segments,
        steps=steps,
        coefficients=numbers.T.reshape(-1, len(COEFFICIENTS)).copy(),
        slots=np.array(slots, np.int32),
        windows=np.append(program.windows, [[0, 0]], axis=0).astype(np.int32),
        spans=_spans(program),
        weights=np.append(program.weights, 0.0),
        threads=min(-(-threads // WARP) * WARP, MOST_THREADS),
        work=work,
        tensors=int(program.layout["size"][0] - program.layout["tensors"][0]) // 2,
    )
    single = replace(
        double,
        coefficients=double.coefficients.astype(SINGLE),
        weights=double.weights.astype(SINGLE),
    )
    return {SINGLE: single, DOUBLE: double}


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """All fields that both have."""
    for name in set(source.dtype.names or ()) & set(target.dtype.names or ()):
        target[name] = source[name]


def _lay_out_segment(
    segment: np.void, steps: np.ndarray, slots: list[tuple[int, int, int, int]]
) -> None:
    """Fill in the sizes of packed planes, and append the displacements they hold."""
    axes = {
        axis: packed_slots(int(segment[f"out_{axis}"]), int(segment[f"reach_{axis}"]))
        for axis in "yx"
    }

    def packed(axis: str, size: int, factor: int) -> int:
        """Rows of the longest packed plane where images have this size."""
        return max(
            sum(max(0, size - d * factor) for d in pair if d < ABSENT) for pair in axes[axis]
        )

    first = [packed(axis, segment[f"in_{axis}"], segment[f"factor_{axis}"]) for axis in "yx"]
    last = [packed(axis, segment[f"out_{axis}"], 1) for axis in "yx"]
    segment["first_slot"], segment["slots"] = len(slots), len(axes["y"]) * len(axes["x"])
    segment["pitch"], segment["last_pitch"] = first[1], last[1]
    segment["strips"], segment["rows"] = _strips(first[0])
    segment["last_strips"], segment["last_rows"] = _strips(last[0])
    area = max(first[0] * first[1], last[0] * last[1])
    for step in steps:
        before, after = (
            [packed(axis, step[f"{end}_{axis}"], step[f"{end}_factor_{axis}"]) for axis in "yx"]
            for end in ("in", "out")
        )
        step["in_pitch"], step["pitch"] = before[1], after[1]
        step["strips"], step["rows"] = _strips(after[0])
        same = all(step[f"in_{axis}"] == step[f"out_{axis}"] for axis in "yx")
        step["fast"] = same and all(
            step[f"{name}_{axis}"] == wanted
            for axis in "yx"
            for name, wanted in (("taps", 3), ("step", 1), ("pad", 1))
        )
        area = max(area, after[0] * after[1])
    segment["area"] = area
    slots += [(*y, *x) for y in axes["y"] for x in axes["x"]]


def _strips(rows: int) -> tuple[int, int]:
    """In how many equal parts threads share the rows of a plane, and the rows of each."""
    strips = max(1, round(rows / ROWS))
    return strips, -(-rows // strips)


def _threads(segment: np.void, steps: np.ndarray) -> int:
    """How many threads have work in the largest plane of a segment."""
    sizes = [int(segment["strips"]) * int(segment["pitch"])]
    sizes += [int(strips) * int(pitch) for strips, pitch in steps[["strips", "pitch"]]]
    return max(sizes)


def _spans(program: Program) -> np.ndarray:
    """The positions of each window, in the order of its weights."""
    spans = np.zeros((len(program.weights) + 1, 2), np.int32)
    for record in program.segments:
        for axis in "yx" if record["out_size"] else "":
            first = int(record[f"windows_{axis}"])
            rows = program.windows[first : first + int(record[f"out_{axis}"])]
            for window in range(int(record[f"pooled_{axis}"])):
                (inside,) = ((rows[:, 0] <= window) & (window < rows[:, 1])).nonzero()
                span = (inside[0], inside[-1] + 1) if len(inside) else (0, 0)
                spans[int(record[f"weights_{axis}"]) + window] = span
    return spans
