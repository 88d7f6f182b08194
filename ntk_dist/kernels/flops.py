"""Arithmetic of one pair of samples in the fused engines for convolutions.

``cost.py`` has that of the recursion.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ntk_dist.kernels.activations import Family
from ntk_dist.kernels.fusing import Fused

__all__ = ["pair_flops"]

AFFINE_FLOPS = 8
"""Three contracted products and sums for the NTK and the NNGP, and two more roundings."""
ACTIVATION_FLOPS = {
    Family.PIECEWISE_LINEAR: 46,
    Family.ERF: 36,
    Family.GELU: 54,
    Family.SINE: 70,
}
"""Polynomials (14 and 10; one of 8; the same; two of 8), roots and quotients as one each, and the
products around them, in float32."""


def pair_flops(fused: Fused, segments: np.ndarray, channels: int) -> int:
    """Arithmetic of one pair up to the end of the spatial part.

    Parameters
    ----------
    fused
        The steps.
    segments
        Their records of ``program.SEGMENT``: which displacements are needed.
    channels
        Of the samples.
    """
    total = 0
    for record, segment in zip(segments, fused.segments, strict=True):
        whole = segment.last.factor
        total += 2 * channels * _positions(segment.start.size, whole, record)
        channels = 0
        for step in segment.steps:
            factor = (whole[0] // step.target.factor[0], whole[1] // step.target.factor[1])
            flops = 2 * (sum(step.taps) - 2) + AFFINE_FLOPS
            if step.statistic >= 0:
                flops += ACTIVATION_FLOPS[step.family]
            total += flops * _positions(step.target.size, factor, record)
        # Both kernels, weighted when they are pooled.
        total += 4 * _positions(segment.last.size, (1, 1), record)
    return total


def _positions(size: tuple[int, int], factor: tuple[int, int], record: Any) -> int:
    """Positions of an image of this size on all planes of a segment together."""
    if record["cyclic"]:
        return math.prod(size) * (int(record["reach_y"]) + 1) * (int(record["reach_x"]) + 1)
    return math.prod(
        sum(n - abs(d) * f for d in range(-reach, reach + 1))
        for n, f, reach in zip(
            size, factor, (int(record["reach_y"]), int(record["reach_x"])), strict=True
        )
    )
