"""Memory and arithmetic of one pair of samples, known before anything is computed.

The walk is that of ``recursion.py``, with sizes in place of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from ntk_dist.kernels.branching import FanInSum, FanOut, Parallel, Serial
from ntk_dist.kernels.layers import Activation, Conv, Layer, LayerNorm, Pool
from ntk_dist.kernels.recursion import layer_needs, needs_all_positions
from ntk_dist.kernels.shapes import Signal, pads

__all__ = ["Cost", "pair_cost"]

ACTIVATION_FLOPS = 40
"""Two square roots, one arc tangent and the products around them."""
POINTWISE_SCRATCH = 2
"""States that the pointwise programs keep besides input and output (measured: 1 to 2)."""
WINDOW_SCRATCH = 3
"""Padded states that one sliding window keeps (measured: 2, and 2.5 when it wraps)."""


@dataclass(frozen=True)
class Cost:
    """What one pair of samples costs."""

    bytes: int
    """Peak working memory, beyond the samples and the result."""
    flops: int
    variances: tuple[tuple[int, ...], ...]
    """Shape per sample of what enters each activation and LayerNorm, in the order of the walk."""


@dataclass(frozen=True)
class _Size:
    """The sizes of a state between two layers."""

    signal: Signal
    all_positions: bool

    @property
    def elements(self) -> int:
        """Numbers per pair and kernel."""
        positions = math.prod(s or 1 for s in self.signal.spatial or ())
        return positions**2 if self.all_positions else positions


_Sizes: TypeAlias = "_Size | tuple[_Sizes, ...]"


def pair_cost(layer: Layer, input_shape: Iterable[int], itemsize: int, n_kernels: int) -> Cost:
    """The cost of one pair of samples of this shape in the reference recursion.

    Parameters
    ----------
    layer
        An architecture that ``architecture.check`` accepts.
    input_shape
        Shape of one sample.
    itemsize
        Bytes per number.
    n_kernels
        Arrays propagated: 1 for the NNGP alone, 2 with the NTK.
    """
    sizes = tuple(input_shape)
    signal = Signal(spatial=sizes[:-1], channels=sizes[-1], measured=True)
    start = _Size(signal, needs_all_positions(layer))
    meter = _Meter(n_kernels)
    # The covariance of the inputs stays with the caller of the walk.
    meter.walk(layer, start, False, start.elements)
    flops = 2 * sizes[-1] * start.elements + meter.flops
    return Cost(itemsize * meter.peak, flops, tuple(meter.variances))


@dataclass
class _Meter:
    n_kernels: int
    peak: int = 0
    """Numbers held at once."""
    flops: int = 0
    variances: list[tuple[int, ...]] = field(default_factory=list)

    def walk(self, layer: Layer, size: _Sizes, all_positions: bool, held: int) -> _Sizes:
        """The sizes after ``layer``, while ``held`` numbers of other branches wait."""
        if isinstance(layer, Parallel):
            branches = cast("tuple[_Sizes, ...]", size)
            waiting = self._numbers(branches)
            done: list[_Sizes] = []
            for each, branch in zip(layer.layers, branches, strict=True):
                done.append(self.walk(each, branch, all_positions, held + waiting))
                waiting += self._numbers(done[-1])
            return tuple(done)
        if isinstance(layer, Serial):
            needs = layer_needs(layer, all_positions)
            for each, need in zip(layer.layers, needs, strict=True):
                # The outer walk keeps what it has handed to an inner one.
                outer = self._numbers(size) if isinstance(each, Serial) else 0
                size = self.walk(each, size, need, held + outer)
            return size
        if isinstance(layer, FanOut):
            return (size,) * layer.num
        if isinstance(layer, FanInSum):
            branches = cast("tuple[_Size, ...]", size)
            self.flops += self._numbers(size)
            self.peak = max(self.peak, held + self._numbers(size) + self._numbers(branches[0]))
            return branches[0]
        return self._one(layer, cast("_Size", size), all_positions, held)

    def _one(self, layer: Layer, size: _Size, all_positions: bool, held: int) -> _Size:
        before = _Size(
            size.signal, size.all_positions and needs_all_positions(layer, all_positions)
        )
        if before.elements < size.elements:
            held += self._numbers(size)
        if isinstance(layer, Activation | LayerNorm):
            self.variances.append(tuple(s or 1 for s in size.signal.spatial or ()))
        signal = cast("Signal", layer.flow(size.signal, ()))
        after = _Size(signal, before.all_positions and bool(signal.spatial))
        inside, outside = self._numbers(before), self._numbers(after)
        match layer:
            case Conv(filter_shape=window):
                self.flops += outside * (sum(window) + 3)
                # The mean over the filter is held while the affine map makes its output of it.
                arrays = max(inside + 2 * outside, inside + outside + _scratch(layer, before))
            case Pool(window_shape=window):
                self.flops += inside * 2 * (sum(window) + 1)
                arrays = inside + outside + _scratch(layer, before)
            case Activation():
                self.flops += after.elements * ACTIVATION_FLOPS
                arrays = inside + outside + POINTWISE_SCRATCH * before.elements
            case _:
                self.flops += 2 * inside
                arrays = inside + outside + POINTWISE_SCRATCH * before.elements
        self.peak = max(self.peak, held + arrays)
        return after

    def _numbers(self, size: _Sizes) -> int:
        """Numbers per pair, of all kernels and branches."""
        if isinstance(size, tuple):
            return sum(map(self._numbers, size))
        return self.n_kernels * size.elements


def _scratch(layer: Conv | Pool, size: _Size) -> int:
    """Numbers that a sliding window needs for its padded copies; one kernel goes at a time."""
    window = layer.filter_shape if isinstance(layer, Conv) else layer.window_shape
    sizes = cast("tuple[int, ...]", size.signal.spatial)
    padded = max(
        ((n + sum(pads(n, w, stride, layer.padding))) / n) ** (2 if size.all_positions else 1)
        for n, w, stride in zip(sizes, window, layer.step, strict=True)
    )
    return math.ceil(WINDOW_SCRATCH * padded * size.elements)
