"""The Gram matrix of some rows: identified, planned, computed where it is missing.

The driver's side; what workers do stands in :mod:`ntk_dist.tasks`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ntk_dist.errors import InvalidInputError
from ntk_dist.events import EventSink, Phases, RepairCount, ignore
from ntk_dist.executors import AbstractExecutor, RetryPolicy
from ntk_dist.gram.cut import working_bytes
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.gram.plan import GramPlan, default_block_rows, plan_gram
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.growth import find_ancestor, side_of_ancestor
from ntk_dist.model.report import GramReport
from ntk_dist.settings import SHARD_BYTES_ELSEWHERE, Settings, available_memory
from ntk_dist.store.base import AbstractBlockStore, AbstractRows, AbstractStatisticsStore
from ntk_dist.store.dataset import MemoryRows
from ntk_dist.store.location import Location
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.repeats import Collapsed, collapse
from ntk_dist.store.workspace import (
    AbstractWorkspace,
    MemoryWorkspace,
    Workspace,
    find_gram,
    is_workspace,
)
from ntk_dist.tasks import AdoptTask, GramTask, RecentRows, StatisticsRows, statistics_of
from ntk_dist.units import format_bytes

__all__ = [
    "Resources",
    "compute_gram",
    "distinct",
    "gram_of_rows",
    "gram_task",
    "open_gram",
    "plan_rows",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What a job may use."""

    workspace: AbstractWorkspace
    """Where rows and blocks are kept."""
    executor: AbstractExecutor
    """Who computes."""
    settings: Settings
    """Limits of one process."""

    def shard_bytes(self, stored_bytes: int, driver_bytes: int = 0) -> int:
        """Memory of one shard for blocks, in bytes.

        What the settings say, but workers of this machine together get no more than half of what
        is free beside the ``driver_bytes`` that the driver will take: the rest is for what comes
        up. It is logged where that keeps some of the ``stored_bytes`` of all shards out of memory.
        """
        most, n = self.settings.shard_max_bytes, self.executor.n_workers
        if not self.executor.runs_here:
            return SHARD_BYTES_ELSEWHERE if most is None else most
        free = max(0, available_memory() - driver_bytes)
        half = free // (2 * n)
        wanted = stored_bytes // n if most is None else min(most, stored_bytes // n)
        if half < wanted:
            log.warning(
                "%s of memory for blocks on each of %d workers, where %s would be used, because %s "
                "are free here for them and for what comes up: the blocks that do not fit are read "
                "again for every product",
                format_bytes(half),
                n,
                format_bytes(wanted),
                format_bytes(free),
            )
        return half if most is None else min(most, half)


def plan_rows(
    kernel: Kernel,
    x: np.ndarray,
    *,
    block_rows: int | None,
    location: Location | None,
    settings: Settings,
) -> GramPlan:
    """What is missing for the Gram matrix of ``x``; a workspace that is not there is not made.

    Blocks count as present if this machine's kind of device computed them.
    """
    rows = MemoryRows(distinct(x)[0])
    manifest = _manifest(kernel, rows, block_rows, device_kind())
    if location is None or not is_workspace(location):
        return _plan(kernel, rows, manifest, frozenset(), len(rows), settings)
    workspace = Workspace(location, read_only=True)
    if block_rows is None and (side := side_of_ancestor(manifest, rows, workspace)):
        manifest = _manifest(kernel, rows, side, device_kind())
    store = find_gram(location, manifest)
    present, n_missing = frozenset[BlockIndex](), len(rows)
    if store is not None:
        present = store.present()
        n_missing = sum(_missing(statistics_of(kernel, rows, store).store).values())
    plan = _plan(kernel, rows, manifest, present, n_missing, settings)
    ancestor = find_ancestor(manifest, rows, workspace) if plan.missing else None
    return replace(plan, known=frozenset(ancestor.blocks(plan.missing))) if ancestor else plan


def gram_of_rows(
    kernel: Kernel,
    x: np.ndarray,
    *,
    block_rows: int | None,
    resources: Resources,
    on_event: EventSink = ignore,
) -> GramReport:
    """Compute and store the blocks of the Gram matrix of ``x`` that are missing.

    Raises
    ------
    BudgetError
        They do not fit; nothing was started.
    """
    repairs = RepairCount(on_event)
    phases = Phases(repairs)
    with phases.phase("ingest"):
        rows = resources.workspace.rows(distinct(x)[0])
    with open_gram(kernel, rows, block_rows, resources) as store:
        gram = compute_gram(kernel, rows, store, resources, phases)
    return replace(gram, n_repaired=repairs.n_repaired)


def distinct(x: np.ndarray) -> tuple[np.ndarray, Collapsed]:
    """The distinct rows of ``x``, and which of them every row is."""
    merged = collapse(x)
    return (x if len(merged.unique) == len(x) else x[merged.unique]), merged


@contextmanager
def open_gram(
    kernel: Kernel, rows: AbstractRows, block_rows: int | None, resources: Resources
) -> Iterator[AbstractBlockStore]:
    """The block store of the symmetric Gram of ``rows``, where the executor's workers reach it.

    Blocks in this process's memory are out of reach of other processes; those get a temporary
    folder of this machine instead.

    Raises
    ------
    InvalidInputError
        ``block_rows`` is not positive.
    """
    workspace, executor = resources.workspace, resources.executor
    device = _worker_device_kind(executor)
    manifest = _manifest(kernel, rows, block_rows, device)
    if block_rows is None and (side := side_of_ancestor(manifest, rows, workspace)):
        manifest = _manifest(kernel, rows, side, device)
    if executor.shares_memory or not isinstance(workspace, MemoryWorkspace):
        yield workspace.gram(manifest)
        return
    with tempfile.TemporaryDirectory(prefix="ntk_dist-") as folder:
        yield Workspace(folder).gram(manifest)


def compute_gram(
    kernel: Kernel,
    rows: AbstractRows,
    store: AbstractBlockStore,
    resources: Resources,
    phases: Phases,
) -> GramReport:
    """Compute and store the statistics and blocks that ``store`` does not have, and only those.

    Raises
    ------
    BudgetError
        They do not fit; nothing was started.
    TaskError
        A block failed for good; finished ones are kept.
    """
    settings, executor = resources.settings, resources.executor
    statistics = statistics_of(kernel, rows, store)
    blocks = gram_task(kernel, rows, store, settings)
    batches = _missing(statistics.store)
    plan = _plan(kernel, rows, store.manifest, store.present(), sum(batches.values()), settings)
    to_keep = plan.missing_bytes if store.in_memory else 0
    plan.require_room(
        free_bytes=store.free_bytes(),
        # What a cluster elsewhere has is for its operator to know.
        memory_bytes=(
            (available_memory() - to_keep) // executor.n_workers if executor.runs_here else None
        ),
        in_memory=store.in_memory,
    )

    def run(
        phase: str, task: Callable[[Item], Result], items: Collection[Item], total: int
    ) -> list[Result]:
        """What the tasks say, for items that are missing of so many."""
        with phases.phase(phase, total, total - len(items), gram=store.manifest.key):
            retry = RetryPolicy(timeout_s=settings.task_timeout_s)
            done = executor.map_unordered(task, items, retry=retry, on_event=phases.on_event)
            return [result for _, result in done]

    adopted, missing = 0, plan.missing
    if missing and (ancestor := find_ancestor(store.manifest, rows, resources.workspace)):
        batches = ancestor.give_statistics(batches, statistics.store, phases.on_event)
        items = ancestor.blocks(missing)
        adopted = sum(run("adopt", AdoptTask(blocks, ancestor.store), items, len(items)))
        missing = tuple(sorted(set(missing) - set(items)))
    run("statistics", statistics, batches, statistics.store.n_batches)
    run("gram", blocks, missing, plan.grid.n_blocks)
    return GramReport(
        key=store.manifest.key,
        block_rows=plan.grid.block_rows,
        n_blocks=plan.grid.n_blocks,
        n_computed=len(plan.missing) - adopted,
        n_adopted=adopted,
        n_bytes=plan.gram_bytes,
    )


def gram_task(
    kernel: Kernel, rows: AbstractRows, store: AbstractBlockStore, settings: Settings
) -> GramTask:
    """The task that fills the blocks of ``store``, from statistics that are stored beside them."""
    rows = RecentRows(rows)
    statistics = StatisticsRows(statistics_of(kernel, rows, store))
    return GramTask(kernel, rows, statistics, store, settings.block_max_bytes)


def _missing(store: AbstractStatisticsStore) -> dict[int, int]:
    """Rows of every batch of statistics that is absent, by batch."""
    absent = sorted(set(range(store.n_batches)) - store.present())
    return {b: store.rows(b).stop - store.rows(b).start for b in absent}


def _manifest(kernel: Kernel, rows: AbstractRows, block_rows: int | None, device: str) -> Manifest:
    """The identity of the symmetric Gram matrix of ``rows`` computed on one kind of device."""
    if block_rows is None:
        block_rows = default_block_rows(len(rows), kernel.flops_per_pair(rows.shape[1:], device))
    elif block_rows < 1:
        raise InvalidInputError(f"block_rows: expected at least 1, got {block_rows}")
    return Manifest(
        architecture=kernel.fingerprint,
        data_rows=rows.fingerprint,
        data_cols=rows.fingerprint,
        n_rows=len(rows),
        n_cols=len(rows),
        block_rows=min(block_rows, len(rows)),
        symmetric=True,
        kernels=kernel.kernels,
        dtype=kernel.dtype.name,
        device_kind=device,
    )


def _plan(
    kernel: Kernel,
    rows: AbstractRows,
    manifest: Manifest,
    present: frozenset[BlockIndex],
    missing_statistics: int,
    settings: Settings,
) -> GramPlan:
    return plan_gram(
        manifest.grid,
        present,
        kernels=manifest.kernels,
        dtype=manifest.dtype,
        input_shape=rows.shape[1:],
        flops_per_pair=kernel.flops_per_pair(rows.shape[1:], manifest.device_kind),
        working_bytes=working_bytes(
            kernel, rows.shape[1:], manifest.block_rows, settings.block_max_bytes
        ),
        statistics_row_bytes=kernel.statistics_layout(rows.shape[1:]).row_bytes,
        missing_statistics=missing_statistics,
    )


def _worker_device_kind(executor: AbstractExecutor) -> str:
    """What a worker computes on; the driver of a GPU cluster need not have one itself."""
    if executor.shares_memory:
        return device_kind()
    ((_, kind),) = executor.map_unordered(device_kind, [0])
    return kind
