"""What a solver hands back: an answer, and a report that says how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_dist.errors import BreakdownError, NotConvergedError

__all__ = ["Solution", "SolveReport", "SolveStatus", "describe"]


class SolveStatus(Enum):
    """How a solve ended; the explanation says what happened and what to try."""

    CONVERGED = "converged"
    MINIMUM_NORM = "minimum_norm"
    MAX_STEPS = "max_steps"
    STAGNATED = "stagnated"
    INDEFINITE = "indefinite"
    NON_FINITE = "non_finite"

    @property
    def is_success(self) -> bool:
        """Whether the answer is the one that was asked for."""
        return self in {SolveStatus.CONVERGED, SolveStatus.MINIMUM_NORM}

    @property
    def is_breakdown(self) -> bool:
        """Whether the matrix itself, not the effort spent, is at fault."""
        return self in {SolveStatus.INDEFINITE, SolveStatus.NON_FINITE}

    @property
    def explanation(self) -> str:
        """One or two sentences for a person."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    SolveStatus.CONVERGED: "The true residual of every target met the tolerance.",
    SolveStatus.MINIMUM_NORM: (
        "The matrix is singular to the precision of its entries, so this is the least-squares "
        "answer of minimum norm (the pseudo-inverse)."
    ),
    SolveStatus.MAX_STEPS: (
        "The step limit came before the tolerance. Allow more steps, give the preconditioner a "
        "higher rank, or loosen the tolerance."
    ),
    SolveStatus.STAGNATED: (
        "The true residual stopped improving above the tolerance: the matrix is singular or nearly "
        "so, and the targets are not in its range. Collapse repeated inputs, add a ridge, compute "
        "the blocks in float64, or solve directly for the minimum-norm answer."
    ),
    SolveStatus.INDEFINITE: (
        "A direction has negative curvature beyond rounding, so this is no Gram matrix to the "
        "precision of its blocks. Compute the blocks in float64, add a ridge, or check the kernel."
    ),
    SolveStatus.NON_FINITE: (
        "A product with the matrix was NaN or infinite. Check the inputs and the blocks for "
        "values that are not finite or too large."
    ),
}


@dataclass(frozen=True, kw_only=True)
class SolveReport:
    """The numbers behind an answer; plain types, so that it travels as JSON."""

    status: SolveStatus
    """The worst over all targets."""
    text: str
    """What happened and what to try, with the numbers of this solve."""
    method: str
    """``cg``; ``direct``; ``block krylov``, of several ridges at once; ``cg, direct`` when the
    second answered for the first; ``cg, refined`` when residuals are those of the matrix evaluated
    again in float64."""
    n: int
    """Rows of the system."""
    steps: int
    """Most steps any target took."""
    products: int
    """Passes over the Gram matrix, checks included."""
    residuals: tuple[float, ...]
    """True relative residual ||y - A x|| / ||y|| of every target, recomputed from x in float64."""
    tol: float
    """What the residuals had to meet."""
    ritz_smallest: float | None = None
    """Smallest Ritz value of the preconditioned matrix: above its smallest eigenvalue."""
    ritz_largest: float | None = None
    """Largest Ritz value of the preconditioned matrix: below its largest eigenvalue."""
    condition: float | None = None
    """Their ratio: a lower bound of the preconditioned condition number, which governs the steps.
    For ``direct`` the condition of the matrix itself (in the 1-norm when Cholesky was used)."""
    rayleigh_smallest: float | None = None
    """Smallest p'Ap / p'p seen, of search directions and of answers, or Ritz value without a
    preconditioner: an upper bound of the smallest eigenvalue of A = K + ridge itself (the
    eigenvalue where ``direct`` computed it)."""
    norm_largest: float | None = None
    """A lower bound of the largest eigenvalue of A itself: the largest ||A p|| / ||p|| seen, entry
    of the diagonal, or eigenvalue of what a preconditioner of low rank found in K, whichever is
    most; or Ritz value without a preconditioner."""
    matrix_condition: float | None = None
    """``norm_largest / rayleigh_smallest``: a lower bound of the condition number of A itself."""
    rounding_share: float | None = None
    """About how much of the targets' size predictions may move by because the entries of A are
    rounded; see :mod:`ntk_dist.solver.certificate`."""
    refinements: int = 0
    """Corrections from such residuals; each took a pass of evaluations, and so did the last
    check."""
    rank: int | None = None
    """Eigenvalues kept by ``direct``; None where none had to be judged."""
    cut_off: float | None = None
    """Relative to the largest eigenvalue: those at or below count as zero in ``direct``."""
    preconditioner: str = "identity"
    preconditioner_rank: int = 0
    preconditioner_passes: int = 0
    """Passes over the Gram matrix that building it took, beside ``products``."""
    preconditioner_bytes: int = 0
    """What it took of this process's memory while it was used."""
    ridge: float = 0.0
    """Largest ridge on the diagonal, as the caller asked."""
    jitter: float = 0.0
    """What was added to the diagonal unasked."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that this solve went on from; None if it started afresh. Steps and
    products count those before it too."""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Types that JSON knows."""
        return {
            **asdict(self),
            "status": self.status.value,
            "residuals": list(self.residuals),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> SolveReport:
        """The inverse of :meth:`to_dict`."""
        return cls(
            **{
                **record,
                "status": SolveStatus(record["status"]),
                "residuals": tuple(record["residuals"]),
                "warnings": tuple(record["warnings"]),
            }
        )


@dataclass(frozen=True)
class Solution:
    """The best answer found, finite whatever happened, and the report on it."""

    x: NDArray[np.float64]
    """Shape ``(n, n_targets)``, or ``(n,)`` when the right-hand side was that."""
    report: SolveReport

    def raise_for_status(self) -> Solution:
        """The same solution, if it is one.

        Raises
        ------
        NotConvergedError
            The tolerance was not met; more effort or a ridge may help.
        BreakdownError
            The matrix is indefinite or not finite.
        """
        if self.report.status.is_success:
            return self
        kind = BreakdownError if self.report.status.is_breakdown else NotConvergedError
        raise kind(self.report.text)


def describe(status: SolveStatus, residuals: NDArray[np.float64], tol: float, effort: str) -> str:
    """The text of a report: the explanation, and where the worst target stands.

    Parameters
    ----------
    status
        How it ended.
    residuals : (n_targets,)
        True relative residuals.
    tol
        What they had to meet.
    effort
        What was spent, such as ``48 steps``.
    """
    if not residuals.size:
        return status.explanation
    worst = int(np.argmax(residuals))
    met = int(np.sum(residuals <= tol))
    return (
        f"{status.explanation} {met} of {residuals.size} targets at or below {tol:.1e}; the "
        f"largest relative residual is {residuals[worst]:.1e} (target {worst}) after {effort}."
    )
