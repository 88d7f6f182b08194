"""The layers after the spatial part of a network: one number per pair, by the recursion in float64.

Correlations are near 1 there, and next to the planes before them the arithmetic is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist.kernels.program import Program
from ntk_dist.kernels.recursion import KernelState, Pass

__all__ = ["PAIR_BYTES", "through_tail"]

PAIR_BYTES = 96
"""Both kernels of a pair in float64, and again as input, output and scratch of the tail."""


def through_tail(
    program: Program,
    nngp: np.ndarray,
    ntk: np.ndarray,
    variances1: Sequence[np.ndarray],
    variances2: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Both kernels after the layers that see no spatial axes."""
    with jax.enable_x64(True):  # whatever the process or thread is set to
        pairs = zip(map(jnp.asarray, variances1), map(jnp.asarray, variances2), strict=True)
        start = KernelState(jnp.asarray(nngp), jnp.asarray(ntk), (), program.channels, False)
        after = Pass(lead=2, want_ntk=True, variances=pairs).run(program.tail, start)
        return np.array(after[0]), np.array(after[1])
