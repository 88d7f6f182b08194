"""Eigenvalue estimates that conjugate gradients leave behind for free.

With step lengths a_k and direction coefficients b_k, the tridiagonal matrix of the Lanczos
process has 1/a_k + b_{k-1}/a_{k-1} on the diagonal and sqrt(b_k)/a_k beside it (Saad, Iterative
Methods for Sparse Linear Systems, section 6.7.3). Its eigenvalues, the Ritz values, lie within the
spectrum of the preconditioned matrix P^-1/2 A P^-1/2 and reach its ends first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal

__all__ = ["LanczosTrace"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LanczosTrace:
    """Coefficients of every target, one row per pass."""

    alphas: Array
    """Shape ``(passes, n_targets)``; NaN where the target took no step."""
    betas: Array
    """Same shape; 0 where the recurrence was begun afresh after this step."""

    @classmethod
    def empty(cls, n_targets: int) -> LanczosTrace:
        """Nothing yet."""
        return cls(np.empty((0, n_targets)), np.empty((0, n_targets)))

    def extended(self, alphas: Array, betas: Array) -> LanczosTrace:
        """The trace with one more pass; both arguments of shape ``(n_targets,)``."""
        return LanczosTrace(np.vstack([self.alphas, alphas]), np.vstack([self.betas, betas]))

    def restarted(self, targets: NDArray[np.intp]) -> LanczosTrace:
        """The trace with the recurrences of some targets cut after their last step."""
        betas = self.betas.copy()
        for target in targets:
            taken = np.flatnonzero(~np.isnan(self.alphas[:, target]))
            betas[taken[-1:], target] = 0.0
        return LanczosTrace(self.alphas, betas)

    def extremes(self) -> tuple[float, float] | None:
        """Smallest and largest Ritz value over all targets; None when no step was taken."""
        values = [
            ritz
            for target in range(self.alphas.shape[1])
            for segment in self._segments(target)
            if (ritz := _ritz_values(*segment)).size
        ]
        if not values:
            return None
        return min(float(v[0]) for v in values), max(float(v[-1]) for v in values)

    def _segments(self, target: int) -> list[tuple[Array, Array]]:
        taken = ~np.isnan(self.alphas[:, target])
        alphas, betas = self.alphas[taken, target], self.betas[taken, target]
        cuts = np.flatnonzero(betas == 0) + 1
        return list(zip(np.split(alphas, cuts), np.split(betas, cuts), strict=True))


def _ritz_values(alphas: Array, betas: Array) -> Array:
    """Ascending positive eigenvalues of the tridiagonal matrix; none for an empty segment.

    Rounding may leave coefficients that no positive definite matrix has. The segment ends before
    the first of them: what came earlier still holds.
    """
    with np.errstate(all="ignore"):
        diagonal = 1.0 / alphas
        diagonal[1:] += betas[:-1] / alphas[:-1]
        beside = np.sqrt(betas[:-1]) / alphas[:-1]
    sound = (alphas > 0) & np.isfinite(diagonal) & np.isfinite(np.r_[0.0, beside][: len(alphas)])
    end = len(alphas) if sound.all() else int(np.argmin(sound))
    if not end:
        return alphas[:0]
    values: Array = eigvalsh_tridiagonal(diagonal[:end], beside[: end - 1])
    return values[values > 0]
