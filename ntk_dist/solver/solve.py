"""Conjugate gradients, and the dense solver where they find the matrix to be singular."""

from __future__ import annotations

from dataclasses import replace

from numpy.typing import ArrayLike

from ntk_dist.events import EventSink, ignore
from ntk_dist.settings import available_memory
from ntk_dist.solver.cg import solve_cg
from ntk_dist.solver.direct import solve_direct
from ntk_dist.solver.operators import AbstractOperator
from ntk_dist.solver.preconditioners import AbstractPreconditioner
from ntk_dist.solver.result import Solution, SolveStatus
from ntk_dist.solver.resume import CHECKPOINT_EVERY_S
from ntk_dist.solver.symmetric import dense_bytes
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.units import format_bytes

__all__ = ["DENSE_ROWS", "solve"]

DENSE_ROWS = 5000
"""Most rows that are solved densely unasked: 5000 take 0.7 GB, and about a minute if eigenvalues
have to decide."""


def solve(
    operator: AbstractOperator,
    rhs: ArrayLike,
    preconditioner: AbstractPreconditioner | None = None,
    *,
    tol: float = 1e-6,
    max_steps: int | None = None,
    x0: ArrayLike | None = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    on_step: EventSink = ignore,
    dense_rows: int = DENSE_ROWS,
) -> Solution:
    """The solution of A X = Y, or the least-squares one of minimum norm if A is singular.

    Conjugate gradients answer wherever they can. Where they stagnate or find the matrix indefinite,
    the matrix is gathered, unless it is too large for that, or for the memory that is free then,
    and :func:`solve_direct` answers.

    Parameters
    ----------
    operator
        A: symmetric and positive semidefinite, its ridge included.
    rhs : (n,) or (n, n_targets)
        Y.
    preconditioner, tol, max_steps, x0, checkpoint, checkpoint_every_s, on_step
        See :func:`solve_cg`.
    dense_rows
        Most rows for which the whole matrix may be gathered in this process.

    Returns
    -------
    Solution
        That of :func:`solve_cg`, or that of :func:`solve_direct` with the method ``cg, direct``,
        the steps and products of the attempt, and a warning that tells of it.

    Raises
    ------
    DataShapeError, NonFiniteDataError, InvalidInputError
        See :func:`solve_cg`.
    """
    first = solve_cg(
        operator,
        rhs,
        preconditioner,
        tol=tol,
        max_steps=max_steps,
        x0=x0,
        checkpoint=checkpoint,
        checkpoint_every_s=checkpoint_every_s,
        on_step=on_step,
    )
    tried = first.report
    if tried.status not in (SolveStatus.STAGNATED, SolveStatus.INDEFINITE):
        return first
    why_not = _why_not_dense(operator.n, dense_rows)
    if why_not:
        return replace(first, report=replace(tried, text=f"{tried.text} {why_not}"))
    second = solve_direct(operator, rhs, tol=tol)
    ended = "stagnated" if tried.status is SolveStatus.STAGNATED else "found negative curvature"
    warning = (
        f"conjugate gradients {ended} after {tried.steps} steps (largest relative residual "
        f"{max(tried.residuals):.1e}); the dense solver answered"
    )
    report = replace(
        second.report,
        method="cg, direct",
        steps=tried.steps,
        products=tried.products,
        preconditioner=tried.preconditioner,
        preconditioner_rank=tried.preconditioner_rank,
        preconditioner_passes=tried.preconditioner_passes,
        preconditioner_bytes=tried.preconditioner_bytes,
        resumed_from_step=tried.resumed_from_step,
        seconds=tried.seconds + second.report.seconds,
        warnings=(warning, *second.report.warnings),
    )
    return replace(second, report=report)


def _why_not_dense(n: int, dense_rows: int) -> str:
    """What keeps the dense solver from stepping in, and what to do; empty where nothing does."""
    needed, free = dense_bytes(n), available_memory()
    if n > dense_rows:
        return (
            f"The dense solver steps in by itself up to {dense_rows} rows; these are {n}, so ask "
            f"for it if {format_bytes(needed)} of memory are free."
        )
    if needed > free:
        return (
            f"The dense solver did not step in: it needs {format_bytes(needed)}, got "
            f"{format_bytes(free)} free; free some memory and run the same again."
        )
    return ""
