"""Layers in a row, side by side, and the forks and sums between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ntk_dist.errors import ArchitectureError
from ntk_dist.kernels.arguments import COUNT
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.shapes import Place, Signal, State, only_signal, refuse

__all__ = ["FanInSum", "FanOut", "Parallel", "Serial"]

MOST_DEEP = 200
"""Combinations inside each other: at 250, Python's stack had no room to send them to workers."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FanOut(Layer):
    """``num`` copies of one input, one per branch."""

    num: int = field(metadata=COUNT)

    def flow(self, state: State, place: Place) -> State:
        """As many equal branches, with the same sources."""
        return (only_signal(state, place),) * self.num


@dataclass(frozen=True, repr=False, kw_only=True)
class FanInSum(Layer):
    """The sum of all branches."""

    def flow(self, state: State, place: Place) -> State:
        """A Gaussian sum of independent Gaussian branches of one shape."""
        if state is None:
            return Signal(gaussian=True, after="FanInSum")
        if isinstance(state, Signal):
            refuse(place, "expected branches, got one input; put FanOut and parallel before it")
        branches = [only_signal(s, (*place, f"branch {i + 1}")) for i, s in enumerate(state)]
        first = branches[0]
        if len(branches) == 1:
            return first
        spatial, channels = first.spatial, first.channels
        for i, branch in enumerate(branches, start=1):
            if branch.gaussian is False:
                refuse(
                    place,
                    f"expected Gaussian branches, got {branch.after} at the end of branch {i}; "
                    "end it with Dense or Conv",
                )
            spatial, channels = _same_shape(spatial, channels, branch, place)
        if len(frozenset().union(*(b.sources for b in branches))) < sum(
            len(b.sources) for b in branches
        ):
            refuse(
                place,
                "expected independent branches, got several that pass the same signal on; "
                "put a Dense or Conv layer into all of them but one",
            )
        return replace(
            first,
            spatial=spatial,
            channels=channels,
            gaussian=True if all(b.gaussian for b in branches) else None,
            sources=frozenset().union(*(b.sources for b in branches)),
        )


@dataclass(frozen=True, repr=False)
class _Combination(Layer):
    """Base of layers made of layers."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        if not self.layers:
            raise ArchitectureError(f"{name}: expected at least one layer, got none")
        object.__setattr__(self, "layers", tuple(self.layers))
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise ArchitectureError(f"{name}: expected layers, got {layer!r}")
        if _depth(self) > MOST_DEEP:
            raise ArchitectureError(
                f"{name}: expected layers nested at most {MOST_DEEP} levels deep, got more; layers "
                "in a row are one serial(layer, layer, ...)"
            )
        self.flow(None, ())

    def __repr__(self) -> str:
        return f"{type(self).__name__.lower()}({', '.join(map(repr, self.layers))})"


@dataclass(frozen=True, repr=False)
class Serial(_Combination):
    """One layer after another."""

    def flow(self, state: State, place: Place) -> State:
        """What the last layer leaves."""
        for i, layer in enumerate(self.layers, start=1):
            state = layer.flow(state, (*place, f"layer {i}, {type(layer).__name__}"))
        return state


@dataclass(frozen=True, repr=False)
class Parallel(_Combination):
    """One layer per branch."""

    def flow(self, state: State, place: Place) -> State:
        """A branch per layer."""
        if isinstance(state, Signal):
            refuse(place, "expected branches, got one input; put FanOut before parallel")
        if state is None:
            state = (None,) * len(self.layers)
        if len(state) != len(self.layers):
            refuse(
                place,
                f"expected one layer per branch, got {len(self.layers)} layers for "
                f"{len(state)} branches",
            )
        return tuple(
            layer.flow(branch, (*place, f"branch {i}, {type(layer).__name__}"))
            for i, (layer, branch) in enumerate(zip(self.layers, state, strict=True), start=1)
        )


def _depth(layer: Layer) -> int:
    """How many combinations are inside each other."""
    return 1 + max(map(_depth, layer.layers)) if isinstance(layer, _Combination) else 0


def _same_shape(
    spatial: tuple[int | None, ...] | None, channels: int | None, branch: Signal, place: Place
) -> tuple[tuple[int | None, ...] | None, int | None]:
    """What is known of a shape from two branches that must agree."""

    def agree(x: int | None, y: int | None) -> int | None:
        if x is not None and y is not None and x != y:
            refuse(
                place,
                "expected branches of one shape, got sizes or channels "
                f"{(spatial, channels)} and {(branch.spatial, branch.channels)}",
            )
        return y if x is None else x

    channels = agree(channels, branch.channels)
    if spatial is None or branch.spatial is None:
        return (branch.spatial if spatial is None else spatial), channels
    agree(len(spatial), len(branch.spatial))
    return tuple(agree(x, y) for x, y in zip(spatial, branch.spatial, strict=True)), channels
