"""For which pairs of samples float32 is not enough: those that layers see nearly equal or opposite.

Samples may be close themselves, or biases make them so. With A² the share of a sample's variance
that comes from the sample, and not from biases, a pair of correlation c has::

    A A' c + √(1 - A²) √(1 - A'²)

behind the layers, were these linear. Their kinks bring pairs of samples nearer by less than the
third that they take from uncorrelated ones.

Sines are smooth, but ``exp(b² (q - v))`` loses as much of its digits as its exponent is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from ntk_dist.kernels.activations import Family, family
from ntk_dist.kernels.arc_cosine import SAME
from ntk_dist.kernels.branching import FanInSum, FanOut, Parallel, Serial
from ntk_dist.kernels.layers import Activation, Conv, Dense, Layer, LayerNorm
from ntk_dist.kernels.program import Program
from ntk_dist.kernels.statistics import Side

__all__ = ["close_pairs", "search_bytes"]

CLOSE = 0.999
"""Correlation beyond which float32 planes lose more than 1e-6 of the NTK: the slope of the arc
cosine turns a rounding of 6e-8 into 6e-8 / 2π√g, with g = 1 - 0.999. Without a sum over pairs of
positions, where Flatten ends the planes, no average makes it less."""
STEEP = 30.0
"""``2 b² v`` of Erf, and v of Gelu, from where they are kinks: gaps begin at its reciprocal.
With 200 and biases that make all pairs one, Erf erred by 2e-6, Gelu with 1e6 by 2e-5."""
LARGEST_EXPONENT = 30.0
"""``b² (v + v') / 2`` of a pair before a sine. Where it was 18 pairs erred by 5e-7, and
digits of 0 to 16 before ``Rbf(1)``, 200, by 2e-6, before ``Rbf(3)`` by 3e-5."""
BLANK = 1e-14
"""Of a variance: what is left beside biases by rounding."""
SAMPLES_AT_ONCE = 64
"""Half a megabyte per array for 32 x 32 positions."""
MAYBE_EQUAL = 1 - 1e-4
"""Cosines of equal rows are larger in float32, whatever the order of a sum of 10^8 terms."""


def close_pairs(program: Program, left: Side, right: Side | None) -> dict[int, np.ndarray]:
    """For each sample on the left, for which ones on the right float32 is not enough: int32.

    Equal and opposite samples are not among them, but for zeros: their kernel is known.

    Parameters
    ----------
    program
        What is to be computed.
    left, right
        The samples; ``right=None`` pairs those on the left with themselves, each pair once.
    """
    others = left if right is None else right
    a = _directions(left.samples)
    b = a if right is None else _directions(others.samples)
    one = _seen(program, left)
    other = one if right is None else _seen(program, others)
    near: dict[int, np.ndarray] = {}
    for i, cosines in enumerate(a @ b.T):
        size = np.abs(cosines)
        behind = (one.own[i] * other.own) * cosines + one.biases[i] * other.biases
        is_near = np.maximum(size, behind) > CLOSE
        is_near |= one.exponents[i] + other.exponents > LARGEST_EXPONENT
        if right is None:
            is_near[: i + 1] = False
        maybe = (is_near & (size > MAYBE_EQUAL)).nonzero()[0]
        # Not of all that are near: biases may make every pair so, and rows are long.
        sample, some = left.samples[i], others.samples[maybe]
        axes = tuple(range(1, some.ndim))
        is_near[maybe] = (some != sample).any(axes) & (some != -sample).any(axes)
        if is_near.any():
            near[i] = is_near.nonzero()[0].astype(np.int32)
    return near


def search_bytes(n1: int, n2: int, input_size: int) -> int:
    """Working memory of ``close_pairs``: rows, their directions and squares; cosines and pairs."""
    return np.float32().itemsize * (3 * (n1 + n2) * input_size + 2 * n1 * n2)


def _directions(x: np.ndarray) -> np.ndarray:
    """Samples as float32 rows of length 1, or 0."""
    rows = x.reshape(len(x), -1).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = np.zeros_like(rows)
    np.divide(rows, lengths, out=directions, where=lengths > 0)
    return directions


class _Seen(NamedTuple):
    """What layers make of each sample alone: float32, (n,) each."""

    own: np.ndarray
    """A at the kink where it is least."""
    biases: np.ndarray
    """√(1 - A²) there."""
    exponents: np.ndarray
    """``b² v / 2`` at the sine where that is largest."""


def _seen(program: Program, side: Side) -> _Seen:
    walk = _Walk(iter(side.variances), np.ones(len(side)), np.zeros(len(side)))
    end = walk.through(program.head, _Share(np.ones(len(side)), 0.0))
    # Biases of the tail, which is in float64, make errors of the planes less as they do gaps.
    own = walk.least
    walk.through(program.tail, end)
    found = own, np.sqrt(1 - own * own), walk.exponents
    return _Seen(*(each.astype(np.float32) for each in found))


@dataclass(frozen=True)
class _Share:
    """What is known of the variance of each sample at one place of a network."""

    own: np.ndarray
    """A at the last activation or LayerNorm: (n,), in [0, 1]."""
    biases: float
    """Variance that biases have added since."""


_State: TypeAlias = "_Share | tuple[_State, ...]"


@dataclass
class _Walk:
    """Through the layers, in the order in which the recursion meets variances."""

    variances: Iterator[np.ndarray]
    least: np.ndarray
    """The least A before a kink so far: (n,)."""
    exponents: np.ndarray
    """The largest ``b² v / 2`` before a sine so far: (n,)."""

    def through(self, layer: Layer, state: _State) -> _State:
        match layer:
            case Serial(layers=layers):
                for each in layers:
                    state = self.through(each, state)
                return state
            case Parallel(layers=layers) if isinstance(state, tuple):
                return tuple(self.through(a, b) for a, b in zip(layers, state, strict=True))
            case FanOut(num=num):
                return (state,) * num
            case FanInSum() if isinstance(state, tuple):
                branches = [branch for branch in state if isinstance(branch, _Share)]
                # The least of them, for nobody knows how large each branch is.
                least = np.minimum.reduce([branch.own for branch in branches])
                return _Share(least, sum(branch.biases for branch in branches))
        assert isinstance(state, _Share)
        match layer:
            case Dense() | Conv():
                return _Share(state.own, layer.W_std**2 * state.biases + (layer.b_std or 0) ** 2)
            case Activation() | LayerNorm():
                return self._met(layer, state)
        return state  # poolings are left out: they bring nearer what differs, biases do not

    def _met(self, layer: Activation | LayerNorm, state: _Share) -> _Share:
        variance = next(self.variances)
        variance = variance.reshape(len(variance), -1)
        own = state.own * _own_share(variance, state.biases) if state.biases else state.own
        if isinstance(layer, Activation):
            self._act(layer, variance.mean(1), own)
        return _Share(own, 0.0)

    def _act(self, layer: Activation, variance: np.ndarray, own: np.ndarray) -> None:
        match family(layer):
            case Family.PIECEWISE_LINEAR, (below, above):
                bends = np.full(len(own), below != above)
            case Family.ERF, (_, b, _):
                bends = 2 * b * b * variance > STEEP
            case Family.SINE, (_, rate, _):
                self.exponents = np.maximum(self.exponents, rate * variance / 2)
                return
            case _:
                bends = variance > STEEP
        self.least = np.where(bends, np.minimum(self.least, own), self.least)


def _own_share(variance: np.ndarray, biases: float) -> np.ndarray:
    """What is not from biases in the deviations at all positions, as a harmonic mean: (n,).

    Errors are as the reciprocals of roots of gaps. Positions with nothing of their own are left
    out: there are no gaps between them.

    Parameters
    ----------
    variance : (n, positions)
        What enters an activation or LayerNorm, float64.
    biases
        How much of that is from biases.
    """
    share = np.zeros(len(variance))
    for start in range(0, len(variance), SAMPLES_AT_ONCE):
        some = slice(start, start + SAMPLES_AT_ONCE)
        squares = 1 - biases / variance[some]
        inverses = 1 / np.sqrt(np.maximum(squares, SAME[32]))
        # Nothing but rounding: the gap to another such position is none, too.
        own = squares > BLANK
        total = (inverses * own).sum(1)
        np.divide(own.sum(1), total, out=share[some], where=total > 0)
    return share
