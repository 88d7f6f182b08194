"""What the rounds of an iterative refinement have come to: the numbers the next one depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_dist.solver.operators import AbstractOperator
from ntk_dist.solver.result import Solution
from ntk_dist.solver.resume import arrays_of, values_of

__all__ = ["GAIN", "Rounds"]

Array = NDArray[np.float64]

GAIN = 0.5
"""A round that leaves more than this of the largest residual is the last."""


@dataclass
class Rounds:
    """The answer so far, and the best one of each target; these are of unit length, or zero."""

    x: Array
    """Answer after the last correction, of shape ``(n, n_targets)``."""
    residual: Array
    """Y - A x."""
    best_x: Array
    """Best answer of each target."""
    best: Array
    """Norm of its residual, of shape ``(n_targets,)``."""
    history: Array
    """Largest of them before each round, and after the last one."""
    step: int
    """Steps of conjugate gradients so far."""
    products: int
    """Products with the stored matrix so far."""
    broke_down: bool = False
    """Whether the last correction is what was left of a breakdown."""

    @classmethod
    def after(cls, first: Solution, exact: AbstractOperator, y: Array) -> Rounds:
        """Before any correction of ``first``, a solution of the stored system."""
        best = np.asarray(y.any(axis=0), dtype=np.float64)
        none = np.zeros_like(y)
        rounds = cls(first.x, y, none, best, np.empty(0), first.report.steps, first.report.products)
        rounds._measure(exact, y)
        return rounds

    def correct(
        self, live: NDArray[np.intp], correction: Solution, exact: AbstractOperator, y: Array
    ) -> None:
        """Take in a correction of the targets ``live``, and measure what it gained."""
        self.x = self.x.copy()
        self.x[:, live] += correction.x
        self.step += correction.report.steps
        self.products += correction.report.products
        self.broke_down = correction.report.status.is_breakdown
        self._measure(exact, y)

    def _measure(self, exact: AbstractOperator, y: Array) -> None:
        self.residual = y - exact.matmat(self.x)
        better = self.sizes < self.best
        self.best_x[:, better] = self.x[:, better]
        self.best = np.minimum(self.best, self.sizes)
        self.history = np.append(self.history, np.max(self.best, initial=0.0))

    @property
    def sizes(self) -> Array:
        """Norms of the residuals."""
        norms: Array = np.linalg.norm(self.residual, axis=0)
        return norms

    @property
    def made(self) -> int:
        """Corrections so far."""
        return len(self.history) - 1

    @property
    def is_fruitless(self) -> bool:
        """Whether the last correction says that another one would gain nothing."""
        gained = self.made < 1 or self.history[-1] <= GAIN * self.history[-2]
        return self.broke_down or not gained

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything by its name, to be written down."""
        return arrays_of(self)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> Rounds:
        """The inverse of :meth:`to_arrays`, for a right-hand side of ``shape``.

        Raises
        ------
        KeyError, ValueError
            A part is missing, or has the shape of another system.
        """
        rounds = cls(**values_of(cls, arrays))
        got = {rounds.x.shape, rounds.residual.shape, rounds.best_x.shape}
        if got != {shape} or rounds.best.shape != shape[1:] or not rounds.history.size:
            raise ValueError(f"expected rounds of shape {shape}, got {got} and {rounds.best.shape}")
        return rounds
