"""From inputs and targets to dual coefficients, and from those to predictions.

The driver's side of the main job: merge repeated rows, plan, compute the missing blocks, solve.
Estimators and jobs are thin layers over these functions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ntk_dist.errors import BreakdownError, InvalidInputError
from ntk_dist.events import EventSink, PhaseEvent, ignore
from ntk_dist.executors import AbstractExecutor, RetryPolicy
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.gram.plan import GramPlan, assign_blocks, default_block_rows, plan_gram
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.report import FitReport, GramReport
from ntk_dist.settings import Settings, available_memory
from ntk_dist.solver import (
    AbstractOperator,
    AbstractPreconditioner,
    IdentityPreconditioner,
    RidgedOperator,
    RPCholeskyPreconditioner,
    Solution,
    StoredGramOperator,
    solve_cg,
    solve_direct,
)
from ntk_dist.store.base import AbstractBlockStore, AbstractRows
from ntk_dist.store.dataset import Collapsed, MemoryRows, average_targets, collapse
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.workspace import (
    AbstractWorkspace,
    MemoryWorkspace,
    Workspace,
    find_gram,
)
from ntk_dist.tasks import GramTask, PredictTask, RowBatch, ShardFactory

__all__ = [
    "DualFit",
    "SolveOptions",
    "fit_dual",
    "gram_of_rows",
    "plan_rows",
    "predict_dual",
]

PREDICT_ROWS = 256
"""Rows of one prediction task: enough for a GEMM, and a progress bar that moves."""


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """How the linear system is solved."""

    ridge: float = 0.0
    """Added to the diagonal, per training row; 0 interpolates."""
    method: Literal["cg", "direct"] = "cg"
    tol: float = 1e-6
    """True relative residual to reach, per target."""
    max_steps: int | None = None
    preconditioner: Literal["rpcholesky", "none"] = "rpcholesky"
    rank: int | Literal["auto"] = "auto"
    seed: int = 0
    """Of the preconditioner's random pivots."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", ("cg", "direct")),
            ("preconditioner", ("rpcholesky", "none")),
        ):
            if getattr(self, name) not in choices:
                raise InvalidInputError(
                    f"{name}: expected one of {choices}, got {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class DualFit:
    """The fitted predictor f(x) = K(x, rows) dual_coef."""

    rows: AbstractRows
    """Distinct training inputs."""
    dual_coef: np.ndarray
    """Shape ``(n_unique, n_targets)``, float64."""
    report: FitReport


class Clock:
    """Seconds of every phase, announced as events."""

    def __init__(self, on_event: EventSink = ignore) -> None:
        self.on_event = on_event
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, total: int | None = None, done: int = 0) -> Iterator[None]:
        """Time what happens inside."""
        self.on_event(PhaseEvent(phase=name, state="started", total=total, done=done))
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.on_event(PhaseEvent(phase=name, state="finished", seconds=self.seconds[name]))


def fit_dual(
    kernel: Kernel,
    x: np.ndarray,
    targets: np.ndarray,
    *,
    options: SolveOptions,
    block_rows: int | None,
    workspace: AbstractWorkspace,
    executor: AbstractExecutor,
    settings: Settings,
    on_event: EventSink = ignore,
) -> DualFit:
    """Solve (K + ridge I) A = Y for the kernel of the training rows.

    Repeated rows are merged and their targets averaged: with K = E K_u E^T the solution predicts
    as that of (K_u + ridge diag(1 / counts)) A_u = E^+ Y does, which for ridge 0 is the
    pseudo-inverse answer.

    Parameters
    ----------
    kernel
        Evaluates one kernel.
    x
        Inputs of shape ``(n_rows, *input_shape)`` in the kernel's dtype, after preprocessing.
    targets
        Shape ``(n_rows, n_targets)``, float64.
    options
        How the system is solved.
    block_rows
        Side of a block; None chooses.
    workspace, executor
        Where blocks are kept, and who computes them.
    settings
        Limits of one process.
    on_event
        Told of phases, tasks and steps.

    Raises
    ------
    BudgetError
        Projected bytes exceed what there is; nothing was started.
    TaskError
        A block failed for good; finished blocks stay in the workspace.
    BreakdownError
        The Gram matrix is indefinite or not finite.
    """
    clock = Clock(on_event)
    with clock.phase("ingest"):
        x, merged = distinct(x)
        rows = workspace.rows(x)
        y = average_targets(targets, merged)
    manifest = gram_manifest(kernel, rows, block_rows, worker_device_kind(executor))
    with shared_gram(workspace, manifest, executor) as store:
        gram = _compute_missing(kernel, rows, store, executor, settings, workspace, clock)
        shards = ShardFactory(
            GramTask(kernel, rows, store, settings.block_max_bytes),
            kernel=kernel.kernels[0],
            max_bytes=settings.shard_max_bytes,
        )
        ridge = options.ridge / merged.counts
        solution = _solve(shards, y, ridge, options, executor, clock)
    if solution.report.status.is_breakdown:
        raise BreakdownError(solution.report.text)
    report = FitReport(
        solve=solution.report,
        gram=gram,
        n_rows=len(targets),
        n_unique=len(merged.unique),
        executor=executor.name,
        seconds=clock.seconds,
    )
    return DualFit(rows, solution.x, report)


def gram_manifest(
    kernel: Kernel, rows: AbstractRows, block_rows: int | None, device: str
) -> Manifest:
    """The identity of the symmetric Gram matrix of ``rows`` computed on one kind of device."""
    if block_rows is None:
        block_rows = default_block_rows(len(rows), kernel.flops_per_pair(rows.shape[1:]))
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


def plan_rows(
    kernel: Kernel,
    x: np.ndarray,
    *,
    block_rows: int | None,
    location: str | Path | None,
    settings: Settings,
) -> GramPlan:
    """What is missing for the Gram matrix of ``x``; a workspace that is not there is not made."""
    rows = MemoryRows(distinct(x)[0])
    manifest = gram_manifest(kernel, rows, block_rows, device_kind())
    store = find_gram(location, manifest)
    return _plan(
        kernel, rows, manifest, frozenset() if store is None else store.present(), settings
    )


def gram_of_rows(
    kernel: Kernel,
    x: np.ndarray,
    *,
    block_rows: int | None,
    workspace: AbstractWorkspace,
    executor: AbstractExecutor,
    settings: Settings,
    on_event: EventSink = ignore,
) -> GramReport:
    """Compute and store the blocks of the Gram matrix of ``x`` that are missing.

    Raises
    ------
    BudgetError
        They do not fit; nothing was started.
    """
    clock = Clock(on_event)
    with clock.phase("ingest"):
        rows = workspace.rows(distinct(x)[0])
    manifest = gram_manifest(kernel, rows, block_rows, worker_device_kind(executor))
    with shared_gram(workspace, manifest, executor) as store:
        return _compute_missing(kernel, rows, store, executor, settings, workspace, clock)


def worker_device_kind(executor: AbstractExecutor) -> str:
    """What a worker computes on; the driver of a GPU cluster need not have one itself."""
    if executor.shares_memory:
        return device_kind()
    ((_, kind),) = executor.map_unordered(device_kind, [0])
    return kind


def distinct(x: np.ndarray) -> tuple[np.ndarray, Collapsed]:
    """The distinct rows of ``x``, and which of them every row is."""
    merged = collapse(x)
    return (x if len(merged.unique) == len(x) else x[merged.unique]), merged


def _plan(
    kernel: Kernel,
    rows: AbstractRows,
    manifest: Manifest,
    present: frozenset[BlockIndex],
    settings: Settings,
) -> GramPlan:
    return plan_gram(
        manifest.grid,
        present,
        kernels=manifest.kernels,
        dtype=manifest.dtype,
        input_shape=rows.shape[1:],
        flops_per_pair=kernel.flops_per_pair(rows.shape[1:]),
        working_bytes=settings.block_max_bytes,
    )


def _compute_missing(
    kernel: Kernel,
    rows: AbstractRows,
    store: AbstractBlockStore,
    executor: AbstractExecutor,
    settings: Settings,
    workspace: AbstractWorkspace,
    clock: Clock,
) -> GramReport:
    plan = _plan(kernel, rows, store.manifest, store.present(), settings)
    plan.require_room(free_bytes=workspace.free_bytes(), memory_bytes=available_memory())
    task = GramTask(kernel, rows, store, settings.block_max_bytes)
    done = plan.grid.n_blocks - len(plan.missing)
    with clock.phase("gram", total=plan.grid.n_blocks, done=done):
        retry = RetryPolicy(timeout_s=settings.task_timeout_s)
        for _ in executor.map_unordered(task, plan.missing, retry=retry, on_event=clock.on_event):
            pass
    return GramReport(
        key=store.manifest.key,
        block_rows=plan.grid.block_rows,
        n_blocks=plan.grid.n_blocks,
        n_computed=len(plan.missing),
        n_bytes=plan.gram_bytes,
    )


def _solve(
    factory: ShardFactory,
    y: np.ndarray,
    ridge: np.ndarray,
    options: SolveOptions,
    executor: AbstractExecutor,
    clock: Clock,
) -> Solution:
    """The dual coefficients, from blocks that stay with the workers that own them."""
    grid, dtype = factory.gram.store.grid, factory.gram.kernel.dtype
    assignments = assign_blocks(grid, executor.n_workers)
    with executor.shards(factory, assignments, on_event=clock.on_event) as shards:
        gram = StoredGramOperator(shards, grid.n_rows, dtype)
        operator = RidgedOperator(gram, ridge) if options.ridge else gram
        if options.method == "direct":
            with clock.phase("solve"):
                return solve_direct(gram, y, ridge=ridge, tol=options.tol)
        with clock.phase("precondition"):
            preconditioner = _preconditioner(gram, ridge, options)
        with clock.phase("solve"):
            return solve_cg(
                operator,
                y,
                preconditioner,
                tol=options.tol,
                max_steps=options.max_steps,
                on_step=clock.on_event,
            )


def _preconditioner(
    gram: AbstractOperator, ridge: np.ndarray, options: SolveOptions
) -> AbstractPreconditioner:
    if options.preconditioner == "none":
        return IdentityPreconditioner()
    return RPCholeskyPreconditioner.of(
        gram, rank=options.rank, ridge=ridge, generator=np.random.default_rng(options.seed)
    )


def predict_dual(
    kernel: Kernel,
    x: np.ndarray,
    rows: AbstractRows,
    dual_coef: np.ndarray,
    *,
    executor: AbstractExecutor,
    settings: Settings,
    on_event: EventSink = ignore,
) -> np.ndarray:
    """K(x, rows) dual_coef, never holding more than one block of K per worker.

    Parameters
    ----------
    kernel
        Evaluates one kernel.
    x
        New inputs of shape ``(n, *input_shape)`` in the kernel's dtype, after preprocessing.
    rows, dual_coef
        Of the fit.
    executor, settings, on_event
        As for :func:`fit_dual`.

    Returns
    -------
    ndarray of shape ``(n, n_targets)``
        Float64.
    """
    block_rows = default_block_rows(len(rows), kernel.flops_per_pair(rows.shape[1:]))
    task = PredictTask(kernel, rows, MemoryRows(dual_coef), block_rows, settings.block_max_bytes)
    batches = [
        RowBatch(start, x[start : start + PREDICT_ROWS]) for start in range(0, len(x), PREDICT_ROWS)
    ]
    values = np.empty((len(x), dual_coef.shape[1]))
    with Clock(on_event).phase("predict", total=len(batches)):
        retry = RetryPolicy(timeout_s=settings.task_timeout_s)
        for batch, part in executor.map_unordered(task, batches, retry=retry, on_event=on_event):
            values[batch.start : batch.start + len(part)] = part
    return values


@contextmanager
def shared_gram(
    workspace: AbstractWorkspace, manifest: Manifest, executor: AbstractExecutor
) -> Iterator[AbstractBlockStore]:
    """The block store of a Gram, somewhere that the executor's workers reach.

    Blocks in this process's memory are out of reach of other processes; those get a temporary
    folder of this machine instead.
    """
    if executor.shares_memory or not isinstance(workspace, MemoryWorkspace):
        yield workspace.gram(manifest)
        return
    with tempfile.TemporaryDirectory(prefix="ntk_dist-") as folder:
        yield Workspace(folder).gram(manifest)
