"""How long a fresh process takes to its first block: the first one ever, and the ones after it.

    python benchmarks/bench_cold_start.py [--repeats 3] [--networks dense] [--places process dask]

Every network starts with empty caches: one process then compiles, and later ones find what it
left. Seconds are counted from the birth of the process, so they hold all imports. The blocks of
all processes are compared bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from ntk_dist import stax
from ntk_dist.executors import make_executor
from ntk_dist.gram.block import compute_block
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.store.workspace import Workspace

ROWS = 32


def network(name: str) -> tuple[stax.Network, tuple[int, ...]]:
    """An architecture, and the shape of its samples."""
    if name == "dense":
        dense = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu())
        return stax.serial(*[dense] * 4, stax.Dense(1)), (784,)
    # No engine takes filters that wrap round beside others that do not.
    paddings = ("SAME", "SAME") if name == "fused conv" else ("SAME", "CIRCULAR")
    convolutions = [
        stax.serial(stax.Conv(1, (3, 3), padding=p, W_std=2**0.5, b_std=0.1), stax.Relu())
        for p in paddings
    ]
    end = stax.GlobalAvgPool() if name == "fused conv" else stax.Flatten()
    return stax.serial(*convolutions, end, stax.Dense(1)), (8, 8, 3)


NAMES = ("dense", "fused conv", "reference conv")


def first_block(name: str, _: object = None) -> tuple[float, float, str]:
    """Seconds before it and of it, and a digest of one block, in this process."""
    born = psutil.Process().create_time()
    started = time.time()
    net, shape = network(name)
    kernel = Kernel(net.layer)
    assert kernel.choice(shape, "cpu").fused == (name != "reference conv"), name
    x = np.random.default_rng(0).normal(size=(2 * ROWS, *shape))
    block = compute_block(kernel, x[:ROWS], x[ROWS:], max_bytes=2**28)["ntk"]
    digest = hashlib.sha256(block.tobytes()).hexdigest()
    return started - born, time.time() - started, digest


def in_process(name: str, env: dict[str, str]) -> tuple[float, float, str]:
    """In a program of its own."""
    told = subprocess.run(
        [sys.executable, __file__, "--only", name],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    before, block, digest = json.loads(told.stdout)
    return before, block, digest


def in_worker(name: str, env: dict[str, str]) -> tuple[float, float, str]:
    """In a fresh Dask worker on this machine."""
    with make_executor("dask:1", env=env) as executor:
        ((_, answer),) = executor.map_unordered(partial(first_block, name), [0])
        return answer


PLACES = {"process": in_process, "dask": in_worker}


def main() -> None:
    """Print a table; fail if any block is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="processes after the first one")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(first_block(options.only)))
        return
    print(f"{'network':<16}{'where':<9}{'first, s':>10}{'later, s: median (min, max)':>32}")
    for name in options.networks:
        for place in options.places:
            with tempfile.TemporaryDirectory() as folder:
                env = Workspace(folder).worker_environment()
                env["NUMBA_CACHE_DIR"] = str(Path(folder, "numba"))
                runs = [PLACES[place](name, env) for _ in range(1 + options.repeats)]
            assert len({digest for _, _, digest in runs}) == 1, f"{name}: blocks differ"
            first, *later = (before + block for before, block, _ in runs)
            imports = np.median([before for before, _, _ in runs])
            spread = f"{np.median(later):.1f} ({min(later):.1f}, {max(later):.1f})"
            print(f"{name:<16}{place:<9}{first:>10.1f}{spread:>32}   imports {imports:.1f}")
    print("all checks held")


if __name__ == "__main__":
    main()
