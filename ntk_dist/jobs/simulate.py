"""A job on a cluster that is not there, on paper, from rates that are measured here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntk_dist.errors import InvalidInputError
from ntk_dist.gram.cut import working_bytes
from ntk_dist.gram.grid import BlockGrid
from ntk_dist.gram.plan import default_block_rows
from ntk_dist.gram.shard import GramShard
from ntk_dist.gram.simulation import Cluster, Simulation, Work, simulate
from ntk_dist.jobs.runner import job_network, plan_job
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.settings import SHARD_BYTES_ELSEWHERE, get_settings
from ntk_dist.solver.low_rank import affordable_rank, building_bytes
from ntk_dist.solver.preconditioners import LOW_RANK_PRECONDITIONERS
from ntk_dist.store.dataset import fingerprint
from ntk_dist.store.repeats import collapse

__all__ = ["LINK_RATE", "READ_RATE", "Scale", "hash_rate", "product_rate", "simulate_job"]

READ_RATE = 10**9
"""Bytes a second from object storage to one worker, unless told otherwise."""
LINK_RATE = 1_250_000_000
"""Bytes a second between two machines, unless told otherwise: ten gigabits."""
TRIAL_ROWS = 2048
"""Of the block that products are measured on: 16 MB of float32, more than fits most caches."""
TRIAL_BYTES = 4 * 2**20
"""Of the rows that hashing is measured on."""
TRIAL_TARGETS = 256
"""Of a product that is measured, at most; beyond them time goes with their number, and memory too:
so many vectors of twice the rows are 8 MB."""
DRIVER_ROWS = 1024
"""Of the matrices that the driver's arithmetic is measured on."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the cluster would have, and what would be asked of it; sizes are in bytes."""

    workers: int
    n_rows: int | None = None
    """None: as many as the job has."""
    targets: int = 10
    steps: int = 100
    predictions: int = 10_000
    """New rows."""
    worker_memory: int | None = None
    """Blocks that one worker keeps; None: ``NTK_DIST_SHARD_MAX_BYTES``, or what workers of other
    machines have without it."""
    read_rate: int = READ_RATE
    link_rate: int = LINK_RATE


def simulate_job(job: JobSpec, scale: Scale) -> Simulation:
    """The phases of ``job`` on workers like this machine, each as fast as this process.

    Raises
    ------
    InvalidInputError
        One pair of samples is too large to measure anything with.
    """
    plan, projection, _ = plan_job(job)
    if projection.entries_per_s is None or projection.statistics_s is None:
        raise InvalidInputError(
            "--workers: expected a network whose entries can be timed here, got one of which a "
            "single pair is too large; raise NTK_DIST_BLOCK_MAX_BYTES"
        )
    settings = get_settings()
    n = scale.n_rows or plan.grid.n_rows
    block_rows = min(n, job.gram.block_rows or default_block_rows(n, plan.flops_per_pair))
    kernel = Kernel(job_network(job).layer, (job.kernel,), job.gram.dtype)
    plan = replace(
        plan,
        grid=BlockGrid(n, n, block_rows, symmetric=True),
        missing=(),
        working_bytes=working_bytes(kernel, plan.input_shape, block_rows, settings.block_max_bytes),
        missing_statistics=n,
    )
    dtype = np.dtype(job.gram.dtype)
    preconditioner, rank = job.solver.preconditioner, 0
    if preconditioner.type in LOW_RANK_PRECONDITIONERS:
        wanted, most = preconditioner.rank, settings.preconditioner_max_bytes
        rank = affordable_rank(n, most, dtype) if wanted == "auto" else min(n, wanted)
    resident = scale.worker_memory
    if resident is None:
        resident = settings.shard_max_bytes or SHARD_BYTES_ELSEWHERE
    cluster = Cluster(
        n_workers=scale.workers,
        resident_bytes=resident,
        read_rate=scale.read_rate,
        link_rate=scale.link_rate,
        hash_rate=hash_rate(plan.input_shape, dtype),
        entries_per_s=projection.entries_per_s,
        statistics_s=projection.statistics_s,
        product_rate=product_rate(scale.targets, job.gram.dtype),
        driver_flops=_driver_flops(),
    )
    work = Work(
        n_targets=scale.targets,
        rank=rank,
        building_bytes=building_bytes(n, rank, dtype) if rank else 0,
        steps=scale.steps,
        predictions=scale.predictions,
    )
    return simulate(plan, cluster, work)


def product_rate(n_targets: int, dtype: str) -> float:
    """Bytes a second of a block in memory that a shard multiplies by, and by its transpose."""
    rng = np.random.default_rng(0)
    grid = BlockGrid(2 * TRIAL_ROWS, 2 * TRIAL_ROWS, TRIAL_ROWS, symmetric=True)
    block = rng.random((TRIAL_ROWS, TRIAL_ROWS), np.float32).astype(dtype)
    shard = GramShard(lambda index: block, grid, [next(b for b in grid if b.i < b.j)], block.nbytes)
    measured = min(n_targets, TRIAL_TARGETS)
    v = rng.standard_normal((grid.n_rows, measured))
    return block.nbytes / _seconds(lambda: shard.matmat(v)) * measured / n_targets


def hash_rate(input_shape: tuple[int, ...], dtype: np.dtype[Any]) -> float:
    """Bytes of such rows a second that are hashed as a fit does.

    Each row by itself, to find those that are equal, and all of them for the data set's name.
    """
    n = max(1, TRIAL_BYTES // (math.prod(input_shape) * dtype.itemsize))
    x = np.random.default_rng(0).random((n, *input_shape), np.float32).astype(dtype)
    return x.nbytes / _seconds(lambda: (collapse(x), fingerprint(x)))


def _driver_flops() -> float:
    a = np.random.default_rng(0).standard_normal((DRIVER_ROWS, DRIVER_ROWS))
    return 2 * DRIVER_ROWS**3 / _seconds(lambda: a @ a)


def _seconds(call: Callable[[], object]) -> float:
    """The better of two runs, once everything is compiled and in memory."""
    call()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
