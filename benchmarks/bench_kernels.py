"""Pairs a second of the fused engine against the reference recursion, answers compared first.

    python benchmarks/bench_kernels.py [--side 32] [--pairs 1024] [--repeats 3]

Statistics of the samples are computed before; they have a column of their own, in milliseconds
per sample. The engine takes a block of ``--pairs`` pairs, the recursion a few of the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist import stax
from ntk_dist.kernels import recursion
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.statistics import Statistics
from ntk_dist.settings import get_settings
from ntk_dist.stax import Network

LARGEST_ERROR = {"float32": 1e-5, "float64": 1e-12}


def conv() -> Network:
    """A 3x3 convolution and a ReLU."""
    affine = stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1)
    return stax.serial(affine, stax.Relu())


def pool() -> Network:
    """The mean over squares of four pixels."""
    return stax.AvgPool((2, 2), (2, 2))


NETWORKS = {
    "CNTK-GAP, 4 conv": ([conv()] * 4 + [stax.GlobalAvgPool()], 2),
    "Myrtle-5": (
        [conv(), conv(), pool(), conv(), pool(), conv(), pool(), stax.GlobalAvgPool()],
        2,
    ),
    "4 conv, Flatten": ([conv()] * 4 + [stax.Flatten()], 512),
}
"""Layers, and how many pairs the recursion is given."""


def main() -> None:
    """Print a table; fail if any answer is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="pixels of an image's side")
    parser.add_argument("--pairs", type=int, default=1024, help="of a block of the engine")
    parser.add_argument("--repeats", type=int, default=3, help="runs of either, in turn")
    options = parser.parse_args()
    shape = (options.side, options.side, 3)
    threads = get_settings().threads
    print(f"{options.side} x {options.side} x 3, {threads} threads, {options.repeats} repeats")
    print(
        f"{'network':<18} {'dtype':<8} {'error':>8} {'fused/s':>9} {'recursion/s':>12} "
        f"{'stat. ms':>9}   ratio"
    )
    for name, (layers, few) in NETWORKS.items():
        network = stax.serial(*layers, stax.Dense(1))
        for dtype in LARGEST_ERROR:
            measure(name, network, shape, dtype, options.pairs, few, options.repeats)
    print("all checks held")


def measure(
    name: str,
    network: Network,
    shape: tuple[int, ...],
    dtype: str,
    pairs: int,
    few: int,
    repeats: int,
) -> None:
    """One line of the table."""
    kernel = Kernel(network.layer, ("nngp", "ntk"), dtype)
    if not kernel.path(shape, "cpu").fused:
        raise SystemExit(f"{name}: {kernel.path(shape, 'cpu').explanation}")
    n1 = 16
    n2, few = -(-pairs // n1), min(few, pairs)
    rng = np.random.default_rng(0)
    distinct = min(n2, 16)  # only the times of the others matter, not their values
    x = rng.standard_normal((n1 + distinct, *shape))
    parts = [kernel.statistics(x[i : i + 4]) for i in range(0, len(x), 4)]
    known = Statistics.concatenate(parts)
    sample_ms = 1e3 * seconds(lambda: kernel.statistics(x[:4])) / 4
    rows = np.arange(n1)
    columns = n1 + np.arange(n2) % distinct
    few1 = min(n1, few)
    few2 = -(-few // few1)
    x1, x2, s1, s2 = x[rows], x[columns], known[rows], known[columns]

    def fused() -> dict[str, np.ndarray]:
        return kernel.block(x1, x2, s1, s2)

    def reference() -> dict[str, np.ndarray]:
        with jax.enable_x64(True):
            left, right = (list(map(jnp.asarray, s.variances)) for s in (s1[:few1], s2[:few2]))
            a, b = jnp.asarray(x1[:few1]), jnp.asarray(x2[:few2])
            both = recursion.all_pairs(network.layer, a, b, left, right, True)
            return dict(zip(("nngp", "ntk"), map(np.asarray, both), strict=True))

    ours, theirs = fused(), reference()  # and everything is compiled
    error = max(float(np.abs(ours[k][:few1, :few2] / theirs[k] - 1).max()) for k in kernel.kernels)
    if error > LARGEST_ERROR[dtype]:
        raise SystemExit(f"{name}, {dtype}: relative error {error:.1e}")
    rates = []
    for _ in range(repeats):
        rates.append((n1 * n2 / seconds(fused), few1 * few2 / seconds(reference)))
    ratios = sorted(a / b for a, b in rates)
    fast, slow = (statistics.median(rate) for rate in zip(*rates, strict=True))
    print(
        f"{name:<18} {dtype:<8} {error:8.1e} {fast:9.1f} {slow:12.2f} {sample_ms:9.1f}   "
        f"{ratios[0]:.1f} / {statistics.median(ratios):.1f} / {ratios[-1]:.1f}",
        flush=True,
    )


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
