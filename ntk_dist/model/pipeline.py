"""From inputs and targets to dual coefficients, and from those to predictions.

The driver's side of the main job: merge repeated rows, have the Gram matrix computed, solve.
Estimators and jobs are thin layers over these functions.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntk_dist.errors import (
    BreakdownError,
    InvalidInputError,
    MemoryBudgetError,
    NonFiniteDataError,
)
from ntk_dist.events import Clock, EventSink, ignore
from ntk_dist.executors import AbstractExecutor, RetryPolicy
from ntk_dist.gram.block import compute_statistics
from ntk_dist.gram.plan import assign_blocks, default_block_rows
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.gram import Resources, compute_gram, distinct, gram_task, open_gram
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.report import FitReport
from ntk_dist.settings import Settings, available_memory
from ntk_dist.solver import (
    DENSE_ROWS,
    MOST_ROUNDS,
    AbstractOperator,
    AbstractPreconditioner,
    IdentityPreconditioner,
    JacobiPreconditioner,
    RidgedOperator,
    ScaledOperator,
    Solution,
    StoredGramOperator,
    solve,
    solve_direct,
    solve_refined,
)
from ntk_dist.solver.low_rank import affordable_rank, require_room
from ntk_dist.solver.preconditioners import LOW_RANK_PRECONDITIONERS
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.dataset import MemoryRows, average_targets
from ntk_dist.tasks import PredictTask, RecomputedShardFactory, RowBatch, ShardFactory
from ntk_dist.units import format_bytes

__all__ = ["DualFit", "fit_dual", "pack_statistics", "predict_dual"]

log = logging.getLogger(__name__)

PREDICT_ROWS = 256
"""Rows of one prediction task: enough for a GEMM, and a progress bar that moves."""


@dataclass(frozen=True)
class DualFit:
    """The fitted predictor f(x) = K(x, rows) dual_coef."""

    rows: AbstractRows
    """Distinct training inputs."""
    statistics: AbstractRows
    """Of those inputs, packed: no prediction computes them again."""
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

    Repeated rows are merged and their targets averaged: K = E K_u E^T, where E repeats the distinct
    rows and E^T E = C counts them. With D = C^(1/2), the dual coefficients of the distinct rows are

        A_u = D (D K_u D + ridge I)^+ D E^+ Y,

    which is E^T times the answer for all rows; for ridge 0 that is the pseudo-inverse answer, also
    where K_u is singular itself.

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
    warnings = _precision_warnings(parameters)
    clock = Clock(on_event)
    with clock.phase("ingest"):
        x, merged = distinct(x)
        rows = resources.workspace.rows(x)
        y = average_targets(targets, merged)
    rank = _preconditioner_rank(parameters, len(rows), resources.settings)
    with open_gram(kernel, rows, parameters.block_rows, resources) as store:
        gram = compute_gram(kernel, rows, store, resources, clock)
        task = gram_task(kernel, rows, store, resources.settings)
        factory = ShardFactory(task, kernel.kernels[0], resources.settings.shard_max_bytes)
        solution = _solve(factory, y, merged.counts, parameters, rank, resources, clock)
        statistics = task.statistics
        if isinstance(rows, MemoryRows) and not resources.executor.shares_memory:
            # The blocks were in a temporary folder, which goes now.
            statistics = MemoryRows(statistics.read(slice(0, len(rows))))
    if solution.report.status.is_breakdown:
        raise BreakdownError(solution.report.text)
    told = replace(solution.report, warnings=(*warnings, *solution.report.warnings))
    report = FitReport(
        solve=told,
        gram=gram,
        n_rows=len(targets),
        n_unique=len(merged.unique),
        executor=resources.executor.name,
        seconds=clock.seconds,
    )
    return DualFit(rows, statistics, solution.x, report)


def _solve(
    factory: ShardFactory,
    y: np.ndarray,
    counts: np.ndarray,
    parameters: Parameters,
    rank: int,
    resources: Resources,
    clock: Clock,
) -> Solution:
    """The dual coefficients, from blocks that stay with the workers that own them."""
    grid, dtype = factory.compute.store.grid, factory.compute.kernel.dtype
    dense_bytes = 3 * 8 * grid.n_rows**2  # K, its factor, and LAPACK's work space
    free_bytes = available_memory()
    if parameters.solver == "direct" and dense_bytes > free_bytes:
        raise MemoryBudgetError(
            f"solver 'direct' needs {format_bytes(dense_bytes)} for {grid.n_rows} rows, got "
            f"{format_bytes(free_bytes)} free: use solver 'cg'"
        )
    assignments = assign_blocks(grid, resources.executor.n_workers)
    if parameters.refine:
        # Blocks of both precisions share the memory of a worker.
        factory = replace(factory, max_bytes=factory.max_bytes // 2)
    with resources.executor.shards(factory, assignments, on_event=clock.on_event) as shards:
        scale = np.sqrt(counts)[:, None]

        def scaled(operator: AbstractOperator) -> AbstractOperator:
            return ScaledOperator(operator, scale[:, 0]) if counts.max() > 1 else operator

        def ridged(operator: AbstractOperator) -> AbstractOperator:
            return RidgedOperator(operator, parameters.ridge) if parameters.ridge else operator

        gram = scaled(StoredGramOperator(shards, grid.n_rows, dtype))
        if parameters.solver == "direct":
            with clock.phase("solve"):
                solution = solve_direct(gram, scale * y, parameters.ridge, tol=parameters.tol)
            return replace(solution, x=scale * solution.x)
        operator = ridged(gram)
        with clock.phase("precondition"):
            preconditioner = _preconditioner(gram, parameters, rank, resources.settings)
        with clock.phase("solve"), ExitStack() as stack:
            options: dict[str, Any] = {
                "tol": parameters.tol,
                "max_steps": parameters.max_steps,
                "on_step": clock.on_event,
                "dense_rows": DENSE_ROWS if dense_bytes <= free_bytes else 0,
            }
            if parameters.refine:
                again = RecomputedShardFactory(
                    factory.compute, factory.kernel_name, factory.max_bytes
                )
                fresh = stack.enter_context(
                    resources.executor.shards(again, assignments, on_event=clock.on_event)
                )
                exact = ridged(scaled(StoredGramOperator(fresh, grid.n_rows, "float64")))
                rounds = MOST_ROUNDS if parameters.refine is True else parameters.refine
                solution = solve_refined(
                    operator, exact, scale * y, preconditioner, rounds=rounds, **options
                )
            else:
                solution = solve(operator, scale * y, preconditioner, **options)
        return replace(solution, x=scale * solution.x)


def _precision_warnings(parameters: Parameters) -> tuple[str, ...]:
    """What the tolerance asks for beyond the blocks' precision, said now and in the report."""
    epsilon = float(np.finfo(parameters.exact_dtype).eps)
    if parameters.tol >= epsilon:
        return ()
    warning = (
        f"tol {parameters.tol:.0e} is below the rounding of {parameters.dtype} entries "
        f"({epsilon:.0e}): the residual can meet it, the answer comes no nearer to that of the "
        "exact kernel; use dtype 'float64' or refine"
    )
    log.warning(warning)
    return (warning,)


def _preconditioner_rank(parameters: Parameters, n: int, settings: Settings) -> int:
    """The rank to build, known to fit in memory before anything is computed.

    Raises
    ------
    MemoryBudgetError
        It does not.
    """
    if parameters.solver == "direct" or parameters.preconditioner not in LOW_RANK_PRECONDITIONERS:
        return 0
    max_bytes, dtype = settings.preconditioner_max_bytes, np.dtype(parameters.dtype)
    if parameters.rank == "auto":
        return affordable_rank(n, max_bytes, dtype)
    rank = min(parameters.rank, n)
    require_room(n, rank, max_bytes, dtype)
    return rank


def _preconditioner(
    gram: AbstractOperator, parameters: Parameters, rank: int, settings: Settings
) -> AbstractPreconditioner:
    if parameters.preconditioner == "none":
        return IdentityPreconditioner()
    if parameters.preconditioner == "jacobi":
        return JacobiPreconditioner(gram, parameters.ridge)
    return LOW_RANK_PRECONDITIONERS[parameters.preconditioner].of(
        gram,
        rank=rank,
        ridge=parameters.ridge,
        generator=np.random.default_rng(parameters.random_state),
        max_bytes=settings.preconditioner_max_bytes,
    )


def predict_dual(
    kernel: Kernel,
    x: np.ndarray,
    rows: AbstractRows,
    statistics: AbstractRows,
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
    rows, statistics, dual_coef
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
    task = PredictTask(
        kernel, rows, statistics, MemoryRows(dual_coef), block_rows, settings.block_max_bytes
    )
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


def pack_statistics(kernel: Kernel, rows: AbstractRows, on_event: EventSink = ignore) -> MemoryRows:
    """The statistics of training rows that come without them, as models of older versions do."""
    layout = kernel.statistics_layout(rows.shape[1:])
    parts = [
        slice(start, min(start + PREDICT_ROWS, len(rows)))
        for start in range(0, len(rows), PREDICT_ROWS)
    ]
    packed = np.empty((len(rows), layout.width))
    with Clock(on_event).phase("statistics"):
        for part in parts:
            packed[part] = layout.pack(compute_statistics(kernel, rows.read(part)))
    return MemoryRows(packed)
