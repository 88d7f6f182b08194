"""Pointwise nonlinearities, and what they make of a pair of correlated Gaussians.

For ``(u, u')`` Gaussian with mean zero, variances ``v1``, ``v2`` and covariance ``q``, the dual
activation of ``φ`` is ``E[φ(u) φ(u')]`` and its derivative is ``E[φ'(u) φ'(u')]``. The formulas
are arranged so that perfectly correlated pairs, ``q = ±v1 = ±v2``, come out exact and never
cancel: ``v1 v2 - q²`` is only ever formed as ``(s - |q|) (s + |q|)`` with ``s = √(v1 v2)``.
"""

from __future__ import annotations

import enum
import math

import jax
import jax.numpy as jnp
from jax import Array

from ntk_dist.kernels.layers import (
    ABRelu,
    Abs,
    Activation,
    Cos,
    Erf,
    Gelu,
    LeakyRelu,
    Rbf,
    Relu,
    Sigmoid_like,
    Sin,
)

__all__ = ["Family", "dual", "evaluate", "family", "geometric_mean", "slopes"]

SIGMOID_SCALE = 2.4020563531719796
"""Input scale that brings erf closest to the logistic function on [-5, 5] in squared error."""


def slopes(layer: Activation) -> tuple[float, float] | None:
    """The slopes below and above zero when the activation is piecewise linear, else None."""
    match layer:
        case ABRelu(a=a, b=b):
            return a, b
        case Relu():
            return 0.0, 1.0
        case LeakyRelu(alpha=alpha):
            return alpha, 1.0
        case Abs():
            return -1.0, 1.0
    return None


class Family(enum.IntEnum):
    """Activations that share a dual, up to constants."""

    PIECEWISE_LINEAR = 0
    """``a min(x, 0) + b max(x, 0)``: (a, b)."""
    ERF = 1
    """``a erf(b x) + c``: (a, b, c)."""
    GELU = 2
    """``x Φ(x)``: ()."""
    SINE = 3
    """``a sin(b x + c)``: (a², b², cos 2c)."""


def family(layer: Activation) -> tuple[Family, tuple[float, ...]]:
    """To which family an activation belongs, and its constants."""
    if (ab := slopes(layer)) is not None:
        return Family.PIECEWISE_LINEAR, ab
    match layer:
        case Erf(a=a, b=b, c=c):
            return Family.ERF, (a, b, c)
        case Sigmoid_like():
            return Family.ERF, (0.5, 1 / SIGMOID_SCALE, 0.5)
        case Gelu():
            return Family.GELU, ()
        case Sin(a=a, b=b, c=c):
            return Family.SINE, (a * a, b * b, math.cos(2 * c))
        case Cos(a=a, b=b, c=c):
            # cos(x) = sin(x + π/2).
            return Family.SINE, (a * a, b * b, -math.cos(2 * c))
        case Rbf(gamma=gamma):
            return Family.SINE, (2.0, 2 * gamma, 0.0)
    raise NotImplementedError(f"{layer!r} has no dual activation")


def dual(layer: Activation, q: Array, v1: Array, v2: Array) -> tuple[Array, Array]:
    """``E[φ(u) φ(u')]`` and ``E[φ'(u) φ'(u')]``, elementwise, in the dtype of ``q``.

    Parameters
    ----------
    layer
        The activation φ.
    q, v1, v2
        Covariance and variances, of one rank and broadcastable shapes.
    """
    if isinstance(layer, Rbf):
        return _rbf(layer.gamma, q, v1, v2)
    match family(layer):
        case Family.PIECEWISE_LINEAR, (a, b):
            return _piecewise_linear(a, b, q, v1, v2)
        case Family.ERF, (a, b, c):
            return _erf(a, b, c, q, v1, v2)
        case Family.SINE, (a2, b2, cos2c):
            return _sine(a2, b2, cos2c, q, v1, v2)
    return _gelu(q, v1, v2)


def evaluate(layer: Activation, x: Array) -> Array:
    """``φ(x)`` elementwise, for the finite network."""
    if (ab := slopes(layer)) is not None:
        a, b = ab
        return a * jnp.minimum(x, 0) + b * jnp.maximum(x, 0)
    match layer:
        case Erf(a=a, b=b, c=c):
            return a * jax.scipy.special.erf(b * x) + c
        case Sigmoid_like():
            return 0.5 * jax.scipy.special.erf(x / SIGMOID_SCALE) + 0.5
        case Gelu(approximate=approximate):
            return jax.nn.gelu(x, approximate=approximate)
        case Sin(a=a, b=b, c=c):
            return a * jnp.sin(b * x + c)
        case Cos(a=a, b=b, c=c):
            return a * jnp.cos(b * x + c)
        case Rbf(gamma=gamma):
            return math.sqrt(2) * jnp.sin(math.sqrt(2 * gamma) * x + math.pi / 4)
    raise NotImplementedError(f"{layer!r} cannot be evaluated")


def geometric_mean(v1: Array, v2: Array) -> Array:
    """``√(v1 v2)``, exactly ``v1`` where both are equal, so that correlation 1 is exact.

    The roots are taken first: the product of two variances may overflow where its root does not.
    """
    return jnp.where(v1 == v2, v1, jnp.sqrt(v1) * jnp.sqrt(v2))


def _uncorrelated(q: Array, v1: Array, v2: Array) -> Array:
    """``v1 v2 - q²`` without cancellation, never negative."""
    s = geometric_mean(v1, v2)
    return jnp.maximum(s - jnp.abs(q), 0) * (s + jnp.abs(q))


def _piecewise_linear(a: float, b: float, q: Array, v1: Array, v2: Array) -> tuple[Array, Array]:
    """The arc-cosine kernels of order 1 and 0, for slopes a and b.

    With ``t`` the angle between u and u'::

        E[φ φ'] = (a - b)² s (sin t + (π - t) cos t) / 2π + a b q,    φ(x) = a min(x,0) + b max(x,0)
        E[dφ dφ'] = (a - b)² (π - t) / 2π + a b

    Cho & Saul, Kernel methods for deep learning, NIPS 2009, section 2; for two slopes Tsuchida,
    Roosta-Khorasani & Gallagher, arXiv:1711.09090. Where a variance is zero the angle is π/2.
    """
    s = geometric_mean(v1, v2)
    safe = jnp.where(s > 0, s, 1)
    c = jnp.where(s > 0, jnp.clip(q / safe, -1, 1), 0)
    # 1 - |c| from the covariance itself: the subtraction is exact where it matters.
    gap = jnp.where(s > 0, jnp.clip((s - jnp.abs(q)) / safe, 0, 1), 1)
    sine = jnp.sqrt(gap * (2 - gap))
    # t / 2π of the acute angle, so that (π - t) / 2π is exactly 1/2 at c = 1 and 0 at c = -1.
    acute = jnp.arctan2(sine, jnp.abs(c)) * (0.5 / math.pi)
    fraction = jnp.where(c >= 0, 0.5 - acute, acute)
    weight = (a - b) ** 2
    product = weight * (s * (sine * (0.5 / math.pi) + c * fraction)) + (a * b) * q
    return product, weight * fraction + a * b


def _erf(a: float, b: float, c: float, q: Array, v1: Array, v2: Array) -> tuple[Array, Array]:
    """``a erf(b x) + c``: Williams, Computing with infinite networks, NIPS 1996, eq. 11."""
    b2 = b * b
    root = jnp.sqrt(1 + 2 * b2 * (v1 + v2) + (4 * b2 * b2) * _uncorrelated(q, v1, v2))
    product = (2 * a * a / math.pi) * jnp.arctan2(2 * b2 * q, root) + c * c
    return product, (4 * a * a * b2 / math.pi) / root


def _gelu(q: Array, v1: Array, v2: Array) -> tuple[Array, Array]:
    """``x Φ(x)``: Tsuchida, Pearce, van der Heide, Roosta & Gallagher, arXiv:2002.08517."""
    delta2 = 1 + v1 + v2 + _uncorrelated(q, v1, v2)
    delta = jnp.sqrt(delta2)
    ones = (1 + v1) * (1 + v2)
    angle = jnp.arctan2(q, delta)
    product = q / 4 + ((q * q + v1 * v2 * delta2) / (ones * delta) + q * angle) / (2 * math.pi)
    slope = (1 / delta2 + (1 - v1 * v2) / ones + 1) * (q / delta)
    return product, 0.25 + (slope + angle) / (2 * math.pi)


def _sine(
    a2: float, b2: float, cos2c: float, q: Array, v1: Array, v2: Array
) -> tuple[Array, Array]:
    """``a sin(b x + c)``.

    With ``h = (v1 + v2) / 2``, ``E[sin sin] = e^{-b² h} sinh(b² q)`` and
    ``E[cos cos] = e^{-b² h} cosh(b² q)``; Pearce, Tsuchida, Zaki, Brintrup & Neely,
    arXiv:1905.06076.
    """
    sin2, cos2 = (1 - cos2c) / 2, (1 + cos2c) / 2
    size = jnp.abs(q)
    peak = jnp.exp(b2 * (size - (v1 + v2) / 2))
    sines = jnp.sign(q) * peak * -jnp.expm1(-2 * b2 * size) / 2
    cosines = peak * (1 + jnp.exp(-2 * b2 * size)) / 2
    product = a2 * (cos2 * sines + sin2 * cosines)
    return product, a2 * b2 * (cos2 * cosines + sin2 * sines)


def _rbf(gamma: float, q: Array, v1: Array, v2: Array) -> tuple[Array, Array]:
    """``exp(-gamma (v1 + v2 - 2 q))``: Rahimi & Recht, Random features, NIPS 2007."""
    product = jnp.exp(gamma * (2 * q - (v1 + v2)))
    return product, 2 * gamma * product
