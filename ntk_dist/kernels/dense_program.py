"""An architecture without spatial axes as straight-line steps on tiles of pairs.

The engine is compiled once per precision; an architecture is only arrays to it. The walk is that
of ``recursion.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from ntk_dist.kernels.activations import slopes
from ntk_dist.kernels.branching import FanInSum, FanOut, Parallel, Serial
from ntk_dist.kernels.gaps import STEP
from ntk_dist.kernels.layers import Activation, Dense, Flatten, Identity, Layer, LayerNorm

__all__ = ["DenseProgram", "Deviation", "compile_dense"]

ACTIVATION_FLOPS = 37
"""Two polynomials (14 and 10), one square root, and the products around them, in float32."""
AFFINE_FLOPS = 18
"""With a bias; without one it is a product and a sum."""


@dataclass(frozen=True)
class Deviation:
    """The standard deviation of every sample at one place of a network.

    ``s`` with ``s² = Σ weight² source² + bias``, or ``s / √(s² + eps)`` after LayerNorm; the first
    one of a program, without sources, is that of the samples themselves.
    """

    sources: tuple[tuple[float, int], ...] = ()
    """Weights, and which earlier deviations they multiply."""
    bias: float = 0.0
    eps: float | None = None


@dataclass(frozen=True, eq=False)
class DenseProgram:
    """What the engine is to do with every pair of samples."""

    steps: np.ndarray
    """Records of ``gaps.STEP``."""
    deviations: tuple[Deviation, ...]
    statistics: tuple[tuple[str, float, int, int], ...]
    """What the steps need to know of each sample: ``alpha`` and ``beta`` are ``α`` and ``β / √2``
    of an affine layer, the shares in its deviation of the one that entered (with its weight) and
    of the bias; ``branch`` is that of a branch in a sum; ``last`` the deviation at the end."""
    places: int
    """Tiles that a thread holds at once."""
    last: int
    """Which of them has the kernels of the output."""
    flops: int
    """Of one pair; a contracted product and sum count as two, a square root as one."""

    @property
    def sees_angles_alone(self) -> bool:
        """Whether what it does to a pair depends on nothing but the angle between the samples."""
        return not (self.steps["biased"].any() or self.adds)

    @property
    def adds(self) -> bool:
        """Whether branches come together somewhere."""
        return bool(self.steps["sums"].any())

    def share_of_weights(self, length: float) -> float:
        """Of the deviation of such samples behind a bias that comes first; 1 if none does.

        Parameters
        ----------
        length
            Root mean square of both samples of a pair: ``sin(t' / 2) = share sin(t / 2)`` then
            holds for the angles t before and t' behind the bias.
        """
        if not self.begins_with_bias:
            return 1.0
        known = self.known(np.array([length]), np.dtype(np.float64))
        return float(known[0, self.steps["statistic"][0]])

    @property
    def begins_with_bias(self) -> bool:
        """Whether the first step is an affine layer with a bias."""
        return bool(len(self.steps) and self.steps["biased"][0] and not self.steps["acts"][0])

    def known(self, lengths: np.ndarray, dtype: np.dtype[np.floating]) -> np.ndarray:
        """The numbers that the steps need: (n, statistics), in ``dtype``.

        Parameters
        ----------
        lengths : (n,)
            Root mean square of each sample, float64.
        dtype
            Of the arithmetic that follows.
        """
        found: list[np.ndarray] = []
        for each in self.deviations:
            found.append(_deviation(each, lengths, found))
        numbers = np.empty((len(lengths), len(self.statistics)), dtype)
        drift = np.ones(len(lengths))
        for column, (kind, weight, source, target) in zip(numbers.T, self.statistics, strict=True):
            exact = _statistic(kind, weight, found[source], self.deviations[target], found[target])
            if kind != "alpha":
                column[:] = exact
                continue
            # Rounded so that the product of all so far stays exact: each to the nearest, thirty
            # equal layers would err by thirty times as much, in one direction.
            column[:] = exact / drift
            drift *= _ratio(column.astype(np.float64), exact, nothing=1.0)
        return numbers


def _deviation(each: Deviation, lengths: np.ndarray, found: Sequence[np.ndarray]) -> np.ndarray:
    if not each.sources:
        return lengths
    # The hypotenuse: squares may overflow where it does not.
    total: np.ndarray = np.full(len(lengths), math.sqrt(each.bias))
    for weight, source in each.sources:
        total = np.hypot(total, weight * found[source])
    return total if each.eps is None else _ratio(total, np.hypot(total, math.sqrt(each.eps)))


def _statistic(
    kind: str, weight: float, source: np.ndarray, there: Deviation, target: np.ndarray
) -> np.ndarray:
    match kind:
        case "alpha" | "branch":
            return _ratio(weight * source, target)
        case "beta":
            return _ratio(np.full_like(target, math.sqrt(there.bias / 2)), target)
    return target


def _ratio(a: np.ndarray, b: np.ndarray, nothing: float = 0.0) -> np.ndarray:
    """``a / b``, and ``nothing`` where b is zero: such samples have no variance."""
    result: np.ndarray = np.divide(a, b, out=np.full_like(a, nothing), where=b != 0)
    return result


class _NoProgramError(Exception):
    """Why an architecture has no program."""


@dataclass(frozen=True, eq=False)
class _Tile:
    """A value on its way through the layers."""

    value: int
    """Which one; LayerNorm makes no new one."""
    deviation: int
    channels: int
    signed: bool
    """Whether correlations may be negative."""
    producer: _Step | None = None
    """The activation that made it, while an affine layer may still be merged into that."""


_State: TypeAlias = "_Tile | tuple[_State, ...]"


@dataclass(eq=False)
class _Step:
    source: int
    target: int
    fields: dict[str, float]


def compile_dense(architecture: Layer, input_shape: Sequence[int]) -> DenseProgram | str:
    """The program of an architecture that ``architecture.check`` accepts, or why it has none.

    Parameters
    ----------
    architecture
        Dense layers, piecewise linear activations, LayerNorm and residual branches.
    input_shape
        Shape of one sample: ``(features,)``.
    """
    if len(input_shape) != 1:
        return f"samples have {len(input_shape) - 1} spatial axes"
    try:
        return _Compiling().run(architecture, input_shape[0])
    except _NoProgramError as reason:
        return str(reason)


@dataclass
class _Compiling:
    steps: list[_Step] = field(default_factory=list)
    values: int = 1
    """How many there are, with the input's."""
    deviations: list[Deviation] = field(default_factory=lambda: [Deviation()])
    statistics: list[tuple[str, float, int, int]] = field(default_factory=list)

    def run(self, architecture: Layer, features: int) -> DenseProgram:
        end = self._single(self._walk(architecture, _Tile(0, 0, features, signed=True)))
        self.statistics.append(("last", 1.0, 0, end.deviation))
        place = _places(self.steps, end.value)
        records = np.zeros(len(self.steps), STEP)
        flops = 2 * features + 2
        for record, step in zip(records, self.steps, strict=True):
            record["source"], record["target"] = place[step.source], place[step.target]
            for name, number in step.fields.items():
                record[name] = number
            flops += ACTIVATION_FLOPS * int(record["acts"])
            flops += AFFINE_FLOPS if record["biased"] or record["sums"] else 3
        return DenseProgram(
            records,
            tuple(self.deviations),
            tuple(self.statistics),
            1 + max(place.values()),
            place[end.value],
            flops,
        )

    def _walk(self, layer: Layer, state: _State) -> _State:
        match layer:
            case Serial(layers=layers):
                for each in layers:
                    state = self._walk(each, state)
                return state
            case Parallel(layers=layers) if isinstance(state, tuple):
                return tuple(self._walk(a, b) for a, b in zip(layers, state, strict=True))
            case FanInSum() if isinstance(state, tuple):
                return self._sum([self._single(branch) for branch in state])
        tile = self._single(state)
        match layer:
            case Identity() | Flatten():
                return tile
            case FanOut(num=num):
                # From here on others read it: no affine layer may be merged into it.
                return (replace(tile, producer=None),) * num
            case Dense():
                return self._affine(layer, tile)
            case Activation():
                return self._activation(layer, tile)
            case LayerNorm(eps=eps):
                # Correlations stay what they are.
                after = self._after(Deviation(((1.0, tile.deviation),), 0.0, eps))
                return replace(tile, deviation=after)
        raise _NoProgramError(f"{layer!r} is not one of the layers that can be fused")

    def _single(self, state: _State) -> _Tile:
        if isinstance(state, tuple):
            raise _NoProgramError("branches do not come together")
        return state

    def _after(self, deviation: Deviation) -> int:
        self.deviations.append(deviation)
        return len(self.deviations) - 1

    def _step(self, source: int, **fields: float) -> _Step:
        step = _Step(source, self.values, fields)
        self.steps.append(step)
        self.values += 1
        return step

    def _needs(self, kind: str, weight: float, source: int, target: int) -> int:
        self.statistics.append((kind, weight, source, target))
        return len(self.statistics) - 1

    def _affine(self, layer: Dense, tile: _Tile) -> _Tile:
        variance = layer.W_std**2
        bias = 0.0 if layer.b_std is None else layer.b_std**2
        own = own_bias = 1.0
        if layer.parameterization == "standard" and layer.trainable:
            if variance == 0 or layer.b_std == 0:
                raise _NoProgramError(f"{layer!r} trains what starts at zero")
            own = layer.fan_in(tile.channels) / layer.s[0] / variance
            own_bias = 1 / bias if bias else own
        if not layer.trainable:
            own = own_bias = 0.0
        step = tile.producer or self._step(tile.value, signed=tile.signed, folds=tile.signed)
        after = self._after(Deviation(((layer.W_std, tile.deviation),), bias))
        step.fields |= {"own": own, "biased": bias > 0}
        if bias:
            first = self._needs("alpha", layer.W_std, tile.deviation, after)
            self._needs("beta", layer.W_std, tile.deviation, after)
            step.fields |= {"statistic": first, "own_bias": 2 * (own_bias - own)}
        return _Tile(step.target, after, layer.width, tile.signed)

    def _activation(self, layer: Activation, tile: _Tile) -> _Tile:
        ab = slopes(layer)
        if ab is None:
            raise _NoProgramError(f"{layer!r} is not piecewise linear")
        a, b = ab
        gain = (a * a + b * b) / 2
        signed = tile.signed and a * b > 0
        per_gain = 1 / gain if gain else 0.0
        step = self._step(
            tile.value,
            acts=True,
            signed=tile.signed,
            folds=signed,
            bend=(a - b) ** 2 * per_gain,
            cross=a * b * per_gain,
            opposite=(a + b) ** 2 / 2 * per_gain,
        )
        after = self._after(Deviation(((math.sqrt(gain), tile.deviation),)))
        return _Tile(step.target, after, tile.channels, signed, step)

    def _sum(self, branches: list[_Tile]) -> _Tile:
        first = branches[0]
        if len(branches) == 1:
            return first
        after = self._after(Deviation(tuple((1.0, branch.deviation) for branch in branches)))
        signed = any(branch.signed for branch in branches)
        total = self.values
        self.values += 1
        for i, branch in enumerate(branches):
            fields: dict[str, float] = {
                "sums": True,
                "begins": i == 0,
                "folds": signed and i == len(branches) - 1,
                "statistic": self._needs("branch", 1.0, branch.deviation, after),
            }
            self.steps.append(_Step(branch.value, total, fields))
        return _Tile(total, after, first.channels, signed)


def _places(steps: Sequence[_Step], end: int) -> dict[int, int]:
    """Where each value lives: a few places, used again."""
    last_read = {value: i for i, step in enumerate(steps) for value in (step.source, step.target)}
    last_read[end] = len(steps)
    place = {0: 0}
    free: list[int] = []
    for i, step in enumerate(steps):
        if last_read[step.source] == i:
            # The target may take its place: each number is read before it is written.
            free.append(place[step.source])
        if step.target not in place:
            place[step.target] = free.pop() if free else 1 + max(place.values())
    return place
