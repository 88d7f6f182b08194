"""The layers an architecture is made of: frozen records with the arguments of neural_tangents.

A record knows its arguments and what it does to the shape and the distribution of a signal
(``flow``). What it does to a kernel stands in ``recursion.py``, and the finite random network in
``finite.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar

from ntk_dist.errors import ArchitectureError
from ntk_dist.kernels.arguments import (
    AXES,
    COUNT,
    COUNTS,
    FLAG,
    NUMBER,
    PADDING,
    PAIR,
    PARAMETERIZATION,
    STD,
    STD_OR_NONE,
    STRIDES,
)
from ntk_dist.kernels.shapes import (
    Place,
    Signal,
    State,
    only_signal,
    refuse,
    require_spatial,
    slide,
)

__all__ = [
    "ABRelu",
    "Abs",
    "Activation",
    "AvgPool",
    "Conv",
    "Cos",
    "Dense",
    "Erf",
    "Flatten",
    "Gelu",
    "GlobalAvgPool",
    "GlobalPool",
    "GlobalSumPool",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "Pool",
    "Rbf",
    "Relu",
    "Sigmoid_like",
    "Sin",
    "SumPool",
]

NHWC: Mapping[str, tuple[Any, ...]] = {"batch_axis": (0,), "channel_axis": (-1,)}


@dataclass(frozen=True, repr=False)
class Layer:
    """Base of all layer records: immutable, hashable, compared by value."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Arguments of neural_tangents that are taken with these values only, and change nothing."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            try:
                parsed = f.metadata["parse"](value)
            except (TypeError, ValueError, OverflowError) as error:
                raise ArchitectureError(
                    f"{type(self).__name__}: {f.name} must be {f.metadata['expected']}, "
                    f"got {value!r}"
                ) from error
            object.__setattr__(self, f.name, parsed)

    def arguments(self) -> dict[str, Any]:
        """The arguments that differ from their defaults."""
        return {
            f.name: value
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default or f.default is MISSING
        }

    def flow(self, state: State, place: Place) -> State:
        """What is known after this layer, given what was known before.

        Raises
        ------
        ArchitectureError
            The layer cannot stand here.
        DataShapeError
            It could, but not with data of this shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it does to a signal")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.arguments().items())
        return f"{type(self).__name__}({arguments})"


@dataclass(frozen=True, repr=False, kw_only=True)
class Dense(Layer):
    """A fully connected layer; over images, the same one at every position."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = NHWC
    out_dim: int = field(default=1, metadata=COUNT)
    W_std: float = field(default=1.0, metadata=STD)
    b_std: float | None = field(default=None, metadata=STD_OR_NONE)
    parameterization: str = field(default="ntk", metadata=PARAMETERIZATION)
    s: tuple[int, int] = field(default=(1, 1), metadata=PAIR)
    trainable: bool = field(default=True, metadata=FLAG)
    """A frozen layer keeps its random weights: it shapes the NNGP but adds nothing to the NTK."""

    @property
    def width(self) -> int:
        """Output features of the finite network."""
        return self.out_dim * (self.s[1] if self.parameterization == "standard" else 1)

    def fan_in(self, channels: int) -> int:
        """Inputs that one output of the finite network adds up."""
        return channels

    def flow(self, state: State, place: Place) -> State:
        """Gaussian, whatever came in."""
        return only_signal(state, place).redrawn("Dense", self.width)


@dataclass(frozen=True, repr=False, kw_only=True)
class Conv(Layer):
    """A convolution over one or more spatial axes, channels last."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "dimension_numbers": (None, ("NHWC", "HWIO", "NHWC"), ("NHC", "HIO", "NHC"))
    }
    out_chan: int = field(default=1, metadata=COUNT)
    filter_shape: tuple[int, ...] = field(metadata=COUNTS)
    strides: tuple[int, ...] | None = field(default=None, metadata=STRIDES)
    padding: str = field(default="VALID", metadata=PADDING)
    W_std: float = field(default=1.0, metadata=STD)
    b_std: float | None = field(default=None, metadata=STD_OR_NONE)
    parameterization: str = field(default="ntk", metadata=PARAMETERIZATION)
    s: tuple[int, int] = field(default=(1, 1), metadata=PAIR)
    trainable: bool = field(default=True, metadata=FLAG)
    """A frozen layer keeps its random weights: it shapes the NNGP but adds nothing to the NTK."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _same_rank(self, "filter_shape", self.filter_shape, self.strides)

    @property
    def width(self) -> int:
        """Output channels of the finite network."""
        return self.out_chan * (self.s[1] if self.parameterization == "standard" else 1)

    @property
    def step(self) -> tuple[int, ...]:
        """The stride along each axis."""
        return self.strides or (1,) * len(self.filter_shape)

    def fan_in(self, channels: int) -> int:
        """Inputs that one output of the finite network adds up."""
        return channels * math.prod(self.filter_shape)

    def flow(self, state: State, place: Place) -> State:
        """Gaussian; the image shrinks by the stride and, under VALID, by the filter."""
        signal = only_signal(state, place)
        spatial = slide(signal, self.filter_shape, self.step, self.padding, place)
        return replace(signal.redrawn("Conv", self.width), spatial=spatial)


@dataclass(frozen=True, repr=False, kw_only=True)
class Pool(Layer):
    """Base of pooling over windows."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = NHWC
    window_shape: tuple[int, ...] = field(metadata=COUNTS)
    strides: tuple[int, ...] | None = field(default=None, metadata=STRIDES)
    padding: str = field(default="VALID", metadata=PADDING)

    def __post_init__(self) -> None:
        super().__post_init__()
        _same_rank(self, "window_shape", self.window_shape, self.strides)

    @property
    def step(self) -> tuple[int, ...]:
        """The stride along each axis; as in neural_tangents, 1 unless given."""
        return self.strides or (1,) * len(self.window_shape)

    def flow(self, state: State, place: Place) -> State:
        """Sums of Gaussians are Gaussian; the image shrinks."""
        signal = only_signal(state, place)
        return replace(
            signal, spatial=slide(signal, self.window_shape, self.step, self.padding, place)
        )


@dataclass(frozen=True, repr=False, kw_only=True)
class AvgPool(Pool):
    """Averages over windows."""

    normalize_edges: bool = field(default=False, metadata=FLAG)
    """Divide by the positions inside the image, not by the window, at SAME-padded edges."""


@dataclass(frozen=True, repr=False, kw_only=True)
class SumPool(Pool):
    """Sums over windows."""


@dataclass(frozen=True, repr=False, kw_only=True)
class GlobalPool(Layer):
    """Base of pooling over all positions."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = NHWC

    def flow(self, state: State, place: Place) -> State:
        """The spatial axes are gone."""
        signal = only_signal(state, place)
        require_spatial(signal, None, place)
        return signal.without_space(type(self).__name__)


@dataclass(frozen=True, repr=False, kw_only=True)
class GlobalAvgPool(GlobalPool):
    """The average over all positions."""


@dataclass(frozen=True, repr=False, kw_only=True)
class GlobalSumPool(GlobalPool):
    """The sum over all positions."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Flatten(Layer):
    """Positions and channels become one feature axis."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = {"batch_axis": (0,), "batch_axis_out": (0,)}

    def flow(self, state: State, place: Place) -> State:
        """No spatial axes, and no longer Gaussian: neighbouring features are correlated."""
        signal = only_signal(state, place)
        sizes = (*(signal.spatial or ()), signal.channels)
        known = [size for size in sizes if size is not None]
        exact = signal.spatial is not None and len(known) == len(sizes)
        return replace(
            signal.without_space("Flatten"),
            channels=math.prod(known) if exact else None,
            gaussian=False,
            after="Flatten",
        )


@dataclass(frozen=True, repr=False, kw_only=True)
class LayerNorm(Layer):
    """Each sample divided by the standard deviation over its channels (and named axes)."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = NHWC
    axis: tuple[int, ...] = field(default=(-1,), metadata=AXES)
    eps: float = field(default=1e-12, metadata=STD)

    def spatial_axes(self, rank: int, place: Place = ()) -> tuple[int, ...]:
        """Which of ``rank`` spatial axes are averaged over besides the channels."""
        axes = sorted(a if a > 0 else a + rank + 2 for a in self.axis)
        if len(set(axes)) != len(axes) or axes[0] < 1 or axes[-1] != rank + 1:
            refuse(
                place,
                f"axis must name the channels (-1) and may name some of {rank} spatial axes "
                f"(1 to {rank}), got {self.axis}",
            )
        return tuple(a - 1 for a in axes[:-1])

    def flow(self, state: State, place: Place) -> State:
        """Still Gaussian: the norm does not fluctuate when there are infinitely many channels."""
        signal = only_signal(state, place)
        _require_gaussian(signal, place)
        if signal.spatial is not None:
            self.spatial_axes(len(signal.spatial), place)
        return signal


@dataclass(frozen=True, repr=False, kw_only=True)
class Activation(Layer):
    """Base of the pointwise nonlinearities."""

    def flow(self, state: State, place: Place) -> State:
        """Needs a Gaussian input, and leaves none."""
        signal = only_signal(state, place)
        _require_gaussian(signal, place)
        return replace(signal, gaussian=False, after=type(self).__name__)


STABLE: Mapping[str, tuple[Any, ...]] = {"do_stabilize": (False, True)}


@dataclass(frozen=True, repr=False, kw_only=True)
class ABRelu(Activation):
    """``a min(x, 0) + b max(x, 0)``."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = STABLE
    a: float = field(metadata=NUMBER)
    b: float = field(metadata=NUMBER)


@dataclass(frozen=True, repr=False, kw_only=True)
class Relu(Activation):
    """``max(x, 0)``."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = STABLE


@dataclass(frozen=True, repr=False, kw_only=True)
class LeakyRelu(Activation):
    """``alpha min(x, 0) + max(x, 0)``."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = STABLE
    alpha: float = field(metadata=NUMBER)


@dataclass(frozen=True, repr=False, kw_only=True)
class Abs(Activation):
    """``|x|``."""

    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = STABLE


@dataclass(frozen=True, repr=False, kw_only=True)
class Erf(Activation):
    """``a erf(b x) + c``."""

    a: float = field(default=1.0, metadata=NUMBER)
    b: float = field(default=1.0, metadata=NUMBER)
    c: float = field(default=0.0, metadata=NUMBER)


@dataclass(frozen=True, repr=False, kw_only=True)
class Sigmoid_like(Activation):
    """``erf(x / 2.402...) / 2 + 1 / 2``, close to the logistic function."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Gelu(Activation):
    """``x Φ(x)``; ``approximate`` (by tanh) only concerns the finite network."""

    approximate: bool = field(default=False, metadata=FLAG)


@dataclass(frozen=True, repr=False, kw_only=True)
class Sin(Activation):
    """``a sin(b x + c)``."""

    a: float = field(default=1.0, metadata=NUMBER)
    b: float = field(default=1.0, metadata=NUMBER)
    c: float = field(default=0.0, metadata=NUMBER)


@dataclass(frozen=True, repr=False, kw_only=True)
class Cos(Activation):
    """``a cos(b x + c)``."""

    a: float = field(default=1.0, metadata=NUMBER)
    b: float = field(default=1.0, metadata=NUMBER)
    c: float = field(default=0.0, metadata=NUMBER)


@dataclass(frozen=True, repr=False, kw_only=True)
class Rbf(Activation):
    """``√2 sin(√(2 gamma) x + π/4)``, whose kernel is a Gaussian of the distance."""

    gamma: float = field(default=1.0, metadata=STD)


@dataclass(frozen=True, repr=False, kw_only=True)
class Identity(Layer):
    """Nothing."""

    def flow(self, state: State, place: Place) -> State:
        """Nothing changes."""
        return state


def _require_gaussian(signal: Signal, place: Place) -> None:
    if signal.gaussian is False:
        refuse(
            place,
            f"expected a Gaussian input, got {signal.after}; "
            "put a Dense or Conv layer (and no Flatten) directly before it",
        )


def _same_rank(
    layer: Layer, name: str, window: tuple[int, ...], strides: tuple[int, ...] | None
) -> None:
    if strides is not None and len(strides) != len(window):
        raise ArchitectureError(
            f"{type(layer).__name__}: strides must have as many entries as {name} {window}, "
            f"got {strides}"
        )
