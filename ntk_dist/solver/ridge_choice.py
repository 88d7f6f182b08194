"""Which ridge predicts rows best that it was not fitted on.

The Gram matrix of all rows is there, so that of the rows kept is a part of it and the kernel
between them and those held out another: nothing is computed again, products are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntk_dist.errors import InvalidInputError, NotConvergedError
from ntk_dist.events import EventSink, ignore
from ntk_dist.solver.operators import AbstractOperator
from ntk_dist.solver.ridge_path import columns_that_fit, solve_ridge_path

__all__ = [
    "HELD_OUT",
    "RidgeScore",
    "SubmatrixOperator",
    "best_ridge",
    "require_room_to_choose",
    "score_ridges",
]

Array = NDArray[np.float64]

HELD_OUT = 0.2
"""Share of the rows that no ridge is fitted on while they are compared."""
SCORE_TOL = 1e-4
"""Residual that is enough to compare: on 2000 rows of CIFAR-10, kin40k, elevators and bike no error
of seven ridges, from 1e-6 to 1 of the mean diagonal, moved by 6e-6 of itself from here to 1e-8."""


@dataclass(frozen=True, kw_only=True)
class RidgeScore:
    """How well one ridge did."""

    ridge: float
    error: float
    """Root mean square over the rows held out and the targets, in the targets' unit."""
    residual: float
    """Largest true relative residual of the fit on the other rows."""
    has_converged: bool
    """Whether that met the tolerance; a ridge that did not is not chosen."""


class SubmatrixOperator(AbstractOperator):
    """The rows and columns ``rows`` of another operator.

    Parameters
    ----------
    operator
        K.
    rows : (m,)
        Distinct indices.
    """

    def __init__(self, operator: AbstractOperator, rows: NDArray[np.intp]) -> None:
        self.n, self.dtype = len(rows), operator.dtype
        self.operator, self.rows = operator, rows

    def spread(self, v: Array) -> Array:
        """``v`` in the rows of the whole, zero elsewhere: shape ``(operator.n, k)``."""
        whole = np.zeros((self.operator.n, v.shape[1]))
        whole[self.rows] = v
        return whole

    def matmat(self, v: Array) -> Array:
        """One product of the whole, of which some rows are kept."""
        product: Array = self.operator.matmat(self.spread(v))[self.rows]
        return product

    def diagonal(self) -> Array:
        """Some of the diagonal."""
        return self.operator.diagonal()[self.rows]

    def columns(self, indices: NDArray[np.intp]) -> Array:
        """Some rows of some columns."""
        return self.operator.columns(self.rows[indices])[self.rows]


def score_ridges(
    operator: AbstractOperator,
    rhs: Array,
    ridges: Sequence[float],
    *,
    generator: np.random.Generator,
    counts: NDArray[np.intp],
    tol: float = SCORE_TOL,
    share: float = HELD_OUT,
    max_bytes: int = 2**30,
    on_step: EventSink = ignore,
) -> tuple[RidgeScore, ...]:
    """The error of every ridge on rows held out, from one path over them all.

    Parameters
    ----------
    operator
        K of all rows, without a ridge; scaled by the roots of the counts, as ``rhs`` is.
    rhs : (n, n_targets)
        Targets.
    ridges
        Each 0 or more.
    generator
        Chooses the rows that are held out.
    counts : (n,)
        How often each row occurs: what its error counts.
    tol
        Relative residual of the fits that are compared.
    share
        Of the rows held out; at least one is, and one is not.
    max_bytes
        See :func:`~ntk_dist.solver.ridge_path.solve_ridge_path`.
    on_step
        Told of each pass.

    Raises
    ------
    InvalidInputError
        There are fewer than two rows.
    MemoryBudgetError
        See :func:`~ntk_dist.solver.ridge_path.solve_ridge_path`.
    """
    n_out = _n_held_out(operator.n, share)
    order = generator.permutation(operator.n)
    out, kept = np.sort(order[:n_out]), np.sort(order[n_out:])
    part = SubmatrixOperator(operator, kept)
    path = solve_ridge_path(
        part,
        rhs[kept],
        ridges,
        generator=generator,
        tol=tol,
        max_bytes=max_bytes,
        on_step=on_step,
    )
    # At any scale of the targets: squares of 1e160 are no numbers.
    largest = float(np.max(np.abs(rhs), initial=0.0)) or 1.0
    together = np.concatenate([solution.x for solution in path], axis=1)
    predicted = np.hsplit(operator.matmat(part.spread(together))[out], len(path))
    weight = float(counts[out].sum()) * rhs.shape[1]
    return tuple(
        RidgeScore(
            ridge=solution.report.ridge,
            error=float(np.linalg.norm((values - rhs[out]) / largest) / np.sqrt(weight)) * largest,
            residual=max(solution.report.residuals),
            has_converged=solution.report.status.is_success,
        )
        for solution, values in zip(path, predicted, strict=True)
    )


def require_room_to_choose(n: int, n_targets: int, max_bytes: int) -> None:
    """Refuse, before anything is computed, ridges that could not be compared.

    Parameters
    ----------
    n
        Distinct rows.
    n_targets, max_bytes
        See :func:`score_ridges`.

    Raises
    ------
    InvalidInputError
        There are fewer than two rows.
    MemoryBudgetError
        See :func:`~ntk_dist.solver.ridge_path.solve_ridge_path`.
    """
    columns_that_fit(n - _n_held_out(n, HELD_OUT), n_targets, max_bytes)


def _n_held_out(n: int, share: float) -> int:
    """How many rows of ``n``."""
    if n < 2:
        raise InvalidInputError(
            f"ridge: expected two distinct rows or more to choose one on rows held out, got {n}; "
            "give one ridge"
        )
    return min(max(round(share * n), 1), n - 1)


def best_ridge(scores: Sequence[RidgeScore]) -> float:
    """The ridge of the smallest error among those that converged; the larger one of equals.

    Raises
    ------
    NotConvergedError
        None of them did.
    """
    sound = [score for score in scores if score.has_converged and np.isfinite(score.error)]
    if not sound:
        raise NotConvergedError(
            f"no ridge could be judged: of {len(scores)} none was solved to the tolerance on the "
            f"rows kept (smallest residual {min(s.residual for s in scores):.1e}); offer larger "
            "ridges, or give NTK_DIST_PRECONDITIONER_MAX_BYTES more memory"
        )
    return min(sound, key=lambda score: (score.error, -score.ridge)).ridge
