"""Preconditioned conjugate gradients on many right-hand sides that share each pass over the matrix.

Every target runs its own recurrence, so its answer does not depend on its neighbours; what is
shared is the product, which is what costs. In each pass a target asks for one product column: of
its search direction (a step), or of its current answer (a check, which gives the true residual). A
check therefore costs a target one pass and the engine none extra while others still step, and
targets that are done ask for nothing.

The recurrence's residual drifts from the true one; nothing is called converged before a check.
When a check finds them apart, the true residual replaces the other and the direction starts afresh,
which turns the rest into iterative refinement.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_dist.errors import DataShapeError, InvalidInputError
from ntk_dist.events import EventSink, StepEvent, ignore
from ntk_dist.solver.certificate import (
    rayleigh_of_answers,
    residual_floor,
    rounding_share,
    warn_of_rounding,
)
from ntk_dist.solver.columns import as_columns, scaled_start, unit_columns
from ntk_dist.solver.direct import spectral_cut_off
from ntk_dist.solver.operators import AbstractOperator, RidgedOperator
from ntk_dist.solver.preconditioners import AbstractPreconditioner, IdentityPreconditioner
from ntk_dist.solver.recurrence import CGRules, CGState, advance, start
from ntk_dist.solver.result import Solution, SolveReport, SolveStatus, describe
from ntk_dist.solver.resume import CHECKPOINT_EVERY_S, StateKeeper
from ntk_dist.store.checkpoint import Checkpoint

__all__ = ["solve_cg"]

ROUNDING = 10
"""Epsilons of the trace that count as rounding, where computing an entry takes many operations."""


def solve_cg(
    operator: AbstractOperator,
    rhs: ArrayLike,
    preconditioner: AbstractPreconditioner | None = None,
    *,
    tol: float = 1e-6,
    max_steps: int | None = None,
    check_every: int = 50,
    patience: int = 300,
    x0: ArrayLike | None = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    on_step: EventSink = ignore,
) -> Solution:
    """The solution of A X = Y to a true relative residual of ``tol`` in every column.

    Parameters
    ----------
    operator
        A: symmetric and positive semidefinite, its ridge included.
    rhs : (n,) or (n, n_targets)
        Y.
    preconditioner
        None is the identity.
    tol
        Bound on ||y - A x|| / ||y|| for each target, the residual recomputed from x.
    max_steps
        Steps allowed to each target; None is max(n, 1000).
    check_every
        Steps between checks; each costs a target one pass.
    patience
        Steps without a better true residual after which a target has stagnated, if they are also
        half of all its steps.
    x0 : same shape as rhs
        Where to start; zero if None, and for targets that it leaves with a larger residual.
    checkpoint
        Where the state is written down now and then, when the matrix fails, and at the end of a
        solve that took long enough. One that is there already is where the solve goes on, with the
        same bytes as if it had not been cut off; its identity has to cover all the other arguments.
        It is there afterwards, too: whoever gave it deletes it when the answer is safe.
    checkpoint_every_s
        Seconds between checkpoints, at least; they take 1 % of the time at most.
    on_step
        Told of a :class:`~ntk_dist.events.StepEvent` after each pass, and of checkpoints.

    Returns
    -------
    Solution
        The best answer of each target, by its true residual, whatever the status. The report's
        Ritz values belong to the preconditioned matrix P^-1 A: its spectrum is at least that wide,
        and the steps needed grow with the square root of ``condition``. ``rayleigh_smallest``
        belongs to A itself, ridge included: the smallest eigenvalue is at most that. Both tell how
        near to singular the solve came; neither proves that nothing smaller exists.

    Raises
    ------
    DataShapeError
        Y or x0 has another number of rows, or they differ in shape.
    NonFiniteDataError
        Y or x0 holds NaN or infinity.
    InvalidInputError
        A rule is not positive.
    """
    started = time.perf_counter()
    preconditioner = preconditioner or IdentityPreconditioner()
    # No eigenvalue is above the trace, and rounding every entry moves none by more than epsilon of
    # it, since an entry is no larger than the geometric mean of its two on the diagonal.
    diagonal = operator.diagonal()
    trace = float(np.abs(diagonal).sum())
    rules = _rules(operator, trace, tol, max_steps, check_every, patience)
    y = as_columns(rhs, operator.n, "right-hand side")
    y, unit = unit_columns(y)
    guess = None if x0 is None else as_columns(x0, operator.n, "x0")
    if guess is not None and guess.shape != y.shape:
        raise DataShapeError(f"expected x0 of shape {y.shape}, got {guess.shape}")
    keeper = StateKeeper(CGState, checkpoint, checkpoint_every_s, on_step)
    found = keeper.find((operator.n, y.shape[1]))
    state = found or start(y, preconditioner, None if guess is None else scaled_start(guess, unit))
    try:
        while state.live.size:
            with np.errstate(all="ignore"):  # a product that is not finite gets a verdict
                product = operator.matmat(state.wanted)
            state = advance(state, product, y, preconditioner, rules)
            keeper.after_pass(state)
            residuals = tuple(map(float, state.residual))
            on_step(StepEvent(step=state.step, tol=tol, residuals=residuals))
    except BaseException:  # workers lost, or a person's interruption: the same call goes on
        keeper.save(state)
        raise
    keeper.after_last_pass(state)
    x = state.best_x * unit
    return Solution(
        x[:, 0] if np.ndim(rhs) == 1 else x,
        replace(
            _report(
                state, operator, preconditioner, rules, y, diagonal, time.perf_counter() - started
            ),
            resumed_from_step=keeper.resumed_from_step,
        ),
    )


def _report(
    state: CGState,
    operator: AbstractOperator,
    preconditioner: AbstractPreconditioner,
    rules: CGRules,
    y: NDArray[np.float64],
    diagonal: NDArray[np.float64],
    seconds: float,
) -> SolveReport:
    status = state.worst
    ritz = state.trace.extremes()
    rayleigh = min(state.rayleigh_smallest, rayleigh_of_answers(state.best_x, y, state.best))
    largest = _largest_known(state, preconditioner, rules, diagonal)
    if ritz and isinstance(preconditioner, IdentityPreconditioner):
        rayleigh, largest = min(rayleigh, ritz[0]), max(largest, ritz[1])
    seen = np.isfinite(rayleigh)
    text = describe(status, state.best, rules.tol, f"{state.step} steps")
    warnings = []
    rounding = spectral_cut_off(operator.n, operator.dtype) * largest
    if seen and rayleigh <= rounding:
        warnings.append(
            f"the matrix is singular to the precision of its {operator.dtype} entries (smallest "
            f"Rayleigh quotient {rayleigh:.1e}, norm at least {largest:.1e}): the "
            "answer depends on their rounding"
        )
    x_norms, y_norms = (np.linalg.norm(v, axis=0) for v in (state.best_x, y))
    trace = float(np.abs(diagonal).sum())
    share = rounding_share(x_norms, y_norms, operator.n, trace, operator.dtype)
    warnings += warn_of_rounding(share, operator.dtype)
    floor = residual_floor(share, operator.dtype)
    if status is SolveStatus.STAGNATED and np.max(state.best) <= floor:
        warnings.append(
            f"float64 sums may leave a true relative residual of {floor:.0e} here: tol "
            f"{rules.tol:.0e} is out of reach, loosen it"
        )
    if status is SolveStatus.INDEFINITE and state.rayleigh_smallest < -rules.rounding:
        text += (
            f" The curvature p'Ap / p'p is {state.rayleigh_smallest:.1e} in one direction, where "
            f"rounding of the {operator.dtype} entries explains {-rules.rounding:.1e} at most."
        )
    return SolveReport(
        status=status,
        text=text,
        method="cg",
        n=operator.n,
        steps=state.step,
        products=state.products,
        residuals=tuple(map(float, state.best)),
        tol=rules.tol,
        ritz_smallest=ritz[0] if ritz else None,
        ritz_largest=ritz[1] if ritz else None,
        condition=ritz[1] / ritz[0] if ritz and ritz[0] > 0 else None,
        rayleigh_smallest=float(rayleigh) if seen else None,
        norm_largest=largest or None,
        matrix_condition=largest / rayleigh if seen and rayleigh > 0 else None,
        rounding_share=share,
        preconditioner=preconditioner.name,
        preconditioner_rank=preconditioner.rank,
        preconditioner_passes=preconditioner.passes,
        preconditioner_bytes=preconditioner.n_bytes,
        ridge=float(operator.ridge.max()) if isinstance(operator, RidgedOperator) else 0.0,
        seconds=seconds,
        warnings=tuple(warnings),
    )


def _largest_known(
    state: CGState,
    preconditioner: AbstractPreconditioner,
    rules: CGRules,
    diagonal: NDArray[np.float64],
) -> float:
    """A lower bound of the largest eigenvalue: the best of what directions, P and A itself say.

    Of 709, on 1000 standardized digits and rank 125, directions say 6.5 and P says 703.
    """
    largest = float(np.max(diagonal, initial=state.norm_largest, where=np.isfinite(diagonal)))
    if state.worst.is_breakdown:  # then A is no Gram matrix, and may have less than P
        return largest
    return max(largest, preconditioner.norm_at_least() - rules.rounding)


def _rules(
    operator: AbstractOperator,
    trace: float,
    tol: float,
    max_steps: int | None,
    check_every: int,
    patience: int,
) -> CGRules:
    rules = CGRules(
        tol=tol,
        max_steps=max(operator.n, 1000) if max_steps is None else max_steps,
        check_every=check_every,
        patience=patience,
        flat=ROUNDING * float(np.finfo(np.float64).eps) * trace,
        rounding=ROUNDING * float(np.finfo(operator.dtype).eps) * trace,
    )
    for name in ("tol", "max_steps", "check_every", "patience"):
        value = getattr(rules, name)
        if not value > 0:
            raise InvalidInputError(f"{name}: expected a positive number, got {value}")
    return rules
