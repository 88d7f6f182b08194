"""The table of sizes in README.md: what data sets take, as `ntk-dist gram JOB --plan` projects it.

    python deploy/sizing.py

For each line it is the same as

    ntk-dist gram JOB --plan --workers WORKERS --n ROWS --worker-memory MEMORY

on a job with images of 32 x 32 x 3. Sizes are arithmetic, the same everywhere. The command also
says how long each phase takes on workers like the machine it runs on; the one time in the table is
from the rates that benchmarks/README.md has for two cores with nothing else to do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from ntk_dist import stax
from ntk_dist.gram.simulation import Simulation
from ntk_dist.jobs.simulate import Scale, simulate_job
from ntk_dist.jobs.spec import JobSpec, load_job
from ntk_dist.stax import Network
from ntk_dist.units import format_bytes, format_seconds

SHAPE = (32, 32, 3)
TRIAL_ROWS = 64
"""Of the data set that the job names: only its shape matters."""
WORKER_MEMORY = 32 * 2**30
"""For blocks of one worker: at a million rows 64 workers hold them all."""
SCALES: Mapping[str, Sequence[tuple[int, int]]] = {
    "FC": ((10_000, 1), (50_000, 4), (200_000, 16), (1_000_000, 64)),
    "CNTK": ((10_000, 16), (50_000, 64), (200_000, 256), (1_000_000, 1024)),
}
"""Rows, and workers that make sense of them, by network."""
RATES = {"FC": 50_000**2 / 2 / 80, "CNTK": 376.0}
"""Entries a second of one worker with two cores: 50,000 rows of CIFAR-10 took 80 s, stored; and
four convolutions with global average pooling, float32."""
HEAD = (
    "network", "rows", "workers", "`block_rows`", "blocks", "workspace", "memory of a worker",
    "of it, blocks", "memory of the driver", "Gram matrix",
)  # fmt: skip


def networks() -> dict[str, Network]:
    """Three hidden layers, and four convolutions with global average pooling."""
    weights = {"W_std": 2**0.5, "b_std": 0.1}
    dense = stax.serial(stax.Dense(1, **weights), stax.Relu())
    conv = stax.serial(stax.Conv(1, (3, 3), padding="SAME", **weights), stax.Relu())
    return {
        "FC": stax.serial(stax.Flatten(), *[dense] * 3, stax.Dense(1)),
        "CNTK": stax.serial(*[conv] * 4, stax.GlobalAvgPool(), stax.Dense(1)),
    }


def make_job(network: Network, folder: Path) -> JobSpec:
    """A job whose data set is a few rows of noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TRIAL_ROWS, *SHAPE), np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(TRIAL_ROWS) % 10)
    record = {
        "name": "sizing",
        "task": "classification",
        "data": {"x": "data.npz:x", "y": "data.npz:y"},
        "architecture": json.loads(network.to_json()),
        "workspace": "ws",
    }
    (folder / "job.json").write_text(json.dumps(record), encoding="utf-8")
    return load_job(folder / "job.json")


def simulations(name: str, scales: Sequence[tuple[int, int]]) -> Iterator[Simulation]:
    """One network at some scales."""
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(networks()[name], Path(folder))
        for rows, workers in scales:
            scale = Scale(workers=workers, n_rows=rows, worker_memory=WORKER_MEMORY)
            yield simulate_job(job, scale)


def line(name: str, simulation: Simulation) -> list[str]:
    """One line of the table."""
    grid = simulation.plan.grid
    workers = simulation.cluster.n_workers
    resident = simulation.share_bytes * simulation.resident_share
    return [
        name,
        f"{grid.n_rows:,}",
        f"{workers:,}",
        f"{grid.block_rows:,}",
        f"{grid.n_blocks:,}",
        format_bytes(simulation.disk_bytes),
        format_bytes(simulation.worker_bytes),
        format_bytes(resident),
        format_bytes(simulation.driver_bytes),
        format_seconds(grid.n_rows**2 / 2 / (RATES[name] * workers)),
    ]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *lines))


if __name__ == "__main__":
    table = [line(name, one) for name, at in SCALES.items() for one in simulations(name, at)]
    click.echo(markdown(table))
