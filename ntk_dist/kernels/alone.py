"""Each sample with itself, or its opposite, by the fused engine where only the last pooling mixes.

Displacements other than zero come from the engine in float64. At zero the correlations are exactly
1, or -1, and that part comes from a walk of the recursion over single positions: over all pairs of
them it would need H x W times the memory, 1 GiB for one image of 64 x 64.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist.kernels import recursion
from ntk_dist.kernels.fused_cpu import spatial_part
from ntk_dist.kernels.lanes import DOUBLE
from ntk_dist.kernels.program import Program
from ntk_dist.kernels.recursion import KernelState, Pass
from ntk_dist.kernels.statistics import Side

__all__ = ["each_with_itself", "each_with_opposite"]


def each_with_itself(
    program: Program, x: np.ndarray, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """What ``recursion.each_with_itself`` gives.

    Parameters
    ----------
    program
        One in float64 that ``only_pools_globally``.
    x : (n, ..., channels)
        Samples, float64.
    threads
        How many to use.

    Returns
    -------
    nngp, ntk : (n,)
    variances : list of (n, ...)
        The variance that enters each activation and LayerNorm.
    """
    with jax.enable_x64(True):  # whatever the process or thread is set to
        exact, recorded = recursion.each_with_itself(program.flat, jnp.asarray(x), True)
        variances = [np.asarray(v) for v in recorded]
        side = Side(x, variances)
        both = _everywhere(program, side, side, np.array(exact), threads)
        walk = Pass(lead=1, want_ntk=True)
        after = walk.run(program.tail, _where_axes_end(program, both))
        met = [*variances, *map(np.asarray, walk.recorded)]
        return np.array(after[0]), np.array(after[1]), met


def each_with_opposite(
    program: Program, side: Side, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What ``recursion.each_with_opposite`` gives, from the variances of ``each_with_itself``."""
    x, done = side.samples, len(program.statistics)
    with jax.enable_x64(True):
        exact = np.array(recursion.each_with_opposite(program.flat, jnp.asarray(x), True))
        both = _everywhere(program, side, Side(-x, side.variances), exact, threads)
        rest = [jnp.asarray(v) for v in side.variances[done:]]
        walk = Pass(lead=1, want_ntk=True, variances=zip(rest, rest, strict=True))
        after = walk.run(program.tail, _where_axes_end(program, both))
        return np.array(after[0]), np.array(after[1])


def _where_axes_end(program: Program, both: np.ndarray) -> KernelState:
    return KernelState(jnp.asarray(both[0]), jnp.asarray(both[1]), (), program.channels, False)


def _everywhere(
    program: Program, left: Side, right: Side, exact: np.ndarray, threads: int
) -> np.ndarray:
    """Both kernels of each pair of rows where the spatial axes end, given those at displacement 0.

    Parameters
    ----------
    program
        One that ``only_pools_globally``.
    left, right
        n samples each.
    exact : (2, n)
        What ``program.flat`` makes of the pairs.
    threads
        How many to use.
    """
    at_zero = program.at_zero
    share = program.share / at_zero.share

    def displaced(i: int) -> np.ndarray:
        one, other = left[i : i + 1], right[i : i + 1]
        everything, here = (
            np.array(spatial_part(each, one, other, DOUBLE, threads=1))[:, 0, 0]
            for each in (program, at_zero)
        )
        difference: np.ndarray = everything - share * here
        return difference

    with ThreadPoolExecutor(threads) as pool:
        others = np.array(list(pool.map(displaced, range(len(left))))).reshape(len(left), 2)
    both: np.ndarray = others.T + share * exact
    return both
