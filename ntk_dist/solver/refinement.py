"""Iterative refinement: the answer of an exact matrix, by solving with a rounded copy of it.

The residual y - A x is taken with A as it is, evaluated again in float64, and the correction that
it asks for from the stored A + E, whose entries are rounded (Wilkinson 1963; Higham, Accuracy and
Stability of Numerical Algorithms, chapter 12). Each round multiplies the error by about
||(A + E)^-1 E||, so a condition of 1e5 in float32 gains two to four digits a round, at the cost of
one pass over A. Past 1 / epsilon of the stored entries nothing is gained, and the rounds stop.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_dist.events import Event, EventSink, StepEvent, ignore
from ntk_dist.solver.certificate import residual_floor, rounding_share, warn_of_rounding
from ntk_dist.solver.cg import solve_cg
from ntk_dist.solver.columns import as_columns, scaled_start, unit_columns
from ntk_dist.solver.operators import AbstractOperator
from ntk_dist.solver.preconditioners import AbstractPreconditioner
from ntk_dist.solver.result import Solution, SolveReport, SolveStatus, describe
from ntk_dist.solver.resume import CHECKPOINT_EVERY_S, StateKeeper
from ntk_dist.solver.rounds import Rounds
from ntk_dist.solver.solve import DENSE_ROWS, solve
from ntk_dist.store.checkpoint import Checkpoint

__all__ = ["MOST_ROUNDS", "solve_refined"]

Array = NDArray[np.float64]

MOST_ROUNDS = 20
"""Rounds when nobody says how many: each that does not halve the residual is the last anyway."""
INNER = (1e-6, 1e-1)
"""Bounds of the tolerance of a correction. What it gains beyond the rounding of the stored entries
is lost, but a step is far cheaper than a pass of evaluations."""
SHARE = 0.3
"""Of the tolerance, for the last correction: the rest is for the rounding."""


def solve_refined(
    stored: AbstractOperator,
    exact: AbstractOperator,
    rhs: ArrayLike,
    preconditioner: AbstractPreconditioner | None = None,
    *,
    tol: float = 1e-6,
    rounds: int = MOST_ROUNDS,
    max_steps: int | None = None,
    x0: ArrayLike | None = None,
    checkpoint: Checkpoint | None = None,
    rounds_checkpoint: Checkpoint | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    on_step: EventSink = ignore,
    dense_rows: int = DENSE_ROWS,
) -> Solution:
    """The solution of A X = Y for the exact A, to a true relative residual of ``tol``.

    Parameters
    ----------
    stored
        A rounded, ridge included: what is solved with.
    exact
        A: what residuals are taken with, one product a round.
    rhs : (n,) or (n, n_targets)
        Y.
    preconditioner, max_steps, on_step, dense_rows
        See :func:`~ntk_dist.solver.solve.solve`; steps are allowed to each round.
    tol
        Bound on ||y - A x|| / ||y|| for each target.
    rounds
        Most corrections.
    x0, checkpoint, checkpoint_every_s
        See :func:`~ntk_dist.solver.solve.solve`; of the first solve, which takes most of the steps.
    rounds_checkpoint
        Where what each round has come to is kept, and found again by one that was cut off later.

    Returns
    -------
    Solution
        The best answer of each target. Residuals in the report are those of ``exact``;
        ``refinements`` says how many corrections were made. Where the stored system is singular
        to its precision there is nothing to correct with: its answer comes back as it is, with a
        warning.

    Raises
    ------
    DataShapeError, NonFiniteDataError, InvalidInputError
        See :func:`~ntk_dist.solver.cg.solve_cg`.
    """
    started = time.perf_counter()
    y, unit = unit_columns(as_columns(rhs, exact.n, "right-hand side"))
    first = solve(
        stored,
        y,
        preconditioner,
        tol=_inner_tolerance(tol, 1.0),
        max_steps=max_steps,
        x0=None if x0 is None else scaled_start(as_columns(x0, exact.n, "x0"), unit),
        checkpoint=checkpoint,
        checkpoint_every_s=checkpoint_every_s,
        on_step=on_step,
        dense_rows=dense_rows,
    )
    if first.report.status is not SolveStatus.CONVERGED or first.report.method != "cg":
        warning = (
            "not refined: a correction is solved with the stored matrix, and conjugate gradients "
            "did not converge on it; compute the blocks in float64 instead"
        )
        report = replace(first.report, warnings=(*first.report.warnings, warning))
        return _scaled(first.x, report, unit, rhs)
    keeper = StateKeeper(Rounds, rounds_checkpoint, checkpoint_every_s, on_step)
    state = keeper.find(y.shape) or Rounds.after(first, exact, y)
    # Kept after every pass over A, however short: it takes as long as the Gram matrix did.
    keeper.save(state)
    while not state.is_fruitless and state.made < rounds:
        live = np.flatnonzero(state.sizes > tol)
        if not live.size:
            break
        correction = solve_cg(
            stored,
            state.residual[:, live],
            preconditioner,
            tol=_inner_tolerance(tol, state.history[-1]),
            max_steps=max_steps,
            on_step=_rescaled(on_step, state, live, tol),
        )
        state.correct(live, correction, exact, y)
        keeper.save(state)
    report = _report(first.report, state, stored, tol, time.perf_counter() - started)
    if keeper.resumed_from_step is not None:
        report = replace(report, resumed_from_step=keeper.resumed_from_step)
    return _scaled(state.best_x, report, unit, rhs)


def _inner_tolerance(tol: float, residual: float) -> float:
    return float(np.clip(SHARE * tol / residual, *INNER))


def _scaled(x: Array, report: SolveReport, unit: Array, rhs: ArrayLike) -> Solution:
    x = x * unit
    return Solution(x[:, 0] if np.ndim(rhs) == 1 else x, report)


def _rescaled(on_step: EventSink, state: Rounds, live: NDArray[np.intp], tol: float) -> EventSink:
    """A sink that tells residuals of corrections as what they make of those of the targets."""
    before, sizes = state.step, state.sizes

    def sink(event: Event) -> None:
        if isinstance(event, StepEvent):
            residuals = sizes.copy()
            residuals[live] *= event.residuals
            event = StepEvent(
                step=before + event.step, tol=tol, residuals=tuple(map(float, residuals))
            )
        on_step(event)

    return sink


def _report(
    first: SolveReport, state: Rounds, stored: AbstractOperator, tol: float, seconds: float
) -> SolveReport:
    if np.all(state.best <= tol):
        status = SolveStatus.CONVERGED
    else:
        status = SolveStatus.STAGNATED if state.is_fruitless else SolveStatus.MAX_STEPS
    text = describe(status, state.best, tol, f"{state.step} steps in {state.made + 1} rounds")
    course = ", ".join(f"{size:.1e}" for size in state.history)
    double = np.dtype(np.float64)
    trace = float(np.abs(stored.diagonal()).sum())
    x_norms = np.linalg.norm(state.best_x, axis=0)
    share = rounding_share(x_norms, np.ones_like(x_norms), stored.n, trace, double)
    rest = text.removeprefix(status.explanation).lstrip()
    if status is SolveStatus.MAX_STEPS:
        text = (
            f"The limit of {state.made} refinements came before the tolerance (largest residual "
            f"round by round {course}): allow more, or loosen it. {rest}"
        )
    elif status is SolveStatus.STAGNATED:
        if state.history[-1] <= residual_floor(share, double):
            cause = "float64 sums leave no less here: loosen the tolerance."
        else:
            cause = (
                f"the {stored.dtype} entries are rounded by as much as the smallest eigenvalues: "
                "compute the blocks in float64, or add a ridge."
            )
        text = (
            f"Refinement came to its end (largest residual round by round {course}), because "
            f"{cause} {rest}"
        )
    return replace(
        first,
        status=status,
        text=text,
        method="cg, refined",
        steps=state.step,
        products=state.products,
        residuals=tuple(map(float, state.best)),
        tol=tol,
        refinements=state.made,
        rounding_share=share,
        seconds=seconds,
        warnings=warn_of_rounding(share, double),
    )
