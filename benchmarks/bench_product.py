"""The product with a stored Gram matrix: from memory against BLAS and reading, from disk too.

    python benchmarks/bench_product.py [--targets 1 10 100] [--folder DISK] [--json FILE]

Answers are compared with NumPy in float64 first, and the run fails if any is off. Then everybody
takes turns, ``--repeats`` times; rates are bytes of blocks per second, and ratios are those of one
turn. Where files are read from the disk and not from memory, the system is told to forget them
before every turn.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, keep_to_threads
from peers.serving import timed

from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.gram.product import multiply
from ntk_dist.gram.read_ahead import READERS
from ntk_dist.gram.shard import MOST_STREAMED, GramShard
from ntk_dist.kernels.threads import in_threads
from ntk_dist.settings import get_settings
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.zarr import ZarrBlockStore

LARGEST_ERROR = 1e-13
"""Of a product in float64, as a part of the sum of the absolute values of its terms."""
KEEP_ALL = 2**50
Blocks = dict[BlockIndex, np.ndarray]


class Memory:
    """Blocks of one matrix in memory, and everybody who reads them."""

    def __init__(self, per_side: int, block_rows: int, threads: int) -> None:
        n = per_side * block_rows
        self.grid = BlockGrid(n, n, block_rows, symmetric=True)
        self.threads = threads
        rng = np.random.default_rng(0)
        self.blocks: Blocks = {
            index: rng.standard_normal(self.grid.block_shape(index), dtype=np.float32)
            for index in self.grid
        }
        self.n_bytes = sum(block.nbytes for block in self.blocks.values())
        self.shard = GramShard(self.blocks.__getitem__, self.grid, list(self.grid), KEEP_ALL)

    def read(self) -> None:
        """One look at every byte, by all threads."""

        def work(pieces: Iterator[np.ndarray]) -> None:
            for piece in pieces:
                piece.view(np.uint64).max()

        in_threads(self.threads, work, iter(self.blocks.values()))

    def sgemm(self, v: np.ndarray) -> None:
        """Two products by BLAS for every block, in float32."""
        for index, block in self.blocks.items():
            np.matmul(block, v[self.grid.cols(index)])
            np.matmul(block.T, v[self.grid.rows(index)])

    def each(self, v: np.ndarray) -> None:
        """Both products of every block, one block after another."""
        for index, block in self.blocks.items():
            multiply(block, v[self.grid.cols(index)], v[self.grid.rows(index)], self.threads)

    def check(self, targets: int) -> float:
        """The largest error of both products of one block."""
        rng = np.random.default_rng(targets)
        block = next(iter(self.blocks.values()))
        v, u = (rng.standard_normal((len(block), targets)) for _ in range(2))
        wide = block.astype(np.float64)
        return max(
            float((np.abs(got - a @ b) / (np.abs(a) @ np.abs(b))).max())
            for got, a, b in zip(
                multiply(block, v, u, self.threads), (wide, wide.T), (v, u), strict=True
            )
        )


class Disk:
    """The same blocks in a store, and everybody who reads its files."""

    def __init__(self, memory: Memory, folder: Path) -> None:
        self.memory = memory
        n = memory.grid.n_rows
        manifest = Manifest(
            architecture="none",
            data_rows="none",
            data_cols="none",
            n_rows=n,
            n_cols=n,
            block_rows=memory.grid.block_rows,
            symmetric=True,
            kernels=("ntk",),
            dtype="float32",
            device_kind="cpu",
        )
        self.store = ZarrBlockStore.create_or_open(folder / "gram", manifest)
        for index, block in memory.blocks.items():
            self.store.write(index, {"ntk": block})
        self.files = [folder / "gram" / "ntk" / "c" / str(i) / str(j) for i, j in memory.grid]
        for path in self.files:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        read = functools.partial(self.store.read, "ntk")
        self.shard = GramShard(read, memory.grid, list(memory.grid), 0)
        # As many on their way as with a budget that this matrix does not fit.
        self.shard.streamed_blocks = MOST_STREAMED

    def forget(self) -> None:
        """Drop the files from memory."""
        for path in self.files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, readers: int) -> None:
        """One file after another into the same memory, as ``dd`` does."""
        place = threading.local()

        def one(path: Path) -> None:
            if not hasattr(place, "buffer"):
                place.buffer = bytearray(path.stat().st_size)
            with path.open("rb", buffering=0) as file:
                while file.readinto(place.buffer):
                    pass

        with ThreadPoolExecutor(readers) as pool:
            list(pool.map(one, self.files))


def turns(
    calls: dict[str, Callable[[], Any]], n_bytes: int, repeats: int, seconds: Callable[..., float]
) -> dict[str, list[float]]:
    """GB/s of everybody, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            rates[name].append(n_bytes / seconds(call) / 1e9)
    return rates


def from_memory(memory: Memory, targets: int, repeats: int) -> dict[str, list[float]]:
    """Rates of one line of the first table."""
    v = np.random.default_rng(1).standard_normal((memory.grid.n_rows, targets))
    single = v.astype(np.float32)
    calls = {
        "reading": memory.read,
        "sgemm": lambda: memory.sgemm(single),
        "blocks": lambda: memory.each(v),
        "shard": lambda: memory.shard.matmat(v),
    }
    memory.shard.matmat(v)  # all is resident, and compiled
    return turns(calls, memory.n_bytes, repeats, lambda call: timed(call)[0])


def from_disk(disk: Disk, cold: bool, targets: int, repeats: int) -> dict[str, list[float]]:
    """Rates of one line of the second table."""
    v = np.random.default_rng(1).standard_normal((disk.memory.grid.n_rows, targets))
    calls = {
        "one": lambda: disk.read(1),
        "several": lambda: disk.read(READERS),
        "shard": lambda: disk.shard.matmat(v),
    }
    disk.shard.matmat(v)

    def seconds(call: Callable[[], Any]) -> float:
        if cold:
            disk.forget()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return turns(calls, disk.memory.n_bytes, repeats, seconds)


def spread(values: list[float], scale: float = 1.0) -> str:
    """The smallest, the median and the largest."""
    some = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{scale * value:.3g}" for value in some)


def ratio(rates: dict[str, list[float]], of: str, to: str, scale: float = 1.0) -> str:
    """The same of the ratios of one turn."""
    pairs = zip(rates[of], rates[to], strict=True)
    return spread([a / b for a, b in pairs], scale)


def main() -> None:
    """Print two tables; fail if any answer is off."""
    options = parse()
    threads = get_settings().threads
    keep_to_threads(threads)
    print(about := describe_machine(threads))
    memory = Memory(options.blocks, options.block_rows, threads)
    for targets in options.targets:
        error = memory.check(targets)
        if not error <= LARGEST_ERROR:
            raise SystemExit(f"CHECK FAILED: {targets} targets: off by {error:.1e}")
    print(
        f"\nFrom memory, {memory.n_bytes / 1e9:.2f} GB in blocks of {options.block_rows} rows, "
        "float32; GB/s as min / median / max\n\n| targets | reading | two sgemm | multiply | shard "
        "| multiply / sgemm | % of reading | shard / sgemm | % of reading |\n|" + "---|" * 9
    )
    record: dict[str, Any] = {"machine": about.splitlines(), "memory": {}, "disk": {}}
    for targets in options.targets:
        rates = from_memory(memory, targets, options.repeats)
        record["memory"][targets] = rates
        cells = [str(targets), *(spread(rates[n]) for n in ("reading", "sgemm", "blocks", "shard"))]
        for name in ("blocks", "shard"):
            cells += [ratio(rates, name, "sgemm"), ratio(rates, name, "reading", 100)]
        print(f"| {' | '.join(cells)} |", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        disk = Disk(memory, Path(folder))
        ones = np.ones((memory.grid.n_rows, 1))
        if not np.array_equal(disk.shard.matmat(ones), memory.shard.matmat(ones)):
            raise SystemExit("CHECK FAILED: blocks from the disk give another product")
        print(
            f"\nFrom a Zarr store; GB/s as min / median / max\n\n| files | targets | read by one | "
            f"read by {READERS} | shard | % of one | % of {READERS} |\n|" + "---|" * 7
        )
        for cold in (True, False) if hasattr(os, "posix_fadvise") else (False,):
            for targets in options.targets:
                rates = from_disk(disk, cold, targets, options.repeats)
                where = "disk" if cold else "page cache"
                record["disk"][f"{where}, {targets}"] = rates
                cells = [where, str(targets)]
                cells += [spread(rates[name]) for name in ("one", "several", "shard")]
                cells += [ratio(rates, "shard", name, 100) for name in ("one", "several")]
                print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1))
    print("all checks held")


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--blocks", type=int, default=8, help="on a side of the matrix")
    parser.add_argument("--block-rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5, help="turns of everybody")
    parser.add_argument("--folder", help="on the disk to be measured; default: where temporary is")
    parser.add_argument("--json", help="file for all the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
