"""Memory and arithmetic of one pair of samples, known before anything is computed.

The walk is that of ``recursion.py``, with sizes in place of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, cast

from ntk_dist.kernels.branching import FanInSum, FanOut, Parallel, Serial
from ntk_dist.kernels.layers import Activation, Conv, Layer, Pool
from ntk_dist.kernels.recursion import layer_needs, needs_all_positions
from ntk_dist.kernels.shapes import Signal

__all__ = ["Cost", "pair_cost"]

ACTIVATION_FLOPS = 40
"""Two square roots, one arc tangent and the products around them."""
SCRATCH_ARRAYS = 2
"""Arrays of the size of a state that XLA keeps besides the inputs and outputs of a layer."""


@dataclass(frozen=True)
class Cost:
    """What one pair of samples costs."""

    bytes: int
    """Peak working memory, beyond the samples and the result."""
    flops: int


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
    meter.walk(layer, start, False, 0)
    return Cost(itemsize * meter.peak, 2 * sizes[-1] * start.elements + meter.flops)


@dataclass
class _Meter:
    n_kernels: int
    peak: int = 0
    """Numbers held at once."""
    flops: int = 0

    def walk(self, layer: Layer, size: _Sizes, all_positions: bool, held: int) -> _Sizes:
        """The sizes after ``layer``, while ``held`` numbers of other branches wait."""
        if isinstance(layer, Parallel):
            branches = cast("tuple[_Sizes, ...]", size)
            waiting = self.n_kernels * sum(_elements(b) for b in branches)
            done: list[_Sizes] = []
            for each, branch in zip(layer.layers, branches, strict=True):
                done.append(self.walk(each, branch, all_positions, held + waiting))
                waiting += self.n_kernels * _elements(done[-1])
            return tuple(done)
        if isinstance(layer, Serial):
            needs = layer_needs(layer, all_positions)
            for each, need in zip(layer.layers, needs, strict=True):
                size = self.walk(each, size, need, held)
            return size
        if isinstance(layer, FanOut):
            return (size,) * layer.num
        if isinstance(layer, FanInSum):
            branches = cast("tuple[_Sizes, ...]", size)
            self.flops += self.n_kernels * sum(_elements(b) for b in branches)
            return branches[0]
        return self._one(layer, cast("_Size", size), all_positions, held)

    def _one(self, layer: Layer, size: _Size, all_positions: bool, held: int) -> _Size:
        keep = needs_all_positions(layer, all_positions)
        signal = cast("Signal", layer.flow(size.signal, ()))
        after = _Size(signal, size.all_positions and keep and bool(signal.spatial))
        before, elements = size.elements, after.elements
        match layer:
            case Conv(filter_shape=window):
                self.flops += self.n_kernels * elements * (sum(window) + 3)
            case Pool(window_shape=window):
                self.flops += self.n_kernels * before * 2 * (sum(window) + 1)
            case Activation():
                self.flops += elements * ACTIVATION_FLOPS
            case _:
                self.flops += self.n_kernels * before * 2
        arrays = self.n_kernels * (before + elements) + SCRATCH_ARRAYS * max(before, elements)
        self.peak = max(self.peak, held + arrays)
        return after


def _elements(size: _Sizes) -> int:
    return sum(map(_elements, size)) if isinstance(size, tuple) else size.elements
