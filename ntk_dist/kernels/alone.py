"""Each sample with itself, or its opposite, by the fused engine where only the last pooling mixes.

Displacements other than zero come from the engine in float64. At zero the correlations are exactly
1, or -1, and that part comes from a walk of the recursion over single positions: over all pairs of
them it would need H x W times the memory, 1 GiB for one image of 64 x 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist.kernels import recursion
from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.fused_cpu import program_for, spatial_part
from ntk_dist.kernels.layers import Flatten, Layer
from ntk_dist.kernels.program import Program
from ntk_dist.kernels.recursion import KernelState, Pass

__all__ = ["each_with_itself", "each_with_opposite"]

DOUBLE = np.dtype(np.float64)


def each_with_itself(
    architecture: Layer, x: np.ndarray, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """What ``recursion.each_with_itself`` gives.

    Parameters
    ----------
    architecture
        One whose program ``only_pools_globally``.
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
    program = program_for(architecture, x.shape[1:], DOUBLE)
    flat = Serial((program.head, Flatten()))
    with jax.enable_x64(True):  # whatever the process or thread is set to
        exact, recorded = recursion.each_with_itself(flat, jnp.asarray(x), True)
        variances = [np.asarray(v) for v in recorded]
        both = _everywhere(program, flat, x, x, variances, np.array(exact), threads)
        walk = Pass(lead=1, want_ntk=True)
        after = walk.run(program.tail, _where_axes_end(program, both))
        variances += [np.asarray(v) for v in walk.recorded]
        return np.array(after[0]), np.array(after[1]), variances


def each_with_opposite(
    architecture: Layer, x: np.ndarray, variances: Sequence[np.ndarray], threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What ``recursion.each_with_opposite`` gives, from the variances of ``each_with_itself``."""
    program = program_for(architecture, x.shape[1:], DOUBLE)
    flat = Serial((program.head, Flatten()))
    done = len(program.statistics)
    with jax.enable_x64(True):
        exact = np.array(recursion.each_with_opposite(flat, jnp.asarray(x), True))
        both = _everywhere(program, flat, x, -x, variances[:done], exact, threads)
        rest = [jnp.asarray(v) for v in variances[done:]]
        walk = Pass(lead=1, want_ntk=True, variances=zip(rest, rest, strict=True))
        after = walk.run(program.tail, _where_axes_end(program, both))
        return np.array(after[0]), np.array(after[1])


def _where_axes_end(program: Program, both: np.ndarray) -> KernelState:
    return KernelState(jnp.asarray(both[0]), jnp.asarray(both[1]), (), program.channels, False)


def _everywhere(
    program: Program,
    flat: Layer,
    x1: np.ndarray,
    x2: np.ndarray,
    variances: Sequence[np.ndarray],
    exact: np.ndarray,
    threads: int,
) -> np.ndarray:
    """Both kernels of each pair of rows where the spatial axes end, given those at displacement 0.

    Parameters
    ----------
    program, flat
        That of the architecture; and the layers before its pooling, flattened.
    x1, x2 : (n, ..., channels)
        Samples whose variances are the same.
    variances : list of (n, ...)
        Those before the pooling.
    exact : (2, n)
        What ``flat`` makes of the pairs.
    threads
        How many to use.
    """
    at_zero = program_for(flat, x1.shape[1:], DOUBLE)
    share = program.share / at_zero.share

    def displaced(i: int) -> np.ndarray:
        one, other = x1[i : i + 1], x2[i : i + 1]
        v = [each[i : i + 1] for each in variances]
        everything, here = (
            np.array(spatial_part(each, one, other, v, v, DOUBLE, threads=1))[:, 0, 0]
            for each in (program, at_zero)
        )
        difference: np.ndarray = everything - share * here
        return difference

    with ThreadPoolExecutor(threads) as pool:
        others = np.array(list(pool.map(displaced, range(len(x1))))).reshape(len(x1), 2)
    both: np.ndarray = others.T + share * exact
    return both
