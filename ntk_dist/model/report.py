"""What a fit says about itself: how good the answer is and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ntk_dist.solver.result import SolveReport
from ntk_dist.solver.ridge_choice import RidgeScore
from ntk_dist.units import format_bytes

__all__ = ["FitReport", "GramReport"]


@dataclass(frozen=True, kw_only=True)
class GramReport:
    """What became of the Gram matrix."""

    key: str
    """Its name in the workspace."""
    block_rows: int
    n_blocks: int
    n_computed: int
    """Blocks computed by this fit; the others were found in the workspace."""
    n_adopted: int = 0
    """Blocks taken from the Gram matrix of a data set that this one grew from."""
    n_bytes: int
    """All blocks, in bytes."""
    n_repaired: int = 0
    """Stored blocks, and batches of statistics, found lost or damaged and computed again."""


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """Everything worth knowing about a fitted model."""

    solve: SolveReport
    gram: GramReport
    n_rows: int
    """Training rows given."""
    n_unique: int
    """Distinct training inputs; repeated ones were merged and their targets averaged."""
    executor: str
    ridge_scores: tuple[RidgeScore, ...] = ()
    """How each ridge did on held-out rows, where several were given."""
    n_warm: int | None = None
    """Distinct rows whose coefficients an earlier fit knew; None if none was asked for."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each phase."""
    compile_s: float = 0.0
    """Seconds of it that went into compiling engines, which each machine does once."""

    @property
    def status(self) -> str:
        """``converged``, or what went wrong."""
        return self.solve.status.value

    @property
    def iterations(self) -> int:
        """Steps the solver took."""
        return self.solve.steps

    @property
    def residuals(self) -> tuple[float, ...]:
        """True relative residual ||y - K a|| / ||y|| of every target, in float64."""
        return self.solve.residuals

    @property
    def ritz_smallest(self) -> float | None:
        """Smallest Ritz value of the system that was iterated; see :class:`SolveReport`."""
        return self.solve.ritz_smallest

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            **{k: v for k, v in asdict(self).items() if k != "solve"},
            "solve": self.solve.to_dict(),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FitReport:
        """The inverse of :meth:`to_dict`."""
        return cls(
            **{
                **record,
                "solve": SolveReport.from_dict(record["solve"]),
                "ridge_scores": tuple(RidgeScore(**s) for s in record.get("ridge_scores", ())),
                "gram": GramReport(**record["gram"]),
            }
        )

    def _spectrum(self) -> list[str]:
        """What is known of the eigenvalues, as lines of text."""
        solve = self.solve
        known = []
        if solve.matrix_condition is not None:
            known.append(f"condition of the matrix at least {solve.matrix_condition:.1e}")
        if solve.ritz_smallest is not None and solve.condition is not None:
            known.append(
                f"of the preconditioned one {solve.condition:.1e} ({solve.preconditioner}, rank "
                f"{solve.preconditioner_rank}, {format_bytes(solve.preconditioner_bytes)})"
            )
        return [f"  {', '.join(known)}"] if known else []

    def __str__(self) -> str:
        rounds = self.solve.refinements
        refined = f", {rounds} refinements from float64 residuals" if rounds else ""
        lines = [
            f"{self.status}: {self.solve.text}",
            f"  {self.iterations} steps{refined}, largest true relative residual "
            f"{max(self.residuals, default=0.0):.1e} (asked for {self.solve.tol:.0e})",
            f"  Gram {self.gram.key}: {self.gram.n_blocks} blocks of {self.gram.block_rows} rows, "
            f"{format_bytes(self.gram.n_bytes)}, {self.gram.n_computed} computed now",
            *self._spectrum(),
        ]
        if self.gram.n_adopted:
            lines.append(
                f"  {self.gram.n_adopted} blocks were those of a data set that this one grew from"
            )
        if self.gram.n_repaired:
            lines.append(
                f"  {self.gram.n_repaired} stored blocks or batches of statistics were found lost "
                "or damaged: computed again"
            )
        if self.n_unique < self.n_rows:
            lines.append(
                f"  {self.n_rows - self.n_unique} of {self.n_rows} rows repeat an earlier input: "
                "merged, targets averaged (the pseudo-inverse answer)"
            )
        if self.ridge_scores:
            told = ", ".join(
                f"{s.ridge:g}: {s.error:.4g}{'' if s.has_converged else ' (not converged)'}"
                for s in self.ridge_scores
            )
            lines.append(
                f"  ridge {self.solve.ridge:g} chosen by the error on held-out rows ({told})"
            )
        if self.n_warm is not None:
            lines.append(
                f"  started from the coefficients that an earlier fit had for {self.n_warm} of "
                f"{self.n_unique} rows"
            )
        if self.solve.resumed_from_step is not None:
            lines.append(f"  went on from step {self.solve.resumed_from_step} of an earlier run")
        lines += [f"  warning: {text}" for text in self.solve.warnings]
        phases = ", ".join(f"{name} {s:.1f} s" for name, s in self.seconds.items())
        lines.append(f"  {phases} on {self.executor}")
        if self.compile_s:
            lines.append(f"  {self.compile_s:.1f} s of that compiled engines, once on each machine")
        return "\n".join(lines)
