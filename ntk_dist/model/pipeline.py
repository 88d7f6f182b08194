"""From inputs and targets to dual coefficients, and from those to predictions.

The driver's side of the main job: merge repeated rows, have the Gram matrix computed and the
system solved.
Estimators and jobs are thin layers over these functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ntk_dist.errors import (
    BreakdownError,
    NonFiniteDataError,
)
from ntk_dist.events import CompileTime, EventSink, Phases, RepairCount, ignore
from ntk_dist.executors import AbstractExecutor, RetryPolicy
from ntk_dist.gram.plan import default_block_rows, predict_rows
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.gram import Resources, compute_gram, distinct, gram_task, open_gram
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.report import FitReport
from ntk_dist.model.solving import (
    DualSystem,
    driver_bytes,
    precision_warnings,
    require_room_to_solve,
    solve_dual,
)
from ntk_dist.model.warm_start import EarlierFit
from ntk_dist.settings import Settings
from ntk_dist.shards import ShardFactory
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.store.dataset import MemoryRows
from ntk_dist.store.repeats import average_targets
from ntk_dist.tasks import PredictTask, RowBatch

__all__ = ["DualFit", "fit_dual", "predict_dual"]


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
    checkpoints: tuple[Checkpoint, ...]
    """Where the same fit would go on from: for its caller to delete when the answer is safe."""


def fit_dual(
    kernel: Kernel,
    x: np.ndarray,
    targets: np.ndarray,
    *,
    parameters: Parameters,
    resources: Resources,
    earlier: EarlierFit | None = None,
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
    earlier
        A fit whose coefficients are the place to start from.
    on_event
        Told of phases, tasks and steps.

    Raises
    ------
    InvalidInputError
        The preconditioner's rank or the blocks' side is more than the rows, or one distinct row is
        all there is to choose a ridge with.
    BudgetError
        Projected bytes exceed what there is; nothing was started.
    NotConvergedError
        None of several ridges could be judged.
    TaskError
        A block failed for good; finished blocks stay in the workspace.
    BreakdownError
        The Gram matrix is indefinite or not finite.
    """
    parameters.require_rows(len(x))
    warnings = precision_warnings(parameters)
    compiling = CompileTime(on_event)
    repairs = RepairCount(compiling)
    phases = Phases(repairs)
    with phases.phase("ingest"):
        x, merged = distinct(x)
        rows = resources.workspace.rows(x)
        y = average_targets(targets, merged)
        start, n_warm = earlier.coefficients(x, y.shape[1]) if earlier else (None, None)
    rank = require_room_to_solve(parameters, len(rows), y.shape[1], resources.settings)
    with open_gram(kernel, rows, parameters.block_rows, resources) as store:
        gram = compute_gram(kernel, rows, store, resources, phases)
        task = gram_task(kernel, rows, store, resources.settings)
        # Blocks in this memory take no more of it when a shard keeps them.
        max_bytes = resources.shard_bytes(
            0 if store.in_memory else gram.n_bytes,
            driver_bytes(parameters, len(rows), rank, resources.settings),
        )
        factory = ShardFactory(task, kernel.kernels[0], max_bytes)
        system = DualSystem(factory, y, merged.counts, start)
        solved = solve_dual(system, parameters, rank, resources, phases)
        solution = solved.solution
        statistics = task.statistics
        if isinstance(rows, MemoryRows) and not resources.executor.shares_memory:
            # The blocks were in a temporary folder, which goes now.
            statistics = MemoryRows(statistics.read(slice(0, len(rows))))
    if solution.report.status.is_breakdown:
        for checkpoint in solved.checkpoints:
            checkpoint.delete()
        raise BreakdownError(solution.report.text)
    told = replace(solution.report, warnings=(*warnings, *solution.report.warnings))
    report = FitReport(
        solve=told,
        gram=replace(gram, n_repaired=repairs.n_repaired),
        n_rows=len(targets),
        n_unique=len(merged.unique),
        executor=resources.executor.name,
        ridge_scores=solved.scores,
        n_warm=n_warm,
        seconds=phases.seconds,
        compile_s=compiling.seconds,
    )
    return DualFit(rows, statistics, solution.x, report, solved.checkpoints)


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
    rows_per_task = predict_rows(len(x), executor.n_slots)
    batches = [
        RowBatch(start, x[start : start + rows_per_task])
        for start in range(0, len(x), rows_per_task)
    ]
    values = np.empty((len(x), dual_coef.shape[1]))
    with Phases(on_event).phase("predict", total=len(batches)):
        retry = RetryPolicy(timeout_s=settings.task_timeout_s)
        for batch, part in executor.map_unordered(task, batches, retry=retry, on_event=on_event):
            values[batch.start : batch.start + len(part)] = part
    if not np.isfinite(values).all():
        raise NonFiniteDataError(
            f"predictions of {np.count_nonzero(~np.isfinite(values).all(axis=1))} of {len(x)} rows "
            f"overflow {kernel.dtype}: they are far larger than the training rows"
        )
    return values
