"""The kernels of smooth activations without a call to libm: Erf, Gelu, and sines.

The formulas are those of ``activations.py``, brought to what a plane and its samples know. Erf and
Gelu see the correlation ``c`` of a pair to which noise was added; ``g = 1 - |c|`` is its gap, and
``h = √(1 - c²) = √(g (2 - g))``, where nothing cancels near 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ntk_dist.kernels.lanes import (
    WORD_BYTES,
    choose_less,
    compiled,
    load,
    magnitude,
    nearest,
    polynomial,
    power_of_two,
    root,
    spread,
    store,
    with_sign,
)

__all__ = [
    "ARC_SINE",
    "EXPONENTIAL",
    "arc_sine",
    "erf",
    "exponential",
    "exponential_less_one",
    "gelu",
    "sine",
]

# Minimax by the exchange algorithm in 50 digits, lowest power first.
ARC_SINE: dict[int, tuple[float, ...]] = {
    32: (
        0.16666673135969057,
        0.07498761620204468,
        0.045020215214933525,
        0.026433362165938532,
        0.03832830678763794,
    ),
    64: (
        0.16666666666666646,
        0.0750000000002326,
        0.044642857099411626,
        0.03038194761839106,
        0.022372039564125312,
        0.017355410981691074,
        0.013927891078519763,
        0.011888689167767249,
        0.0077394875057391,
        0.016224997214775005,
        -0.011068700308155559,
        0.02840203567951016,
    ),
}
"""``(arcsin √w / √w - 1) / w`` on [0, 1/4]. Errors 6.5e-8 and 2.1e-16, and w times that of 1."""
EXPONENTIAL: dict[int, tuple[float, ...]] = {
    32: (
        0.5000000027086513,
        0.16666576620974374,
        0.04166637412164208,
        0.008363237885573721,
        0.0013941215601065715,
    ),
    64: (
        0.5,
        0.1666666666666667,
        0.041666666666666685,
        0.008333333333326082,
        0.0013888888888874294,
        0.0001984126987500567,
        2.4801587347587177e-05,
        2.7557255166245233e-06,
        2.7557252673292366e-07,
        2.5105314116534945e-08,
        2.092167017912071e-09,
    ),
}
"""``(e^r - 1 - r) / r²`` where |r| is at most half of ln 2. Errors 6.3e-8 and 1.4e-18, times r²."""

LOG2_E = 1.4426950408889634
LN_2_HIGH = 0.693359375
"""In 9 bits: its product with an exponent is exact."""
LN_2_LOW = -2.1219444005469058e-4
PI = 3.141592653589793

_arc_sine_rest = polynomial(ARC_SINE)
_exponential_rest = polynomial(EXPONENTIAL)


@compiled
def arc_sine(work: np.ndarray, size: Any, gap: Any) -> Any:
    """The arcsine of numbers ``size`` in [0, 1], given ``gap = 1 - size``.

    Above 1/2 it is ``π/2 - 2 arcsin √(gap / 2)``.
    """
    half = spread(work, 0.5)
    y = choose_less(size, half, size, root(half * gap))
    w = y * y
    angle = y + y * (w * _arc_sine_rest(w))
    return choose_less(size, half, angle, spread(work, PI / 2) - (angle + angle))


@compiled
def _split(work: np.ndarray, x: Any) -> tuple[Any, Any]:
    """``2^n`` and ``e^r - 1`` with ``x = n ln 2 + r``: of a larger x where that would underflow."""
    lowest = spread(work, -87.0 if work.itemsize == 4 else -708.0)
    x = choose_less(x, lowest, lowest, x)
    n = nearest(x * spread(work, LOG2_E))
    r = x - n * spread(work, LN_2_HIGH)
    r = r - n * spread(work, LN_2_LOW)
    return power_of_two(n), r + r * (r * _exponential_rest(r))


@compiled
def exponential(work: np.ndarray, x: Any) -> Any:
    """``e^x`` for x up to 0, and a little above; no less than the smallest normal number."""
    power, rest = _split(work, x)
    return power + power * rest


@compiled
def exponential_less_one(work: np.ndarray, x: Any) -> Any:
    """``e^x - 1`` for x up to 0, without cancellation near 0."""
    power, rest = _split(work, x)
    return power * rest + (power - spread(work, 1.0))


@compiled
def erf(work: np.ndarray, op: Any, row: int, columns: int, one: int, others: int) -> None:
    """A row through the error function, in place.

    With ``φ(x) = a erf(b x) + c``, it needs of a sample ``e = 1 / √(1 + 2 b² v)`` and ``√2 b e``:
    with their products e and r over the pair, ``c = q r`` and the slope is ``2 a² r / π h``.
    As ``g ≥ e`` by the inequality of the means, rounding never makes it infinite.
    """
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    weight, level = spread(work, op.weight), spread(work, op.level)
    full = spread(work, 1.0)
    for at in range(row, row + columns * width, width):
        e = spread(work, work[one]) * load(work, others)
        r = spread(work, work[one + 1]) * load(work, others + half)
        c = load(work, at) * r
        one += 2
        others += width
        size = magnitude(c)
        g = full - size
        g = choose_less(g, e, e, g)
        angle = with_sign(arc_sine(work, size, g), c)
        store(work, at, weight * angle + level)
        h = root(g * (full + (full - g)))
        store(work, at + half, load(work, at + half) * (weight * (r / h)))


@compiled
def gelu(work: np.ndarray, op: Any, row: int, columns: int, one: int, others: int) -> None:
    """A row through ``x Φ(x)``, in place.

    Of each sample it needs ``u = v / √(1 + v)`` and ``r = 1 / √(1 + v)``; with u and r their
    products over the pair, ``c = q r`` and ``1 + v1 + v2 + v1 v2 - q² = h² / r²``. Again ``g ≥ r``.
    """
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    full, quarter, turn = spread(work, 1.0), spread(work, op.level), spread(work, op.weight)
    for at in range(row, row + columns * width, width):
        u = spread(work, work[one]) * load(work, others)
        r = spread(work, work[one + 1]) * load(work, others + half)
        one += 2
        others += width
        q = load(work, at)
        c = q * r
        size = magnitude(c)
        g = full - size
        g = choose_less(g, r, r, g)
        h = root(g * (full + (full - g)))
        angle = with_sign(arc_sine(work, size, g), c)
        steep = r / h
        store(work, at, quarter * q + turn * (c * c * steep + u * h + q * angle))
        slope = (steep * steep + r * r + (full - u * r)) * (c / h)
        store(work, at + half, load(work, at + half) * (quarter + turn * (slope + angle)))


@compiled
def sine(work: np.ndarray, op: Any, row: int, columns: int, one: int, others: int) -> None:
    """A row through ``a sin(b x + c)``, in place.

    Of each sample it needs ``b² v / 2``. With ``E± = exp(b² (±q - (v1 + v2) / 2))`` and
    ``k = cos 2c``::

        E[φ φ'] = a² (E+ - k E-) / 2,    E[dφ dφ'] = a² b² (E+ + k E-) / 2

    The larger exponential comes first, and the other is it times ``1 + m``, so that nothing
    cancels where q is small.
    """
    width = 2 * WORD_BYTES // work.itemsize
    half = width // 2
    weight, k, rate = spread(work, op.weight), spread(work, op.level), spread(work, op.rate)
    zero, full = spread(work, 0.0), spread(work, 1.0)
    for at in range(row, row + columns * width, width):
        decay = spread(work, work[one]) + load(work, others)
        one += 2
        others += width
        q = load(work, at)
        size = rate * magnitude(q)
        peak = weight * exponential(work, size - decay)
        m = exponential_less_one(work, zero - (size + size))
        km = k * m
        store(work, at, peak * ((full - k) + choose_less(q, zero, m, zero - km)))
        slope = rate * (peak * ((full + k) + choose_less(q, zero, m, km)))
        store(work, at + half, load(work, at + half) * slope)
