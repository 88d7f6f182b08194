"""From inputs and targets to dual coefficients, and from those to predictions.

The driver's side of the main job: merge repeated rows, have the Gram matrix computed, solve.
Estimators and jobs are thin layers over these functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntk_dist.errors import (
    BreakdownError,
    InvalidInputError,
    MemoryBudgetError,
    NonFiniteDataError,
)
from ntk_dist.events import Clock, EventSink, ignore
from ntk_dist.executors import AbstractExecutor, RetryPolicy
from ntk_dist.gram.plan import assign_blocks, default_block_rows, format_bytes
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.gram import Resources, compute_gram, distinct, open_gram
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.report import FitReport
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
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.dataset import MemoryRows, average_targets
from ntk_dist.tasks import GramTask, PredictTask, RowBatch, ShardFactory

__all__ = ["DualFit", "fit_dual", "predict_dual"]

PREDICT_ROWS = 256
"""Rows of one prediction task: enough for a GEMM, and a progress bar that moves."""


@dataclass(frozen=True)
class DualFit:
    """The fitted predictor f(x) = K(x, rows) dual_coef."""

    rows: AbstractRows
    """Distinct training inputs."""
    dual_coef: np.ndarray
    """Shape ``(n_unique, n_targets)``, float64."""
    report: FitReport


def fit_dual(
    kernel: Kernel,
    x: np.ndarray,
    targets: np.ndarray,
    *,
    parameters: Parameters,
    resources: Resources,
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
    parameters
        How the matrix is cut and the system solved.
    resources
        Where blocks are kept, who computes them, within which limits.
    on_event
        Told of phases, tasks and steps.

    Raises
    ------
    InvalidInputError
        The preconditioner's rank is more than the rows.
    BudgetError
        Projected bytes exceed what there is; nothing was started.
    TaskError
        A block failed for good; finished blocks stay in the workspace.
    BreakdownError
        The Gram matrix is indefinite or not finite.
    """
    if isinstance(parameters.rank, int) and parameters.rank > len(x):
        raise InvalidInputError(f"rank: expected at most {len(x)} (rows), got {parameters.rank}")
    clock = Clock(on_event)
    with clock.phase("ingest"):
        x, merged = distinct(x)
        rows = resources.workspace.rows(x)
        y = average_targets(targets, merged)
    with open_gram(kernel, rows, parameters.block_rows, resources) as store:
        gram = compute_gram(kernel, rows, store, resources, clock)
        task = GramTask(kernel, rows, store, resources.settings.block_max_bytes)
        factory = ShardFactory(task, kernel.kernels[0], resources.settings.shard_max_bytes)
        ridge = parameters.ridge / merged.counts
        solution = _solve(factory, y, ridge, parameters, resources, clock)
    if solution.report.status.is_breakdown:
        raise BreakdownError(solution.report.text)
    report = FitReport(
        solve=solution.report,
        gram=gram,
        n_rows=len(targets),
        n_unique=len(merged.unique),
        executor=resources.executor.name,
        seconds=clock.seconds,
    )
    return DualFit(rows, solution.x, report)


def _solve(
    factory: ShardFactory,
    y: np.ndarray,
    ridge: np.ndarray,
    parameters: Parameters,
    resources: Resources,
    clock: Clock,
) -> Solution:
    """The dual coefficients, from blocks that stay with the workers that own them."""
    grid, dtype = factory.compute.store.grid, factory.compute.kernel.dtype
    if parameters.solver == "direct":
        _require_dense_room(grid.n_rows)
    assignments = assign_blocks(grid, resources.executor.n_workers)
    with resources.executor.shards(factory, assignments, on_event=clock.on_event) as shards:
        gram = StoredGramOperator(shards, grid.n_rows, dtype)
        operator = RidgedOperator(gram, ridge) if parameters.ridge else gram
        if parameters.solver == "direct":
            with clock.phase("solve"):
                return solve_direct(gram, y, ridge=ridge, tol=parameters.tol)
        with clock.phase("precondition"):
            preconditioner = _preconditioner(gram, ridge, parameters, resources.settings)
        with clock.phase("solve"):
            return solve_cg(
                operator,
                y,
                preconditioner,
                tol=parameters.tol,
                max_steps=parameters.max_steps,
                on_step=clock.on_event,
            )


def _require_dense_room(n: int) -> None:
    """Refuse a dense factorization that does not fit: K, its factor and LAPACK's work space."""
    needed, free = 3 * 8 * n**2, available_memory()
    if needed > free:
        raise MemoryBudgetError(
            f"solver 'direct' needs {format_bytes(needed)} for {n} rows, got {format_bytes(free)} "
            "free: use solver 'cg'"
        )


def _preconditioner(
    gram: AbstractOperator, ridge: np.ndarray, parameters: Parameters, settings: Settings
) -> AbstractPreconditioner:
    if parameters.preconditioner == "none":
        return IdentityPreconditioner()
    rank = parameters.rank if parameters.rank == "auto" else min(parameters.rank, gram.n)
    return RPCholeskyPreconditioner.of(
        gram,
        rank=rank,
        ridge=ridge,
        generator=np.random.default_rng(parameters.random_state),
        max_bytes=settings.preconditioner_max_bytes,
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
    executor, settings
        Who computes, within which limits.
    on_event
        Told of phases and tasks.

    Returns
    -------
    ndarray of shape ``(n, n_targets)``
        Float64.

    Raises
    ------
    NonFiniteDataError
        A prediction overflows.
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
    if not np.isfinite(values).all():
        raise NonFiniteDataError(
            f"predictions of {np.count_nonzero(~np.isfinite(values).all(axis=1))} of {len(x)} rows "
            f"overflow {kernel.dtype}: they are far larger than the training rows"
        )
    return values
