"""What a Gram matrix, its products and its solution would take on a cluster, on paper.

Nothing is started: sizes follow from how the matrix is cut, seconds from rates that somebody
measured or named. A phase takes as long as the slower of what it computes and what it moves where
the two overlap, and their sum where they do not.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ntk_dist.errors import InvalidInputError
from ntk_dist.gram.plan import GramPlan, predict_rows

__all__ = ["Cluster", "Phase", "Simulation", "Work", "simulate"]

DOUBLE = 8
"""Bytes of a number in a vector."""
DRIVER_TASK_S = 2e-3
"""The driving process takes about so long for each task it submits, in seconds."""
PASSES_OF_PRECONDITIONER = 5
"""Over the blocks: rounds of proposals (2, 3, 5 and 5 at rank 20, 100, 400 and 1000 for an
arc-cosine kernel of 2000 rows; see :mod:`ntk_dist.solver.rpcholesky`)."""
SVD_FLOPS = 8
"""Of the n x r factor, times n r^2: its singular vectors by divide and conquer."""
CG_VECTORS = 12
"""Arrays of n x k that the solver holds: five of its state, the same once more on the way into a
checkpoint, a product and what is sent out."""
BLOCK_RECORD_BYTES = 250
"""In the driving process, for a block that is planned, present and assigned."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Who works, and how fast."""

    n_workers: int
    resident_bytes: int
    """Of blocks that one worker keeps in memory, at most; 0 streams them all."""
    read_rate: float
    """Bytes a second that one worker reads from the workspace, or writes to it."""
    link_rate: float
    """Bytes a second between two machines."""
    hash_rate: float
    """Bytes of rows a second that the driving process goes through before it stores them: which are
    equal, and what they are called."""
    entries_per_s: float
    """Of the Gram matrix, computed by one worker."""
    statistics_s: float
    """For what is known of one row alone, on one worker."""
    product_rate: float
    """Bytes of blocks a second that one worker multiplies by, when they are in its memory."""
    driver_flops: float
    """Of the driving process, per second."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "resident_bytes" and not 0 < value < math.inf:
                raise InvalidInputError(f"{name}: expected a finite number above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of the matrix."""

    n_targets: int = 10
    rank: int = 0
    """Of the preconditioner."""
    building_bytes: int = 0
    """Peak memory of the driving process while the preconditioner is built."""
    steps: int = 100
    predictions: int = 10_000
    """New rows."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of the job."""

    name: str
    seconds: float
    stored_bytes: float
    """Read from the workspace or written to it, by all workers together."""
    sent_bytes: float
    """From one machine to another, likewise."""
    limit: str
    """What takes most of the time."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """The whole job on paper."""

    plan: GramPlan
    cluster: Cluster
    work: Work
    phases: tuple[Phase, ...]
    """One after the other."""
    product: Phase
    """One pass over the blocks, of which the solve is made."""
    share_bytes: float
    """Blocks of one worker."""
    resident_share: float
    """Of them, what stays in its memory: 0 to 1."""
    disk_bytes: float
    """Rows, statistics and blocks in the workspace."""
    worker_bytes: float
    """Peak memory of one worker."""
    driver_bytes: float
    """Peak memory of the driving process."""

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(phase.seconds for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        plan = self.plan
        return {
            "n_rows": plan.grid.n_rows,
            "block_rows": plan.grid.block_rows,
            "n_blocks": plan.grid.n_blocks,
            "block_bytes": plan.block_bytes,
            "gram_bytes": plan.gram_bytes,
            "statistics_bytes": plan.statistics_bytes,
            "cluster": asdict(self.cluster),
            "work": asdict(self.work),
            "phases": [asdict(phase) for phase in self.phases],
            "product": asdict(self.product),
            "share_bytes": self.share_bytes,
            "resident_share": self.resident_share,
            "disk_bytes": self.disk_bytes,
            "worker_bytes": self.worker_bytes,
            "driver_bytes": self.driver_bytes,
            "seconds": self.seconds,
        }


def simulate(plan: GramPlan, cluster: Cluster, work: Work) -> Simulation:
    """The phases of a job whose workspace is empty, one after the other.

    Parameters
    ----------
    plan
        How the matrix is cut and what its blocks weigh; which of them are missing does not matter.
    cluster, work
        Who works, and for what.
    """
    n, k = plan.grid.n_rows, work.n_targets
    share = plan.gram_bytes / cluster.n_workers
    resident = min(share, float(cluster.resident_bytes))
    vectors = float(n * k * DOUBLE)
    product = _product(plan, cluster, k, share, share - resident)
    # Before its first pass nothing is in memory.
    loading = _product(plan, cluster, k, share, share)
    phases = (
        _ingest(plan, cluster),
        _statistics(plan, cluster),
        _gram(plan, cluster),
        _preconditioner(plan, cluster, work, loading, product),
        _solve(plan, cluster, work, product if work.rank else loading, product),
        _predictions(plan, cluster, work),
    )
    factor = float(n * work.rank * plan.itemsize)
    row_bytes = plan.stored_row_bytes
    return Simulation(
        plan=plan,
        cluster=cluster,
        work=work,
        phases=phases,
        product=product,
        share_bytes=share,
        resident_share=resident / share,
        disk_bytes=plan.gram_bytes + plan.statistics_bytes + n * row_bytes,
        # Of a product: what was sent, this worker's sum, another's, and two blocks on their way.
        worker_bytes=max(plan.worker_bytes, resident + 4 * vectors + 2 * plan.block_bytes),
        driver_bytes=(
            2 * n * row_bytes
            + max(CG_VECTORS * vectors + factor, work.building_bytes)
            + plan.grid.n_blocks * BLOCK_RECORD_BYTES
        ),
    )


def _ingest(plan: GramPlan, cluster: Cluster) -> Phase:
    """The driver alone: what is hashed by then is written."""
    rows = float(plan.grid.n_rows * plan.stored_row_bytes)
    hashing, storing = rows / cluster.hash_rate, rows / cluster.read_rate
    return Phase(
        name="ingest",
        seconds=hashing + storing,
        stored_bytes=rows,
        sent_bytes=0.0,
        limit="hashing rows" if hashing >= storing else "rows to the workspace",
    )


def _statistics(plan: GramPlan, cluster: Cluster) -> Phase:
    n = plan.grid.n_rows
    stored = n * plan.stored_row_bytes + plan.statistics_bytes
    return _apart(
        "statistics",
        computing=n * cluster.statistics_s / cluster.n_workers,
        storing=stored / (cluster.n_workers * cluster.read_rate),
        stored_bytes=stored,
    )


def _gram(plan: GramPlan, cluster: Cluster) -> Phase:
    """A task reads its rows, computes, and writes: one after the other."""
    n, blocks = plan.grid.n_rows, plan.grid.n_blocks
    row_bytes = plan.stored_row_bytes + plan.statistics_row_bytes
    stored = plan.gram_bytes + 2.0 * blocks * plan.grid.block_rows * row_bytes
    phase = _apart(
        "gram",
        computing=n * (n + 1) / 2 / (cluster.n_workers * cluster.entries_per_s),
        storing=stored / (cluster.n_workers * cluster.read_rate),
        stored_bytes=stored,
    )
    submitting = blocks * DRIVER_TASK_S
    if submitting <= phase.seconds:
        return phase
    return Phase(
        name="gram",
        seconds=submitting,
        stored_bytes=stored,
        sent_bytes=0.0,
        limit="the driver's submitting",
    )


def _product(plan: GramPlan, cluster: Cluster, k: int, share: float, streamed: float) -> Phase:
    """One pass over the blocks; what is streamed is read ahead of the arithmetic."""
    n_workers, vectors = cluster.n_workers, float(plan.grid.n_rows * k * DOUBLE)
    # Out along a tree of workers and back along another; the driver is one more machine.
    levels = math.ceil(math.log2(n_workers)) + 1
    sending = 2 * levels * vectors / cluster.link_rate
    times = {
        "arithmetic": share / cluster.product_rate,
        "blocks from the workspace": streamed / cluster.read_rate,
    }
    slower = max(times, key=lambda name: times[name])
    return Phase(
        name="one product",
        seconds=times[slower] + sending,
        stored_bytes=streamed * n_workers,
        sent_bytes=2 * n_workers * vectors,
        limit=slower if times[slower] >= sending else "vectors on the way",
    )


def _preconditioner(
    plan: GramPlan, cluster: Cluster, work: Work, loading: Phase, product: Phase
) -> Phase:
    """Columns come to the driver, whose link they share; passes read blocks as a product does."""
    n, rank = plan.grid.n_rows, work.rank
    if rank == 0:
        return Phase(name="precondition", seconds=0, stored_bytes=0, sent_bytes=0, limit="nothing")
    passes = PASSES_OF_PRECONDITIONER
    columns = 2.0 * n * rank * plan.itemsize  # rejected proposals are about as many
    streaming = product.stored_bytes / (cluster.n_workers * cluster.read_rate)
    loaded = loading.stored_bytes / (cluster.n_workers * cluster.read_rate)
    times = {
        "blocks from the workspace": loaded + (passes - 1) * streaming,
        "columns on the way": columns / cluster.link_rate,
        "arithmetic of the driver": SVD_FLOPS * float(n) * rank**2 / cluster.driver_flops,
    }
    return Phase(
        name="precondition",
        seconds=sum(times.values()),
        stored_bytes=loading.stored_bytes + (passes - 1) * product.stored_bytes,
        sent_bytes=columns,
        limit=max(times, key=lambda name: times[name]),
    )


def _solve(plan: GramPlan, cluster: Cluster, work: Work, first: Phase, product: Phase) -> Phase:
    n, k = float(plan.grid.n_rows), work.n_targets
    driver = (4 * n * work.rank * k + 12 * n * k) / cluster.driver_flops
    later = max(0, work.steps - 1)
    multiplying = (first.seconds if work.steps else 0.0) + later * product.seconds
    return Phase(
        name="solve",
        seconds=multiplying + work.steps * driver,
        stored_bytes=first.stored_bytes + later * product.stored_bytes,
        sent_bytes=work.steps * product.sent_bytes,
        limit=product.limit if multiplying >= work.steps * driver else "arithmetic of the driver",
    )


def _predictions(plan: GramPlan, cluster: Cluster, work: Work) -> Phase:
    """Every task of some new rows reads all training rows."""
    n, m = plan.grid.n_rows, work.predictions
    tasks = math.ceil(m / predict_rows(m, cluster.n_workers))
    stored = float(tasks * n * (plan.stored_row_bytes + plan.statistics_row_bytes))
    # Tasks are whole: with few of them, some workers have none.
    turns = math.ceil(tasks / cluster.n_workers)
    busy = tasks / turns if turns else 1.0
    coefficients = n * work.n_targets * DOUBLE
    return _apart(
        "predict",
        computing=(m * n / cluster.entries_per_s + m * cluster.statistics_s) / busy,
        storing=stored / (busy * cluster.read_rate),
        stored_bytes=stored,
        sent_bytes=cluster.n_workers * coefficients + m * plan.stored_row_bytes,
    )


def _apart(
    name: str, *, computing: float, storing: float, stored_bytes: float, sent_bytes: float = 0.0
) -> Phase:
    """A phase whose tasks compute and then store."""
    return Phase(
        name=name,
        seconds=computing + storing,
        stored_bytes=stored_bytes,
        sent_bytes=sent_bytes,
        limit="arithmetic" if computing >= storing else "rows and blocks of the workspace",
    )
