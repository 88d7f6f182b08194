"""Errors of every fast path by depth, against the recursion in float64.

    python benchmarks/bench_accuracy.py [--images cifar10.npz] [--neural-tangents PYTHON]

Each number is the largest relative error of the NTK's entries between two sets of samples. Both
precisions, and the peer, see the same samples, which float32 holds exactly. Errors beyond what is
promised are marked, and the run fails.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from cases import FEATURES, cntk, dense_relu, reference, relative_error, samples
from machine import describe_machine, keep_to_threads
from peer import Peer

from ntk_dist import stax
from ntk_dist.kernels.dispatch import DTYPES, Kernel
from ntk_dist.settings import get_settings
from ntk_dist.stax import Network

DENSE_DEPTHS = (1, 2, 4, 8, 16, 30)
CONV_DEPTHS = (1, 2, 4, 10, 20)
APART = 1e-4
"""Relative distance of the samples that are close."""
PROMISED = {
    "normal": {"float32": 1e-6, "float64": 1e-12},
    "1e-4 apart": {"float32": 2e-5, "float64": 1e-9},
    "images": {"float32": 1e-5, "float64": 1e-12},
}
"""In float64 the second is wide because two packages differ by 2e-10 where samples are close."""
FAMILIES: dict[str, tuple[Callable[[int], Network], tuple[int, ...], int]] = {
    "FC": (dense_relu, DENSE_DEPTHS, 200),
    "CNTK, GAP": (lambda depth: cntk(depth, stax.GlobalAvgPool()), CONV_DEPTHS, 4),
    "CNTK, Flatten": (lambda depth: cntk(depth, stax.Flatten()), CONV_DEPTHS, 32),
}
"""Networks by depth, depths, and how many samples there are of either set."""


@dataclass(frozen=True)
class Line:
    """Networks of one kind on one kind of samples."""

    family: str
    inputs: str
    x1: np.ndarray
    x2: np.ndarray


def lines(side: int, images: np.ndarray | None) -> Iterator[Line]:
    """What the table has, for images of so many pixels a side."""
    rng = np.random.default_rng(0)
    for family, (_, _, n) in FAMILIES.items():
        flat = family == "FC"
        shape = (FEATURES,) if flat else (side, side, 3)
        x1 = samples(rng, n, shape)
        yield Line(family, "normal", x1, samples(rng, n, shape))
        if flat:
            yield Line(family, "1e-4 apart", x1, x1 + APART * samples(rng, n, shape))
        if images is not None:
            some = images[: 2 * n] if flat else images[: 2 * n, :side, :side]
            some = some.reshape(len(some), -1) if flat else some
            yield Line(family, "images", some[: len(some) // 2], some[len(some) // 2 :])


def measure(
    line: Line, depth: int, peers: dict[str, Peer]
) -> tuple[dict[str, float], dict[str, float]]:
    """Errors of this package and of the peer, by dtype."""
    network = FAMILIES[line.family][0](depth)
    exact = reference(network, line.x1, line.x2)
    ours = {dtype: relative_error(_ntk(network, line, dtype), exact) for dtype in DTYPES}
    request = {"architecture": network.to_json()}
    theirs = {
        dtype: relative_error(peer.block(request, line.x1, line.x2, len(line.x1)).ntk, exact)
        for dtype, peer in peers.items()
    }
    return ours, theirs


def _ntk(network: Network, line: Line, dtype: str) -> np.ndarray:
    kernel = Kernel(network.layer, ("ntk",), dtype)
    return kernel.block(line.x1.astype(dtype), line.x2.astype(dtype))["ntk"]


def main() -> int:
    """Print a table; 0 if every error is what was promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=16, help="pixels of an image's side")
    parser.add_argument("--depths", type=int, nargs="+", help="in place of all others")
    parser.add_argument("--images", help=".npz file with images x_train, 0 to 255")
    parser.add_argument("--neural-tangents", help="an interpreter that has neural-tangents")
    options = parser.parse_args()
    keep_to_threads(get_settings().threads)
    images = None
    if options.images:
        with np.load(options.images) as archive:
            images = archive["x_train"][:400].astype(np.float32) / 255
    print(describe_machine(get_settings().threads))
    dtypes = DTYPES if options.neural_tangents else ()
    names = [*DTYPES, *(f"neural-tangents {dtype}" for dtype in dtypes)]
    print(f"\n| network | samples | depth | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    good = True
    with contextlib.ExitStack() as stack:
        peers = {
            dtype: stack.enter_context(Peer("neural-tangents", options.neural_tangents, dtype))
            for dtype in dtypes
        }
        for line in lines(options.side, images):
            for depth in options.depths or FAMILIES[line.family][1]:
                ours, theirs = measure(line, depth, peers)
                held = {dtype: ours[dtype] <= PROMISED[line.inputs][dtype] for dtype in DTYPES}
                good &= all(held.values())
                cells = [f"{ours[dtype]:.1e}{'' if held[dtype] else ' !'}" for dtype in DTYPES]
                cells += [f"{error:.1e}" for error in theirs.values()]
                print(
                    f"| {line.family} | {line.inputs} | {depth} | {' | '.join(cells)} |", flush=True
                )
    print("all checks held" if good else "CHECK FAILED: errors marked ! are beyond the promise")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
