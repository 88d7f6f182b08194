"""What an engine adds to a block: the same task in this process, on Dask and on Ray.

    python benchmarks/bench_overhead.py [--engines dask ray] [--features 784 3072] [--repeats 5]

A fully connected ReLU network of three hidden layers, blocks of 2048 x 2048 in float32. Every turn
computes the same blocks once in this process and once through one worker of each engine, which has
as many threads; ratios are those of one turn. Blocks must be the same bit by bit.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cases import dense_relu, samples
from machine import describe_machine

from ntk_dist.executors import AbstractExecutor, make_executor
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.gram import gram_task
from ntk_dist.settings import get_settings
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.workspace import Workspace
from ntk_dist.tasks import BlockRecord, GramTask

DEPTH = 3
PARTS = 4
"""Ranges of rows: six blocks above the diagonal, three of them in one band."""


@dataclass(frozen=True)
class Turn:
    """Milliseconds of one block, and of what they are made."""

    wall: float
    read: float
    compute: float
    write: float

    @classmethod
    def of(cls, wall_s: float, records: Sequence[BlockRecord]) -> Turn:
        """From the seconds of all blocks, and what their tasks said."""
        parts = [
            (one.read_s, one.seconds - one.read_s - one.write_s, one.write_s) for one in records
        ]
        read, compute, write = (1e3 * sum(part) / len(records) for part in zip(*parts, strict=True))
        return cls(1e3 * wall_s / len(records), read, compute, write)

    @property
    def engine(self) -> float:
        """Everything around the task."""
        return self.wall - self.read - self.compute - self.write


def prepared(folder: str, features: int, block_rows: int) -> GramTask:
    """The task of a Gram matrix whose rows and statistics are in a workspace."""
    workspace = Workspace(folder)
    kernel = Kernel(dense_relu(DEPTH).layer)
    x = samples(np.random.default_rng(0), PARTS * block_rows, (features,))
    rows = workspace.rows(x)
    manifest = Manifest(
        architecture=kernel.fingerprint,
        data_rows=rows.fingerprint,
        data_cols=rows.fingerprint,
        n_rows=len(rows),
        n_cols=len(rows),
        block_rows=block_rows,
        symmetric=True,
        kernels=kernel.kernels,
        dtype=kernel.dtype.name,
        device_kind=device_kind(),
    )
    task = gram_task(kernel, rows, workspace.gram(manifest), get_settings())
    task.statistics.read(slice(0, len(rows)))
    return task


def take_turns(
    task: GramTask, blocks: Sequence[BlockIndex], engines: dict[str, AbstractExecutor], repeats: int
) -> dict[str, list[Turn]]:
    """Turns of everybody, the first of which, where programs are compiled, does not count."""

    def in_process() -> list[BlockRecord]:
        return [task(index) for index in blocks]

    def through(executor: AbstractExecutor) -> Callable[[], list[BlockRecord]]:
        return lambda: [record for _, record in executor.map_unordered(task, blocks)]

    runs = {"in process": in_process} | {name: through(one) for name, one in engines.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in runs}
    expected = None
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            records = run()
            wall = time.perf_counter() - start
            found = [task.store.read("ntk", index).tobytes() for index in blocks]
            expected = expected or found
            assert found == expected, f"{name}: blocks differ"
            for index in blocks:
                task.store.delete(index)
            if turn:
                turns[name].append(Turn.of(wall, records))
    return turns


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="*", choices=("dask", "ray"), default=["dask", "ray"])
    parser.add_argument("--features", nargs="+", type=int, default=[784, 3072])
    parser.add_argument("--block-rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(describe_machine(get_settings().threads))
    columns = ("block, ms", "rows", "compute", "store", "engine", "ratio: min / median / max")
    print(f"| features | where | {' | '.join(columns)} |")
    print("|---" * (2 + len(columns)) + "|")
    for features in options.features:
        with tempfile.TemporaryDirectory() as folder:
            task = prepared(folder, features, options.block_rows)
            blocks = [index for index in task.store.grid if index.i < index.j]
            engines = {name: make_executor(f"{name}:1") for name in options.engines}
            try:
                turns = take_turns(task, blocks, engines, options.repeats)
            finally:
                for executor in engines.values():
                    executor.close()
        alone = [turn.wall for turn in turns["in process"]]
        for name, those in turns.items():
            parts = ("wall", "read", "compute", "write", "engine")
            medians = [statistics.median(getattr(turn, part) for turn in those) for part in parts]
            ratios = sorted(turn.wall / mine for turn, mine in zip(those, alone, strict=True))
            spread = f"{ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}"
            cells = " | ".join(f"{value:.1f}" for value in medians)
            print(f"| {features} | {name} | {cells} | {spread if name in engines else '-'} |")
    print("all checks held")


if __name__ == "__main__":
    main()
