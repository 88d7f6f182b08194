"""The layers after the spatial part of a network: one number per pair, by the recursion in float64.

Correlations are near 1 there, and next to the planes before them the arithmetic is nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist.kernels.cost import pair_cost
from ntk_dist.kernels.evaluations import mirrored
from ntk_dist.kernels.lanes import DOUBLE
from ntk_dist.kernels.program import Program
from ntk_dist.kernels.recursion import KernelState, Pass
from ntk_dist.kernels.statistics import Side

__all__ = ["tail_bytes", "through_tail"]

BOTH_BYTES = 16
"""Both kernels of a pair in float64."""


def tail_bytes(program: Program) -> int:
    """Working memory of ``through_tail`` for each pair.

    Both kernels four times: as they come and go, as input and as output of a layer; six times
    where an activation needs scratch (measured for 1500 x 1500 pairs: 3 to 4, and 4 to 6).
    """
    activates = pair_cost(program.tail, (1,), DOUBLE.itemsize, 2).variances
    return (6 if activates else 4) * BOTH_BYTES


def through_tail(
    program: Program, left: Side, right: Side | None, nngp: np.ndarray, ntk: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both kernels after the layers that see no spatial axes.

    Parameters
    ----------
    program
        What has been computed up to there.
    left, right
        The samples; without a right side only the upper triangle is read, and mirrored.
    nngp, ntk : (n1, n2)
        Both kernels where the spatial axes end.
    """
    done = len(program.statistics)
    sides = left, left if right is None else right
    with jax.enable_x64(True):  # whatever the process or thread is set to
        pairs = zip(*(map(jnp.asarray, side.variances[done:]) for side in sides), strict=True)
        start = KernelState(jnp.asarray(nngp), jnp.asarray(ntk), (), program.channels, False)
        after = Pass(lead=2, want_ntk=True, variances=pairs).run(program.tail, start)
        nngp, ntk = np.array(after[0]), np.array(after[1])
    return (mirrored(nngp), mirrored(ntk)) if right is None else (nngp, ntk)
