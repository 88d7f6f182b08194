"""Sliding windows over the spatial axes of a covariance.

A covariance between positions has either one axis per spatial axis (each position with itself:
the diagonal) or a pair of neighbouring axes per spatial axis, ``(..., H, H', W, W')``. A shared
filter moves both axes of a pair together; pooling moves each on its own.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ntk_dist.kernels.layers import AvgPool, Conv, GlobalAvgPool, GlobalPool, Pool
from ntk_dist.kernels.shapes import pads, window_count

__all__ = ["convolve", "pool", "pool_globally", "take_diagonal"]


def convolve(layer: Conv, x: Array, lead: int) -> Array:
    """The mean over the filter, both positions of a pair moving together.

    Parameters
    ----------
    layer
        The convolution; only its geometry counts.
    x
        Covariance; its first ``lead`` axes count pairs of samples, the others are spatial.
    lead
        How many axes count samples.
    """
    rank = len(layer.filter_shape)
    per_axis = (x.ndim - lead) // rank
    for i, (window, stride) in enumerate(zip(layer.filter_shape, layer.step, strict=True)):
        first = lead + i * per_axis
        x = _slide(x, tuple(range(first, first + per_axis)), window, stride, layer.padding)
    return x / math.prod(layer.filter_shape)


def pool(layer: Pool, x: Array, lead: int) -> Array:
    """The sum or average over windows, each position of a pair moving on its own."""
    for i, (window, stride) in enumerate(zip(layer.window_shape, layer.step, strict=True)):
        for axis in (lead + 2 * i, lead + 2 * i + 1):
            size = x.shape[axis]
            x = _slide(x, (axis,), window, stride, layer.padding)
            if isinstance(layer, AvgPool):
                inside = _positions_inside(size, window, stride, layer)
                shape = [1] * x.ndim
                shape[axis] = inside.size
                x = x / jnp.asarray(inside.reshape(shape), x.dtype)
    return x


def pool_globally(layer: GlobalPool, x: Array, lead: int) -> Array:
    """The sum or average over all pairs of positions."""
    axes = tuple(range(lead, x.ndim))
    return x.mean(axes) if isinstance(layer, GlobalAvgPool) else x.sum(axes)


def take_diagonal(x: Array, lead: int) -> Array:
    """Each position with itself: ``(..., H, H', W, W')`` becomes ``(..., H, W)``."""
    for _ in range((x.ndim - lead) // 2):
        # The diagonal goes last, so after all pairs the axes are in their old order.
        x = jnp.diagonal(x, axis1=lead, axis2=lead + 1)
    return x


def _slide(x: Array, axes: tuple[int, ...], window: int, stride: int, padding: str) -> Array:
    """The sum over a window that moves along all ``axes`` at once."""
    size = x.shape[axes[0]]
    count = window_count(size, window, stride, padding)
    low_high = pads(size, window, stride, padding)
    if low_high != (0, 0):
        widths = [low_high if axis in axes else (0, 0) for axis in range(x.ndim)]
        x = jnp.pad(x, widths, mode="wrap" if padding == "CIRCULAR" else "constant")
    starts, limits, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    terms = []
    for offset in range(window):
        for axis in axes:
            starts[axis], steps[axis] = offset, stride
            limits[axis] = offset + (count - 1) * stride + 1
        terms.append(lax.slice(x, starts, limits, steps))
    return sum(terms[1:], start=terms[0])


def _positions_inside(size: int, window: int, stride: int, layer: AvgPool) -> np.ndarray:
    """What to divide each window by: (outputs,)."""
    count = window_count(size, window, stride, layer.padding)
    if not (layer.normalize_edges and layer.padding == "SAME"):
        return np.full(count, window)
    starts = np.arange(count) * stride - pads(size, window, stride, layer.padding)[0]
    return np.minimum(starts + window, size) - np.maximum(starts, 0)
