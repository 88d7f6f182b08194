"""An architecture as data for the convolution engines: steps on planes, between poolings.

They are compiled once per precision; an architecture is only arrays to them. That on a GPU lays
them out anew (``gpu_program.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ntk_dist.kernels.activations import Family
from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.flops import pair_flops
from ntk_dist.kernels.fusing import Fused, NotFusedError, Plane, Segment, Statistic, Step, fuse
from ntk_dist.kernels.lanes import DOUBLE, SINGLE, lane_count
from ntk_dist.kernels.layers import AvgPool, Flatten, GlobalAvgPool, Layer, Pool
from ntk_dist.kernels.records import integers
from ntk_dist.kernels.rounding import balance, blurs_angles
from ntk_dist.kernels.shapes import pads, window_count

__all__ = ["LAYOUT", "SEGMENT", "STEP", "Program", "Programs", "compile_both", "compile_program"]


STEP = np.dtype(
    integers(
        "source target adds normalizes statistic family taps_y taps_x step_y step_x pad_y pad_x "
        "in_y in_x out_y out_x in_factor_y in_factor_x out_factor_y out_factor_x"
    )
    + [(name, "f8") for name in ("scale", "bias", "own", "own_bias", "weight", "level", "rate")]
)
"""What ``planes.apply`` needs to know. Sizes are those of whole images; factors say by how much
later strides magnify a displacement at the end of the segment."""

SEGMENT = np.dtype(
    integers(
        "first_step last_step first_plane last_plane cyclic channels in_y in_x out_y out_x "
        "factor_y factor_x reach_y reach_x in_tensor in_slots_y in_slots_x "
        "out_tensor out_size out_slots_y out_slots_x "
        "pooled_y pooled_x pooled_reach_y pooled_reach_x windows_y windows_x weights_y weights_x "
        "overlap_x"
    )
)
"""What ``segments._run_segment`` needs to know. ``reach`` is the largest displacement needed."""

LAYOUT = np.dtype(
    [
        *integers("plane zero ring input1 one input2 others units products tensors size apart"),
        ("share", "f8"),
    ]
)
"""The memory of one thread, in numbers: planes of this size from 0 on, a row of zeros, sums of
rows, one sample and its deviations, a word of samples and theirs, and the tensors between
segments. ``apart`` is 1, or as many as there are lanes where each of these has a row of its own;
then there are rows of ones and of products of deviations, too. ``share`` is the weight of a pair
of positions in the final sum."""


@dataclass(frozen=True)
class Program:
    """Arrays for the engine, for one architecture and shape of samples; sizes in numbers.

    All sizes are for words of ``lanes`` pairs.
    """

    lanes: int
    steps: np.ndarray
    segments: np.ndarray
    layout: np.ndarray
    """Its ``size`` is what a thread needs."""
    windows: np.ndarray
    """For each position of a pooled axis, the first window it lies in and the one past the last."""
    weights: np.ndarray
    """What each window multiplies a position by."""
    statistics: tuple[Statistic, ...]
    head: Serial
    """The layers before the spatial axes go."""
    tail: Serial
    """The layers after they are gone."""
    channels: int
    """Of the finite network, where the tail begins."""
    positions: int
    """Of all statistics together."""
    most_terms: int
    """Of the running sums that pooling adds up in the precision of the planes."""
    blurs_angles: bool
    """See ``rounding.blurs_angles``."""
    flops: int
    """Of one pair; a contracted product and sum count as two, a square root as one."""

    @property
    def mixes_positions(self) -> bool:
        """Whether a sample's kernels need more than each position with itself."""
        return bool((self.segments["reach_x"] + self.segments["reach_y"] > 0).any())

    @property
    def input_size(self) -> int:
        """Numbers of one sample."""
        return math.prod(int(self.segments[0][name]) for name in ("in_y", "in_x", "channels"))

    @property
    def share(self) -> float:
        """The weight of a pair of positions in the final sum."""
        return float(self.layout["share"][0])

    @property
    def size(self) -> int:
        """Numbers that one thread works on."""
        return int(self.layout["size"][0])


Programs: TypeAlias = Mapping[np.dtype[np.floating], Program]
"""Those of one architecture in words of either precision, by precision."""


def compile_both(architecture: Layer, input_shape: Sequence[int]) -> Programs | str:
    """The programs of an architecture in both precisions, or why it has none.

    Parameters are those of ``compile_program``.
    """
    programs = {}
    for dtype in (SINGLE, DOUBLE):
        program = compile_program(architecture, input_shape, lane_count(dtype.itemsize))
        if isinstance(program, str):
            return program
        programs[dtype] = program
    return programs


def compile_program(
    architecture: Layer, input_shape: Sequence[int], lanes: int, matched: bool = False
) -> Program | str:
    """The program of an architecture that ``architecture.check`` accepts, or why it has none.

    Parameters
    ----------
    architecture
        Convolutions, poolings, activations, LayerNorm and residual branches;
        then anything after Flatten or global pooling.
    input_shape
        Shape of one sample: one or two spatial axes, then channels.
    lanes
        Pairs that the engine takes at once in the precision at hand.
    matched
        Whether each lane has a row of its own, in place of one row for all of them.
    """
    try:
        fused = fuse(architecture, input_shape)
        return _Assembler(fused, lanes, matched).program(input_shape[-1])
    except NotFusedError as reason:
        return str(reason)


class _Assembler:
    """Turns steps on planes into arrays: offsets, sizes, which displacements are needed."""

    def __init__(self, fused: Fused, lanes: int, matched: bool) -> None:
        self.fused = fused
        self.lanes = lanes
        self.apart = lanes if matched else 1
        self.width = 2 * lanes
        self.windows: list[tuple[int, int]] = []
        self.weights: list[float] = []

    def program(self, channels: int) -> Program:
        fused, width = self.fused, self.width
        segments = np.zeros(len(fused.segments), SEGMENT)
        steps: list[np.ndarray] = []
        n_planes = 0
        for record, segment in zip(segments, fused.segments, strict=True):
            rows, used = _numbered(segment)
            record["first_step"], record["last_step"] = len(steps), len(steps) + len(rows)
            record["first_plane"], record["last_plane"] = used[segment.start], used[segment.last]
            n_planes = max(n_planes, 1 + max(used.values()))
            steps += rows
            record["cyclic"] = segment.cyclic
            _put(record, "in", segment.start.size)
            _put(record, "out", segment.last.size)
            _put(record, "factor", segment.last.factor)
        if self.lanes == lane_count(SINGLE.itemsize):
            balance(steps)
        segments[0]["channels"] = channels
        self._reach(segments)
        tensor_size = self._tensors(segments)
        sizes = [plane.size for segment in fused.segments for plane in _planes(segment)]
        taps = max((int(step["taps_y"]) for step in steps), default=1)
        row = max(c for _, c in sizes) * width
        samples = math.prod(fused.segments[0].start.size) * channels
        layout = np.zeros(1, LAYOUT)
        layout["plane"] = max(r * c for r, c in sizes) * width
        areas = {
            "zero": n_planes * int(layout["plane"][0]),
            "ring": row,
            "input1": (taps + 1) * row,
            "one": samples * self.apart,
            "input2": 2 * fused.positions * self.apart,
            "others": samples * self.lanes,
            "units": fused.positions * width,
            "products": row * (self.apart > 1),
            "tensors": row * (self.apart > 1),
            "size": tensor_size,
        }
        start = 0
        for name, before in areas.items():
            # Every area starts with a whole word.
            start += -(-before // self.lanes) * self.lanes
            layout[name] = start
        for name in ("in_tensor", "out_tensor"):
            segments[name] += layout["tensors"]
        layout["apart"] = self.apart
        layout["share"] = _share(fused)
        return Program(
            lanes=self.lanes,
            steps=np.array(steps, STEP),
            segments=segments,
            layout=layout,
            windows=np.array(self.windows, np.int64).reshape(-1, 2),
            weights=np.array(self.weights, np.float64),
            statistics=tuple(fused.statistics),
            head=fused.head,
            tail=fused.tail,
            channels=fused.channels,
            positions=fused.positions,
            most_terms=max((math.prod(_geometry(p)[0]) ** 2 for p in fused.pools), default=1),
            blurs_angles=blurs_angles(fused),
            flops=pair_flops(fused, segments, channels),
        )

    def _reach(self, segments: np.ndarray) -> None:
        """Which displacements each segment must give, from the last one backwards."""
        wanted = [0, 0] if isinstance(self.fused.last, Flatten) else [2**31, 2**31]
        for i in reversed(range(len(segments))):
            record, segment = segments[i], self.fused.segments[i]
            if i < len(self.fused.pools):
                window, stride = _geometry(self.fused.pools[i])
                wanted = [s * r + w - 1 for s, r, w in zip(stride, wanted, window, strict=True)]
            axes = zip(
                segment.start.size, segment.last.size, segment.last.factor, wanted, strict=True
            )
            reach = []
            for axis, (size, out, factor, asked) in enumerate(axes):
                found = min(asked, out - 1)
                if segment.cyclic and found:
                    if size != factor * out:
                        raise NotFusedError(
                            f"circular filters with strides {segment.last.factor} do not divide "
                            f"{segment.start.size} positions"
                        )
                    found = out - 1
                reach.append(found)
                # Cyclic planes hold displacements d and d - n: all of them, or 0 alone.
                wanted[axis] = size - 1 if segment.cyclic and found else factor * found
            _put(record, "reach", (reach[0], reach[1]))
            if i:
                pooled = tuple(
                    min(r, n - 1) for r, n in zip(wanted, segment.start.size, strict=True)
                )
                _put(segments[i - 1], "pooled_reach", (pooled[0], pooled[1]))
                wanted = list(pooled)

    def _tensors(self, segments: np.ndarray) -> int:
        """Where the tensors between segments lie: two areas in turn. Their size."""
        areas = [0, 0]
        for i, pool in enumerate(self.fused.pools):
            before, after = segments[i], segments[i + 1]
            size = self.fused.segments[i + 1].start.size
            _put(before, "pooled", size)
            reach = (int(before["pooled_reach_y"]), int(before["pooled_reach_x"]))
            slots = (min(size[0], 2 * reach[0] + 1), min(size[1], 2 * reach[1] + 1))
            _put(before, "out_slots", slots)
            _put(after, "in_slots", slots)
            before["out_size"] = math.prod(slots) * math.prod(size) * self.width
            areas[i % 2] = max(areas[i % 2], int(before["out_size"]))
            self._windows(before, pool, self.fused.segments[i].last.size)
        for i in range(len(self.fused.pools)):
            segments[i]["out_tensor"] = segments[i + 1]["in_tensor"] = (i % 2) * areas[0]
        return sum(areas)

    def _windows(self, record: Any, pool: Pool, sizes: tuple[int, int]) -> None:
        for axis, size, window, stride in zip("yx", sizes, *_geometry(pool), strict=True):
            record[f"windows_{axis}"] = len(self.windows)
            record[f"weights_{axis}"] = len(self.weights)
            count = window_count(size, window, stride, pool.padding)
            low = pads(size, window, stride, pool.padding)[0]
            for i in range(size):
                first = -(-(i + low - window + 1) // stride)
                self.windows.append((max(first, 0), min((i + low) // stride + 1, count)))
            if axis == "x":
                record["overlap_x"] = -(-window // stride)
            for i in range(count):
                inside = window
                if isinstance(pool, AvgPool) and pool.normalize_edges:
                    inside = min(i * stride - low + window, size) - max(i * stride - low, 0)
                self.weights.append(1 / inside if isinstance(pool, AvgPool) else 1.0)


def _share(fused: Fused) -> float:
    """The weight of one pair of positions in the final sum."""
    positions = math.prod(fused.segments[-1].last.size)
    if isinstance(fused.last, Flatten):
        return 1 / positions
    return 1 / positions**2 if isinstance(fused.last, GlobalAvgPool) else 1.0


def _geometry(pool: Pool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and stride by rows and columns; one spatial axis is a single row."""
    one = (1, 1)[: 2 - len(pool.window_shape)]
    window, stride = one + pool.window_shape, one + pool.step
    return (window[0], window[1]), (stride[0], stride[1])


def _put(record: Any, name: str, pair: tuple[int, int]) -> None:
    record[f"{name}_y"], record[f"{name}_x"] = pair


def _planes(segment: Segment) -> list[Plane]:
    return [segment.start, *(step.target for step in segment.steps)]


def _numbered(segment: Segment) -> tuple[list[np.ndarray], dict[Plane, int]]:
    """The records of a segment's steps, and where each plane lives: a few places, used again."""
    last_read = {
        plane: i for i, step in enumerate(segment.steps) for plane in (step.source, step.target)
    }
    last_read[segment.last] = len(segment.steps)
    place = {segment.start: 0}
    free: list[int] = []
    records = []
    for i, step in enumerate(segment.steps):
        if step.target not in place:
            place[step.target] = free.pop() if free else 1 + max(place.values())
        records.append(_record(step, segment, place))
        if last_read[step.source] == i:
            free.append(place[step.source])
    return records, place


def _record(step: Step, segment: Segment, place: dict[Plane, int]) -> np.ndarray:
    """One step as the engine reads it."""
    record = np.zeros((), STEP)
    record["source"], record["target"] = place[step.source], place[step.target]
    for name in ("adds", "normalizes", "statistic", "family", "scale", "bias", "own", "own_bias"):
        record[name] = getattr(step, name)
    for name in ("taps", "step", "pad"):
        _put(record, name, getattr(step, name))
    for name, plane in (("in", step.source), ("out", step.target)):
        _put(record, name, plane.size)
        factors = [a // b for a, b in zip(segment.last.factor, plane.factor, strict=True)]
        _put(record, f"{name}_factor", (factors[0], factors[1]))
    record["weight"], record["level"], record["rate"] = _weights(step)
    return record


def _weights(step: Step) -> tuple[float, float, float]:
    """The constants of an activation as the engine multiplies by them."""
    match step.family, step.constants:
        case Family.ERF, (a, _, c):
            return 2 * a * a / math.pi, c * c, 0.0
        case Family.SINE, (a2, b2, cos2c):
            return a2 / 2, cos2c, b2
        case Family.PIECEWISE_LINEAR, (below, above):
            weight = (above - below) ** 2
            # Half of both slopes' squares: what a perfectly correlated pair keeps, less the fold's
            # share.
            return weight, below * above + weight / 4, 0.0
    return 0.5 / math.pi, 0.25, 0.0
