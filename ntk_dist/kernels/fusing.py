"""From an architecture to straight-line steps on planes, in segments between poolings.

The walk is that of ``recursion.py``, so that statistics come in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from ntk_dist.kernels.activations import Family, family
from ntk_dist.kernels.branching import FanInSum, FanOut, Parallel, Serial
from ntk_dist.kernels.layers import (
    Activation,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Layer,
    LayerNorm,
    Pool,
)
from ntk_dist.kernels.shapes import pads, window_count

__all__ = ["Fused", "NotFusedError", "Plane", "Segment", "Statistic", "Step", "fuse"]


@dataclass(frozen=True)
class Statistic:
    """A variance that some step needs, in the order in which the recursion meets them."""

    weight: float
    """``(a - b)²`` of a piecewise linear activation; the first number comes multiplied by it."""
    eps: float = 0.0
    """Added to the variance by LayerNorm."""
    axes: tuple[int, ...] = ()
    """Spatial axes that LayerNorm averages over."""
    family: Family = Family.PIECEWISE_LINEAR
    """Of the activation; LayerNorm needs the same as a piecewise linear one."""
    rate: float = 0.0
    """``b²`` of Erf and of sines."""

    def numbers(self, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two numbers that the engine needs of each sample at each position.

        Of a pair it multiplies both (adds them, for sines): ``smooth.py`` says what they are.

        Parameters
        ----------
        variance : (n, ...)
            What enters the layer, float64.
        """
        match self.family:
            case Family.ERF:
                e = 1 / np.sqrt(1 + 2 * self.rate * variance)
                return e, math.sqrt(2 * self.rate) * e
            case Family.GELU:
                r = 1 / np.sqrt(1 + variance)
                return variance * r, r
            case Family.SINE:
                decay = 0.5 * self.rate * variance
                return decay, decay
        variance = variance + self.eps
        if self.axes:
            axes = tuple(1 + axis for axis in self.axes)
            variance = np.broadcast_to(variance.mean(axes, keepdims=True), variance.shape)
        deviation = np.sqrt(variance)
        # No variance: the reciprocal of zero makes the correlation zero, and the angle π/2.
        return deviation, np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)


@dataclass(eq=False)
class Plane:
    """A value on its way through a segment."""

    size: tuple[int, int]
    channels: int
    factor: tuple[int, int] = (1, 1)
    """Strides since the segment began."""
    producer: Step | None = None
    """The affine step that made it, while an activation may still be merged into that."""


State: TypeAlias = "Plane | tuple[State, ...]"


@dataclass(eq=False)
class Step:
    """An affine layer and perhaps the activation after it; or a LayerNorm; or an addition."""

    source: Plane
    target: Plane
    taps: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    scale: float = 1.0
    bias: float = 0.0
    own: float = 0.0
    own_bias: float = 0.0
    """What the NNGP before the layer, and one, add to the NTK after it: its own gradients."""
    statistic: int = -1
    """Position among all statistics of that of the activation or LayerNorm, if there is one."""
    family: Family = Family.PIECEWISE_LINEAR
    """Of the activation."""
    constants: tuple[float, ...] = (0.0, 0.0)
    """Those of its family."""
    adds: bool = False
    """Whether the source is added to what the target already holds."""
    normalizes: bool = False


@dataclass
class Segment:
    """The steps from the input, or from a pooling, up to the next pooling."""

    start: Plane
    steps: list[Step] = field(default_factory=list)
    end: Plane | None = None
    paddings: set[str] = field(default_factory=set)
    """Of the filters wider than one position."""

    @property
    def last(self) -> Plane:
        """What the segment leaves."""
        assert self.end is not None
        return self.end

    @property
    def cyclic(self) -> bool:
        """Whether its filters wrap round."""
        return "CIRCULAR" in self.paddings


class NotFusedError(Exception):
    """Why an architecture has no program."""


@dataclass(frozen=True)
class Fused:
    """The spatial part of an architecture in segments, and what comes after it."""

    segments: list[Segment]
    pools: list[Pool]
    """Between the segments: one less."""
    statistics: list[Statistic]
    positions: int
    """Of all statistics together."""
    last: Flatten | GlobalPool
    """What ends the spatial part."""
    head: Serial
    """The layers before that."""
    tail: Serial
    channels: int
    """Of the finite network, where the tail begins."""


def fuse(architecture: Layer, input_shape: Sequence[int]) -> Fused:
    """The steps of an architecture that ``architecture.check`` accepts for samples of this shape.

    Raises
    ------
    NotFusedError
        It has no such steps; the message says why.
    """
    return _Fusing(len(input_shape) - 1).run(architecture, input_shape)


def _in_a_row(layer: Layer) -> Iterator[Layer]:
    """The layers of nested rows, one after another."""
    if isinstance(layer, Serial):
        for each in layer.layers:
            yield from _in_a_row(each)
    elif not isinstance(layer, Identity):
        yield layer


@dataclass
class _Fusing:
    rank: int
    segments: list[Segment] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    """Between the segments: one less."""
    statistics: list[Statistic] = field(default_factory=list)
    positions: int = 0
    """Of all statistics so far."""

    def run(self, architecture: Layer, input_shape: Sequence[int]) -> Fused:
        *spatial, channels = input_shape
        if self.rank not in (1, 2):
            raise NotFusedError(f"samples have {self.rank} spatial axes, not 1 or 2")
        state: State = self._begin(self._both(tuple(spatial), 1), channels)
        layers = list(_in_a_row(architecture))
        for i, layer in enumerate(layers):
            if isinstance(layer, Flatten | GlobalPool):
                last = self._single(state)
                self.segments[-1].end = last
                channels = last.channels
                if isinstance(layer, Flatten):
                    channels *= math.prod(last.size)
                tail = Serial((Identity(), *layers[i + 1 :]))
                return Fused(
                    self.segments,
                    self.pools,
                    self.statistics,
                    self.positions,
                    layer,
                    Serial((Identity(), *layers[:i])),
                    tail,
                    channels,
                )
            state = self._walk(layer, state, inside=False)
        raise NotFusedError("no Flatten or global pooling ends the spatial part")

    def _both(self, sizes: tuple[int, ...], missing: int) -> tuple[int, int]:
        """Rows and columns; one spatial axis is a single row."""
        return (missing, sizes[0]) if self.rank == 1 else (sizes[0], sizes[1])

    def _begin(self, size: tuple[int, int], channels: int) -> Plane:
        start = Plane(size, channels)
        self.segments.append(Segment(start))
        return start

    def _single(self, state: State) -> Plane:
        if isinstance(state, tuple):
            raise NotFusedError("branches do not come together before the spatial axes are gone")
        return state

    def _walk(self, layer: Layer, state: State, inside: bool) -> State:
        """What comes after a layer; ``inside`` says whether it stands in a branch."""
        match layer:
            case Serial():
                for each in _in_a_row(layer):
                    state = self._walk(each, state, inside)
                return state
            case Parallel(layers=layers) if isinstance(state, tuple):
                return tuple(
                    self._walk(each, branch, True)
                    for each, branch in zip(layers, state, strict=True)
                )
            case FanInSum() if isinstance(state, tuple):
                return self._sum([self._single(branch) for branch in state])
        plane = self._single(state)
        match layer:
            case Identity():
                return plane
            case FanOut(num=num):
                # From here on others read it: no activation may be merged into it.
                plane.producer = None
                return (plane,) * num
            case Dense() | Conv():
                return self._affine(layer, plane)
            case Activation():
                return self._activation(layer, plane)
            case LayerNorm():
                return self._normalization(layer, plane)
            case Pool() if not inside:
                return self._pool(layer, plane)
        raise NotFusedError(f"{layer!r} is not one of the layers that can be fused here")

    def _add(self, step: Step) -> Plane:
        self.segments[-1].steps.append(step)
        return step.target

    def _affine(self, layer: Dense | Conv, plane: Plane) -> Plane:
        taps, strides, pad, size = (1, 1), (1, 1), (0, 0), plane.size
        if isinstance(layer, Conv):
            taps, strides = self._both(layer.filter_shape, 1), self._both(layer.step, 1)
            axes = list(zip(plane.size, taps, strides, strict=True))
            heights = [pads(n, w, step, layer.padding)[0] for n, w, step in axes]
            counts = [window_count(n, w, step, layer.padding) for n, w, step in axes]
            pad, size = (heights[0], heights[1]), (counts[0], counts[1])
            if max(taps) > 1:
                paddings = self.segments[-1].paddings
                paddings.add(layer.padding)
                if len(paddings) > 1 and "CIRCULAR" in paddings:
                    raise NotFusedError("filters that wrap round stand beside others that do not")
        window = math.prod(taps)
        scale = layer.W_std**2 / window
        bias = 0.0 if layer.b_std is None else layer.b_std**2
        own, own_bias = scale, bias
        if layer.parameterization == "standard":
            own = layer.fan_in(plane.channels) / layer.s[0] / window
            own_bias = 0.0 if layer.b_std is None else 1.0
        if not layer.trainable:
            own, own_bias = 0.0, 0.0
        factor = (plane.factor[0] * strides[0], plane.factor[1] * strides[1])
        after = Plane(size, layer.width, factor)
        after.producer = Step(plane, after, taps, strides, pad, scale, bias, own, own_bias)
        return self._add(after.producer)

    def _activation(self, layer: Activation, plane: Plane) -> Plane:
        kind, constants = family(layer)
        step = plane.producer
        if step is None:
            step = Step(plane, replace(plane))
            self._add(step)
        step.statistic, step.family, step.constants = self.positions, kind, constants
        match kind:
            case Family.PIECEWISE_LINEAR:
                below, above = constants
                self._needs(Statistic((above - below) ** 2), plane)
            case Family.ERF | Family.SINE:
                rate = constants[1] ** 2 if kind is Family.ERF else constants[1]
                self._needs(Statistic(1.0, family=kind, rate=rate), plane)
            case Family.GELU:
                self._needs(Statistic(1.0, family=kind), plane)
        step.target.producer = None
        return step.target

    def _normalization(self, layer: LayerNorm, plane: Plane) -> Plane:
        if layer.eps == 0:
            raise NotFusedError("LayerNorm with eps=0 may divide by zero")
        after = replace(plane, producer=None)
        step = Step(plane, after, statistic=self.positions, normalizes=True)
        self._needs(Statistic(1.0, layer.eps, layer.spatial_axes(self.rank)), plane)
        return self._add(step)

    def _needs(self, statistic: Statistic, plane: Plane) -> None:
        self.statistics.append(statistic)
        self.positions += math.prod(plane.size)

    def _sum(self, branches: list[Plane]) -> Plane:
        first = branches[0]
        if any(branch.factor != first.factor for branch in branches):
            raise NotFusedError("branches with different strides are added up")
        # Into a copy: the first branch may be the plane that another one still reads.
        total = replace(first, producer=None)
        self._add(Step(first, total))
        for branch in branches[1:]:
            self._add(Step(branch, total, adds=True))
        return total

    def _pool(self, layer: Pool, plane: Plane) -> Plane:
        if layer.padding == "CIRCULAR":
            raise NotFusedError(f"{layer!r} wraps round")
        self.segments[-1].end = plane
        self.pools.append(layer)
        axes = zip(
            plane.size,
            self._both(layer.window_shape, 1),
            self._both(layer.step, 1),
            strict=True,
        )
        rows, columns = (window_count(n, w, step, layer.padding) for n, w, step in axes)
        return self._begin((rows, columns), plane.channels)
