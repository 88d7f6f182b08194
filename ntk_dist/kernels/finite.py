"""The finite random network whose kernels converge to the exact ones as its width grows.

Widths are ``out_dim`` and ``out_chan``. In the ``"ntk"`` parameterization weights and biases are
standard normal and a layer computes ``W_std / sqrt(fan_in) W x + b_std b``; in ``"standard"`` the
scales sit in the initial values. Frozen layers pass no gradient to their parameters.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ntk_dist.errors import DataShapeError
from ntk_dist.kernels.activations import evaluate
from ntk_dist.kernels.branching import FanInSum, FanOut, Parallel, Serial
from ntk_dist.kernels.layers import (
    Activation,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    GlobalPool,
    Identity,
    Layer,
    LayerNorm,
    Pool,
)
from ntk_dist.kernels.shapes import Signal, State, pads

__all__ = ["Parameters", "apply", "init"]

Parameters: TypeAlias = Any
"""A pytree: (weights, bias or None) per Dense and Conv, () per layer without, tuples of these."""
Shapes: TypeAlias = "tuple[int, ...] | tuple[Shapes, ...]"
Activations: TypeAlias = "Array | tuple[Activations, ...]"


def init(layer: Layer, key: Array, input_shape: tuple[int, ...]) -> tuple[Shapes, Parameters]:
    """The output shape (one per branch, if it ends in branches) and random parameters.

    Parameters
    ----------
    layer
        The architecture.
    key
        A JAX random key.
    input_shape : (n, ..., channels)
        Shape of a batch; the first entry is passed through and may be -1.

    Raises
    ------
    ArchitectureError, DataShapeError
        It is no shape of a batch, or the layers do not take samples of this shape.
    """
    batch, *sizes = input_shape or (-1,)
    whole = all(isinstance(size, int | np.integer) for size in input_shape)
    if not sizes or not whole or min(sizes) < 1:
        raise DataShapeError(
            "input_shape: expected that of a batch, (n, features) or (n, height, width, channels), "
            f"got {input_shape}; n may be -1"
        )
    state, parameters = _init(
        layer, key, Signal(spatial=tuple(sizes[:-1]), channels=sizes[-1], measured=True)
    )
    return _shape(batch, state), parameters


def _shape(batch: int, state: State) -> Shapes:
    if isinstance(state, tuple):
        return tuple(_shape(batch, branch) for branch in state)
    signal = cast("Signal", state)
    spatial, channels = cast("tuple[int, ...]", signal.spatial), cast("int", signal.channels)
    return (batch, *spatial, channels)


def _init(layer: Layer, key: Array, state: State) -> tuple[State, Parameters]:
    if isinstance(layer, Serial):
        parameters = []
        for each, subkey in zip(
            layer.layers, jax.random.split(key, len(layer.layers)), strict=True
        ):
            state, own = _init(each, subkey, state)
            parameters.append(own)
        return state, tuple(parameters)
    after = layer.flow(state, ())
    if isinstance(layer, Parallel):
        keys = jax.random.split(key, len(layer.layers))
        branches = cast("tuple[State, ...]", state)
        pairs = [_init(*each) for each in zip(layer.layers, keys, branches, strict=True)]
        return after, tuple(own for _, own in pairs)
    if not isinstance(layer, Dense | Conv):
        return after, ()
    signal = cast("Signal", state)
    channels = cast("int", signal.channels)
    window = layer.filter_shape if isinstance(layer, Conv) else ()
    for_weights, for_bias = jax.random.split(key)
    weights = jax.random.normal(for_weights, (*window, channels, layer.width))
    bias = None if layer.b_std is None else jax.random.normal(for_bias, (layer.width,))
    if layer.parameterization == "standard":
        weights = weights * (layer.W_std / math.sqrt(layer.fan_in(channels) / layer.s[0]))
        bias = None if bias is None or layer.b_std is None else bias * layer.b_std
    return after, (weights, bias)


def apply(layer: Layer, parameters: Parameters, x: Activations) -> Activations:
    """The output of the network: (n, ..., channels), or one such array per branch.

    Parameters
    ----------
    layer
        The architecture.
    parameters
        What ``init`` returned for it.
    x : (n, ..., channels)
        Samples.
    """
    match layer:
        case Serial(layers=layers):
            for each, own in zip(layers, parameters, strict=True):
                x = apply(each, own, x)
            return x
        case Parallel(layers=layers):
            return tuple(
                apply(each, own, branch)
                for each, own, branch in zip(layers, parameters, x, strict=True)
            )
        case FanOut(num=num):
            return (x,) * num
        case FanInSum():
            return sum(cast("tuple[Array, ...]", x)[1:], start=cast("Array", x[0]))
    return _apply_one(layer, parameters, cast("Array", x))


def _apply_one(layer: Layer, parameters: Parameters, x: Array) -> Array:
    match layer:
        case Dense() | Conv():
            return _affine(layer, parameters, x)
        case Activation():
            return evaluate(layer, x)
        case LayerNorm():
            axes = (*(1 + a for a in layer.spatial_axes(x.ndim - 2)), x.ndim - 1)
            mean = x.mean(axes, keepdims=True)
            return (x - mean) / jnp.sqrt(layer.eps + x.var(axes, keepdims=True))
        case Pool():
            return _pool(layer, x)
        case GlobalPool():
            axes = tuple(range(1, x.ndim - 1))
            return x.mean(axes) if isinstance(layer, GlobalAvgPool) else x.sum(axes)
        case Flatten():
            return x.reshape(x.shape[0], -1)
        case Identity():
            return x
    raise NotImplementedError(f"{layer!r} has no finite network")


def _affine(layer: Dense | Conv, parameters: Parameters, x: Array) -> Array:
    weights, bias = parameters if layer.trainable else lax.stop_gradient(parameters)
    if isinstance(layer, Conv):
        rank = len(layer.filter_shape)
        axes = "HWDEFGJK"[:rank]
        if layer.padding == "CIRCULAR":
            x = _wrap(x, layer.filter_shape, layer.step)
        y = lax.conv_general_dilated(
            x,
            weights,
            layer.step,
            "SAME" if layer.padding == "SAME" else "VALID",
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        )
    else:
        y = x @ weights
    if layer.parameterization == "standard":
        y = y / math.sqrt(layer.s[0])
        return y if bias is None else y + _last_axis(bias, y.ndim)
    y = y * (layer.W_std / math.sqrt(layer.fan_in(x.shape[-1])))
    if bias is None or layer.b_std is None:
        return y
    return y + _last_axis(layer.b_std * bias, y.ndim)


def _pool(layer: Pool, x: Array) -> Array:
    def total(values: Array) -> Array:
        if layer.padding == "CIRCULAR":
            values = _wrap(values, layer.window_shape, layer.step)
        sums: Array = lax.reduce_window(
            values,
            # A concrete zero: XLA differentiates a window sum, not a reduction of unknown start.
            np.zeros((), values.dtype),
            lax.add,
            (1, *layer.window_shape, 1),
            (1, *layer.step, 1),
            "SAME" if layer.padding == "SAME" else "VALID",
        )
        return sums

    y = total(x)
    if not isinstance(layer, AvgPool):
        return y
    if layer.normalize_edges and layer.padding == "SAME":
        return y / total(jnp.ones_like(x))
    return y / math.prod(layer.window_shape)


def _wrap(x: Array, window: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """The image continued periodically, by as much as SAME padding would add."""
    sizes = x.shape[1:-1]
    widths = [pads(*each, "SAME") for each in zip(sizes, window, strides, strict=True)]
    return jnp.pad(x, [(0, 0), *widths, (0, 0)], mode="wrap")


def _last_axis(bias: Array, rank: int) -> Array:
    return bias.reshape((1,) * (rank - 1) + bias.shape)
