"""The displacement-by-displacement recursion written in JAX, against the fused CPU engine.

    python benchmarks/bench_jax.py [--side 32] [--pairs 64] [--repeats 3]

Why the engine is not written in JAX: the same algorithm (planes of one displacement, pairs
innermost, everything up to the final sum in one compiled loop), for a number of 3x3 convolutions
and ReLUs with global average pooling. Answers are compared first.
"""

from __future__ import annotations

import argparse
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from peers.serving import timed

from ntk_dist import stax
from ntk_dist.kernels.arc_cosine import LIFT, TURN
from ntk_dist.kernels.dispatch import Kernel

DEPTH, W_STD, B_STD = 4, 2**0.5, 0.1
LARGEST_ERROR = 1e-4
"""Here all sums over positions are in float32, where the engine's are in float64."""


def main() -> None:
    """Print both rates and their ratio; fail if the answers differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="pixels of an image's side")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    conv = stax.Conv(1, (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD)
    network = stax.serial(*[stax.serial(conv, stax.Relu())] * DEPTH, stax.GlobalAvgPool())
    kernel = Kernel(network.layer, ("nngp", "ntk"), "float32")
    x = np.random.default_rng(0).standard_normal((1 + options.pairs, *[options.side] * 2, 3))
    known = kernel.statistics(x)
    x1, x2, s1, s2 = x[:1], x[1:], known[:1], known[1:]

    def planes() -> np.ndarray:
        rest = [jnp.asarray(v, jnp.float32) for v in s2.variances]
        own = [jnp.asarray(v, jnp.float32) for v in s1.variances]
        left, right = jnp.asarray(x1, jnp.float32), jnp.asarray(x2, jnp.float32)
        return np.asarray(ntk_by_displacements(left[0], right, [v[0] for v in own], rest))

    def engine() -> np.ndarray:
        return kernel.block(x1, x2, s1, s2)["ntk"][0]

    error = float(np.abs(planes() / engine() - 1).max())  # and both are compiled
    if not error <= LARGEST_ERROR:
        raise SystemExit(f"CHECK FAILED: answers differ by {error:.1e}")
    turns = [(timed(engine)[0], timed(planes)[0]) for _ in range(options.repeats)]
    ratios = sorted(slow / fast for fast, slow in turns)
    for name, index in (("fused engine", 0), ("planes in JAX", 1)):
        rates = [options.pairs / each[index] for each in turns]
        print(f"{name:<14} {statistics.median(rates):9.1f} pairs/s")
    print(
        f"ratio {ratios[0]:.1f} / {statistics.median(ratios):.1f} / {ratios[-1]:.1f}, "
        f"answers differ by {error:.1e}\nall checks held"
    )


@jax.jit
def ntk_by_displacements(
    x1: Array, x2: Array, variances1: list[Array], variances2: list[Array]
) -> Array:
    """The NTK of one image with others, summed over displacements: (n,).

    Parameters
    ----------
    x1 : (side, side, channels)
        An image.
    x2 : (n, side, side, channels)
        The others.
    variances1, variances2 : (side, side) and (n, side, side)
        One before each ReLU.
    """
    side = x1.shape[0]
    own = [jnp.sqrt(v)[:, :, None] for v in variances1]
    # Pairs innermost; a border of zeros, so that a displaced image is one slice.
    border = ((side - 1, side - 1), (side - 1, side - 1))
    others = [jnp.pad(jnp.sqrt(v).transpose(1, 2, 0), (*border, (0, 0))) for v in variances2]
    images = jnp.pad(x2.transpose(1, 2, 3, 0), (*border, (0, 0), (0, 0)))

    def one(carry: Array, displacement: Array) -> tuple[Array, None]:
        dy, dx = displacement[0], displacement[1]
        start = (side - 1 - dy, side - 1 - dx)
        there = lax.dynamic_slice(images, (*start, 0, 0), (side, side, *images.shape[2:]))
        q = jnp.einsum("yxc,yxcn->yxn", x1, there) / x1.shape[-1]
        rows, columns = jnp.arange(side) - dy, jnp.arange(side) - dx
        inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))
        k = jnp.zeros_like(q)
        for layer in range(DEPTH):
            q = W_STD**2 * box(q) + B_STD**2
            k = q + W_STD**2 * box(k)
            size = own[layer] * lax.dynamic_slice(
                others[layer], (*start, 0), (side, side, q.shape[2])
            )
            c = jnp.clip(q / jnp.where(size > 0, size, 1), -1, 1)
            gap = 1 - jnp.abs(c)
            root = jnp.sqrt(gap)
            bend = root * polynomial(TURN[32], gap)
            slope = jnp.where(c < 0, bend, 0.5 - bend)
            q = size * (gap * root * polynomial(LIFT[32], gap) + jnp.maximum(c, 0) / 2)
            q, k = (jnp.where(inside[:, :, None], a, 0) for a in (q, slope * k))
        return carry + k.sum((0, 1)), None

    steps = jnp.arange(1 - side, side)
    displacements = jnp.stack(jnp.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    total, _ = lax.scan(one, jnp.zeros(x2.shape[0], x1.dtype), displacements)
    return total / side**4


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Its value, by Horner's rule."""
    value = jnp.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def box(a: Array) -> Array:
    """The mean over 3 x 3 neighbours, zeros beyond the edge."""
    a = jnp.pad(a, ((1, 1), (0, 0), (0, 0)))
    a = a[:-2] + a[1:-1] + a[2:]
    a = jnp.pad(a, ((0, 0), (1, 1), (0, 0)))
    return (a[:, :-2] + a[:, 1:-1] + a[:, 2:]) / 9


if __name__ == "__main__":
    main()
