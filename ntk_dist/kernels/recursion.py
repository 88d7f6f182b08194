"""The kernels of any architecture, layer by layer: the reference for every faster path.

A state holds, for pairs of samples, the covariance of the activations between positions (NNGP)
and the inner product of their gradients (NTK). The sample axes lead: ``(n1, n2, ...)`` for all
pairs of two sets, or ``(n, ...)`` for the pairs ``(x_i, x_i)``. Positions follow as in
``windows.py``: all pairs of positions where a later pooling needs them, else each position with
itself only, which is H x W times less. Walking the architecture backwards tells which.

With ``q`` the NNGP and ``t`` the NTK before a layer, the layer leaves (NTK parameterization)::

    Dense, Conv    W_std² q + b_std² =: p,    p + W_std² t    (W_std² t when it is frozen)
    Activation     E[φ(u) φ(u')],             E[φ'(u) φ'(u')] t

where Conv first takes the mean of both over its filter, and ``(u, u')`` is Gaussian with
covariance ``q``. Pooling and Flatten act linearly on both; branches that meet add up.

An activation also needs each sample's own variances. The pass over ``(x_i, x_i)`` meets them as
the diagonal of its state and records them; a pass over ``(x_i, x_j)`` consumes two such records,
in the same order of layers.

Each layer is a compiled program of its own, not the whole walk: XLA on CPU orders one big program
so that up to 28 states are alive at once, and repeated layers compile once this way.

Jacot, Gabriel & Hongler, arXiv:1806.07572, theorem 1 (NTK); Novak et al., arXiv:1810.05148 and
Arora et al., arXiv:1904.11955 (convolutions); Sohl-Dickstein, Novak, Schoenholz & Lee,
arXiv:2001.07301 (standard parameterization).
"""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from ntk_dist.kernels import windows
from ntk_dist.kernels.activations import dual, geometric_mean
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

__all__ = [
    "BothKernels",
    "KernelState",
    "Pass",
    "all_pairs",
    "each_with_itself",
    "each_with_opposite",
    "layer_needs",
    "needs_all_positions",
]

BothKernels: TypeAlias = tuple[Array, Array | None]
"""NNGP and (if asked for) NTK of the output, per pair of samples."""


def needs_all_positions(layer: Layer, after: bool = False) -> bool:
    """Whether the input of ``layer`` is needed for all pairs of positions.

    Parameters
    ----------
    layer
        What follows.
    after
        Whether whatever follows ``layer`` needs all of its output.
    """
    match layer:
        case Pool() | GlobalPool():
            return True
        case Flatten():
            return False
        case Serial(layers=layers):
            return needs_all_positions(layers[0], layer_needs(layer, after)[0])
        case Parallel(layers=layers):
            return any(needs_all_positions(each, after) for each in layers)
    return after


def layer_needs(layer: Serial, after: bool) -> list[bool]:
    """For each layer in a row, whether its output is needed for all pairs of positions."""
    needs = [after]
    for each in reversed(layer.layers[1:]):
        needs.append(needs_all_positions(each, needs[-1]))
    return needs[::-1]


@dataclass(frozen=True)
class KernelState:
    """The state between two layers."""

    nngp: Array
    ntk: Array | None
    """``None`` is zero: before the first trainable layer, or when the NTK is not asked for."""
    spatial: tuple[int, ...]
    channels: int
    """Of the finite network; only the standard parameterization reads it."""
    all_positions: bool


Branches: TypeAlias = "KernelState | tuple[Branches, ...]"


@dataclass
class Pass:
    """One walk through the architecture over one kind of pairs."""

    lead: int
    """Sample axes: 2 for all pairs of two sets, 1 for given pairs."""
    want_ntk: bool
    variances: Iterator[tuple[Array, Array]] | None = None
    """Per activation and LayerNorm, of both sides; ``None`` when the pairs are (x_i, x_i)."""
    recorded: list[Array] = field(default_factory=list)
    """The variances met, when none were given."""

    def run(self, layer: Layer, start: KernelState) -> BothKernels:
        """The kernels of the output, given the state of the inputs."""
        result = cast("KernelState", self.walk(layer, start, False))
        if self.want_ntk and result.ntk is None:
            return result.nngp, jnp.zeros_like(result.nngp)
        return result.nngp, result.ntk

    def walk(self, layer: Layer, state: Branches, all_positions: bool) -> Branches:
        """The state after ``layer``; ``all_positions`` says what is needed of it."""
        if isinstance(layer, Parallel):
            branches = cast("tuple[Branches, ...]", state)
            return tuple(
                self.walk(each, branch, all_positions)
                for each, branch in zip(layer.layers, branches, strict=True)
            )
        if isinstance(layer, FanInSum):
            return _sum(cast("tuple[KernelState, ...]", state))
        if isinstance(layer, Serial):
            for each, need in zip(layer.layers, layer_needs(layer, all_positions), strict=True):
                state = self.walk(each, state, need)
            return state
        single = cast("KernelState", state)
        if isinstance(layer, FanOut):
            return (single,) * layer.num
        if single.all_positions and not needs_all_positions(layer, all_positions):
            single = replace(self._map(_diagonal, single), all_positions=False)
        after = self._one(layer, single)
        # Programs are queued: without waiting, the states of many layers would be allocated.
        for array in (after.nngp, after.ntk):
            if array is not None:
                array.block_until_ready()
        return after

    def _one(self, layer: Layer, state: KernelState) -> KernelState:
        match layer:
            case Dense() | Conv():
                return self._affine(layer, state)
            case Activation():
                v1, v2 = self._variances(state)
                nngp, ntk = _activation(
                    layer, state.nngp, state.ntk, v1, v2, self.lead, state.all_positions
                )
                return replace(state, nngp=nngp, ntk=ntk)
            case LayerNorm():
                v1, v2 = self._variances(state)
                nngp, ntk = _layer_norm(
                    layer, state.nngp, state.ntk, v1, v2, self.lead, state.all_positions
                )
                return replace(state, nngp=nngp, ntk=ntk)
            case Pool():
                state = self._map(functools.partial(_pool, layer), state)
                return replace(state, spatial=state.nngp.shape[self.lead :: 2])
            case GlobalPool():
                state = self._map(functools.partial(_pool_globally, layer), state)
                return replace(state, spatial=(), all_positions=False)
            case Flatten():
                channels = state.channels * math.prod(state.spatial)
                return replace(self._map(_mean, state), spatial=(), channels=channels)
            case Identity():
                return state
        raise NotImplementedError(f"{layer!r} has no kernel")

    def _affine(self, layer: Dense | Conv, state: KernelState) -> KernelState:
        if isinstance(layer, Conv):
            state = self._map(functools.partial(_convolve, layer), state)
            step = 2 if state.all_positions else 1
            state = replace(state, spatial=state.nngp.shape[self.lead :: step])
        nngp, ntk = _affine(layer, state.nngp, state.ntk, state.channels, self.want_ntk)
        return replace(state, nngp=nngp, ntk=ntk, channels=layer.width)

    def _variances(self, state: KernelState) -> tuple[Array, Array]:
        """The variances of both sides, (n, *spatial) each, before a layer that needs them."""
        if self.variances is not None:
            return next(self.variances)
        # A pair (x_i, x_i): on the diagonal the covariance is the variance, bit for bit.
        v = _diagonal(state.nngp, 1) if state.all_positions else state.nngp
        self.recorded.append(v)
        return v, v

    def _map(self, program: Callable[[Array, int], Array], state: KernelState) -> KernelState:
        """The state with a linear program applied to both kernels, one after the other."""
        nngp = program(state.nngp, self.lead)
        ntk = None if state.ntk is None else program(state.ntk, self.lead)
        return replace(state, nngp=nngp, ntk=ntk)


def each_with_itself(layer: Layer, x: Array, want_ntk: bool) -> tuple[BothKernels, list[Array]]:
    """The kernels of each sample with itself, and the variances met on the way.

    Parameters
    ----------
    layer
        An architecture that ``architecture.check`` has accepted for these samples.
    x : (n, ..., channels)
        Samples.
    want_ntk
        Whether to compute the NTK besides the NNGP.

    Returns
    -------
    kernels : pair of (n,)
        NNGP, and NTK or None.
    variances : list of (n, ...)
        The variance that enters each activation and LayerNorm, per position.
    """
    walk = Pass(lead=1, want_ntk=want_ntk)
    return walk.run(layer, _start(layer, x, x, 1)), walk.recorded


def each_with_opposite(layer: Layer, x: Array, want_ntk: bool) -> BothKernels:
    """The kernels of each sample ``x_i`` with ``-x_i``: a pair of (n,).

    The covariance is negated, not computed again, so that a correlation of -1 is exact.
    """
    itself, start = Pass(lead=1, want_ntk=False), _start(layer, x, x, 1)
    itself.run(layer, start)
    start = replace(start, nngp=-start.nngp)
    variances = zip(itself.recorded, itself.recorded, strict=True)
    return Pass(lead=1, want_ntk=want_ntk, variances=variances).run(layer, start)


def all_pairs(
    layer: Layer,
    x1: Array,
    x2: Array,
    variances1: Sequence[Array],
    variances2: Sequence[Array],
    want_ntk: bool,
) -> BothKernels:
    """The kernels of every sample of ``x1`` with every sample of ``x2``: a pair of (n1, n2).

    The variances are those that ``each_with_itself`` returns for either set.
    """
    walk = Pass(lead=2, want_ntk=want_ntk, variances=zip(variances1, variances2, strict=True))
    return walk.run(layer, _start(layer, x1, x2, 2))


def _start(layer: Layer, x1: Array, x2: Array, lead: int) -> KernelState:
    everywhere = needs_all_positions(layer)
    covariance = _input_covariance(x1, x2, lead, everywhere)
    return KernelState(covariance, None, x1.shape[1:-1], x1.shape[-1], everywhere)


_diagonal = jax.jit(windows.take_diagonal, static_argnums=1)
_convolve = jax.jit(windows.convolve, static_argnums=(0, 2))
_pool = jax.jit(windows.pool, static_argnums=(0, 2))
_pool_globally = jax.jit(windows.pool_globally, static_argnums=(0, 2))


@functools.partial(jax.jit, static_argnums=1)
def _mean(x: Array, lead: int) -> Array:
    """The average over positions, each with itself."""
    return x.mean(tuple(range(lead, x.ndim))) if x.ndim > lead else x


@functools.partial(jax.jit, static_argnums=(2, 3))
def _input_covariance(x1: Array, x2: Array, lead: int, all_positions: bool) -> Array:
    """Products of samples over their channels, divided by the number of channels."""
    rank = x1.ndim - 2
    left = list(string.ascii_lowercase[:rank])
    right = list(string.ascii_uppercase[:rank]) if all_positions else left
    out = [p for pair in zip(left, right, strict=True) for p in dict.fromkeys(pair)]
    samples = ("y", "z") if lead == 2 else ("y", "y")
    subscripts = (
        f"{samples[0]}{''.join(left)}x,{samples[1]}{''.join(right)}x"
        f"->{''.join(dict.fromkeys(samples))}{''.join(out)}"
    )
    products = jnp.einsum(subscripts, x1, x2, precision=lax.Precision.HIGHEST)
    return products / x1.shape[-1]


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _affine(
    layer: Dense | Conv, nngp: Array, ntk: Array | None, channels: int, want_ntk: bool
) -> BothKernels:
    """A random linear layer (after the mean over its filter): what its gradients add, too."""
    variance = layer.W_std**2
    after = nngp * variance
    if layer.b_std is not None:
        after = after + layer.b_std**2
    passed_on = None if ntk is None else ntk * variance
    if not (want_ntk and layer.trainable):
        return after, passed_on
    own = after
    if layer.parameterization == "standard":
        own = nngp * (layer.fan_in(channels) / layer.s[0])
        if layer.b_std is not None:
            own = own + 1
    return after, own if passed_on is None else own + passed_on


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _activation(
    layer: Activation,
    nngp: Array,
    ntk: Array | None,
    v1: Array,
    v2: Array,
    lead: int,
    all_positions: bool,
) -> BothKernels:
    left, right = _spread(v1, 0, lead, all_positions), _spread(v2, 1, lead, all_positions)
    after, slope = dual(layer, nngp, left, right)
    return after, None if ntk is None else slope * ntk


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _layer_norm(
    layer: LayerNorm,
    nngp: Array,
    ntk: Array | None,
    v1: Array,
    v2: Array,
    lead: int,
    all_positions: bool,
) -> BothKernels:
    if axes := tuple(1 + axis for axis in layer.spatial_axes(v1.ndim - 1)):
        v1, v2 = v1.mean(axes, keepdims=True), v2.mean(axes, keepdims=True)
    left, right = _spread(v1, 0, lead, all_positions), _spread(v2, 1, lead, all_positions)
    scale = geometric_mean(left + layer.eps, right + layer.eps)
    # Without variance there is nothing to divide: zero, where eps = 0 would say 0 / 0.
    scale = jnp.where(scale > 0, scale, 1)
    return nngp / scale, None if ntk is None else ntk / scale


def _spread(v: Array, side: int, lead: int, all_positions: bool) -> Array:
    """(n, *spatial) variances of one side, with axes of length 1 for the other side."""
    samples = [1] * lead
    samples[min(side, lead - 1)] = v.shape[0]
    spatial: list[int] = []
    for size in v.shape[1:]:
        spatial += ([1, size] if side else [size, 1]) if all_positions else [size]
    return jnp.reshape(v, (*samples, *spatial))


def _sum(branches: tuple[KernelState, ...]) -> KernelState:
    """Independent branches: covariances add up, and so do gradient products."""
    ntks = [b.ntk for b in branches if b.ntk is not None]
    return replace(
        branches[0],
        nngp=functools.reduce(jnp.add, (b.nngp for b in branches)),
        ntk=functools.reduce(jnp.add, ntks) if ntks else None,
    )
