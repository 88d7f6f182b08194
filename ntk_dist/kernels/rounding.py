"""What rounding to float32 does to a program, and where that is too much.

A covariance is multiplied by one constant per layer, and its variances, known in float64, are not.
Errors of arithmetic are random and stay small, unless a kink magnifies them; those of constants all
point in one direction, unless they are rounded together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ntk_dist.kernels.activations import Family, slopes
from ntk_dist.kernels.branching import Parallel, Serial
from ntk_dist.kernels.fusing import Fused
from ntk_dist.kernels.layers import Activation, Layer

__all__ = ["balance", "blurs_angles"]

SHARES = {
    Family.PIECEWISE_LINEAR: (0.25, 1.0),
    Family.ERF: (1.0, 0.0),
    Family.GELU: (math.pi / 2, 1.0),
    Family.SINE: (1.0, 0.0),
}
"""How much of ``weight`` and of ``level`` is in the slope of a nearly perfectly correlated pair."""


def balance(steps: Iterable[np.ndarray]) -> None:
    """Round each scale to float32, up or down, so that the product of all stays exact.

    Rounded to the nearest they drift: 20 layers with W_std = 1.3 would err by 1.1e-6 of the NTK,
    all in one direction, and so err by 2e-7.

    Parameters
    ----------
    steps
        Records of ``program.STEP`` in their order; their scales are replaced.
    """
    drift = 1.0
    for step in steps:
        exact, weight, level = (float(step[name]) for name in ("scale", "weight", "level"))
        fold, line = SHARES[Family(int(step["family"]))]
        if through := fold * weight + line * level:
            drift *= (fold * float(np.float32(weight)) + line * float(np.float32(level))) / through
        near = np.float32(exact)
        if float(near) != exact:
            choices = near, np.nextafter(near, np.float32(0)), np.nextafter(near, 2 * near)
            step["scale"] = min(map(float, choices), key=lambda one: abs(drift * one / exact - 1))
            drift *= float(step["scale"]) / exact


def blurs_angles(fused: Fused) -> bool:
    """Whether a kink follows an activation that has a mean of its own.

    Sigmoids and cosines are constants and little else where their inputs are small: a few of them
    bring all pairs within 1e-7 of full correlation, where the slope of a kink takes the root of
    the distance.
    """
    met = False
    for segment in fused.segments:
        for step in segment.steps:
            match step.family, step.constants:
                case Family.PIECEWISE_LINEAR, (below, above):
                    if met and below != above:
                        return True
                case Family.ERF, (_, _, c):
                    met |= c != 0
                case Family.SINE, (_, _, cos2c):
                    met |= cos2c != 1
    return met and any(_kinks(layer) for layer in fused.tail.layers)


def _kinks(layer: Layer) -> bool:
    if isinstance(layer, Serial | Parallel):
        return any(map(_kinks, layer.layers))
    ab = slopes(layer) if isinstance(layer, Activation) else None
    return ab is not None and ab[0] != ab[1]
