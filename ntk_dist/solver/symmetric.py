"""One symmetric matrix in one piece of memory: factored in place, and still known afterwards.

A Cholesky factor takes one triangle, and so do LAPACK's eigenvalues; the other triangle and a copy
of the diagonal go on saying what the matrix was, for residuals and for a second attempt.

Nothing here asks for the update of a whole triangle at once (dsyrk, and so dpotrf and dposv): when
few threads share many rows, OpenBLAS writes past a buffer there and ends the process (see
OpenMathLib/OpenBLAS#2562). With two threads it did at 20,000 rows and not at 12,000, in SciPy 1.17
(its 0.3.30) as in a plain ``a @ a.T`` of NumPy 2.4 (its 0.3.31). Panels take no longer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular

__all__ = ["PANEL_ROWS", "SymmetricMatrix", "dense_bytes"]

Array = NDArray[np.float64]

PANEL_ROWS = 2000
"""Rows and columns of a panel."""
PANELS_AT_ONCE = 4
"""Copies of panels that are on their way at one time."""
CONDITION_STEPS = 5
"""Columns of the inverse that are looked at to estimate its norm; two are often enough."""


def dense_bytes(n: int) -> int:
    """Peak memory of solving with a matrix of ``n`` rows, in bytes.

    The matrix, its eigenvectors, which it takes only if it turns out singular, and some panels.
    """
    return 2 * 8 * n**2 + PANELS_AT_ONCE * 8 * min(n, PANEL_ROWS) * n


class SymmetricMatrix:
    """A symmetric matrix that can be factored, and multiplied by before and afterwards.

    Parameters
    ----------
    entries : (n, n)
        Float64 and C-contiguous. They belong to this object from now on.
    panel_rows
        Rows of a panel, and columns.
    """

    def __init__(self, entries: Array, panel_rows: int = PANEL_ROWS) -> None:
        self._entries = np.require(entries, np.float64, ["C", "W"])
        self.diagonal: Array = self._entries.diagonal().copy()
        n = len(entries)
        self._panels = [slice(k, min(k + panel_rows, n)) for k in range(0, n, panel_rows)]
        self.norm = self._largest_sum()
        """Largest sum of absolute values in a column; not finite where an entry is not."""

    def __matmul__(self, x: Array) -> Array:
        """The product with ``x``, of shape ``(n, k)``."""
        product = self.diagonal[:, None] * x
        for rows in self._panels:
            corner, beyond = self._corner(rows), slice(rows.stop, None)
            right = self._entries[rows, beyond]
            product[rows] += (corner + corner.T) @ x[rows] + right @ x[beyond]
            product[beyond] += right.T @ x[rows]
        return product

    def factor(self) -> None:
        """Put L where the lower triangle was: L L^T is the matrix.

        Raises
        ------
        LinAlgError
            It is not positive definite, to rounding.
        """
        entries = self._entries
        for rows in self._panels:
            left = entries[rows, : rows.start]
            corner = cholesky(
                entries[rows, rows] - left @ left.T,
                lower=True,
                overwrite_a=True,
                check_finite=False,
            )
            entries[rows, rows] = corner + self._corner(rows)
            for below in self._after(rows):
                rest = entries[below, rows] - entries[below, : rows.start] @ left.T
                entries[below, rows] = solve_triangular(
                    corner, rest.T, lower=True, overwrite_b=True, check_finite=False
                ).T

    def solve(self, y: Array) -> Array:
        """The x of shape ``(n, k)`` whose product is ``y``, from the factor."""
        factor, x = self._entries, y.copy()
        for rows in self._panels:
            x[rows] -= factor[rows, : rows.start] @ x[: rows.start]
            x[rows] = solve_triangular(factor[rows, rows], x[rows], lower=True, check_finite=False)
        for rows in reversed(self._panels):
            x[rows] -= factor[rows.stop :, rows].T @ x[rows.stop :]
            x[rows] = solve_triangular(
                factor[rows, rows], x[rows], lower=True, trans="T", check_finite=False
            )
        return x

    def reciprocal_condition(self) -> float:
        """An estimate of 1 / (|A| |A^-1|) in the 1-norm, from the factor; seldom 3 times too large.

        By Algorithm 4.1 of Higham, "FORTRAN codes for estimating the one-norm of a real or complex
        matrix", ACM TOMS 14 (1988). LAPACK's dpocon gives the same; it shares out every
        operation on a single column, and so took 70 s with two threads on a busy machine, 3 with
        one, at 14,000 rows. This takes 2 to 5.
        """
        n, inverse = len(self.diagonal), 0.0
        x = np.full((n, 1), 1.0 / n)
        for _ in range(CONDITION_STEPS):
            column = self.solve(x)
            if (found := float(np.abs(column).sum())) <= inverse:
                break
            inverse = found
            # The gradient says which column of the inverse may be larger.
            gradient = self.solve(np.where(column < 0, -1.0, 1.0))
            x = np.zeros((n, 1))
            x[np.argmax(np.abs(gradient))] = 1.0
        swing = np.linspace(1, 2, n)[:, None] * (-1.0) ** np.arange(n)[:, None]
        inverse = max(inverse, 2 * float(np.abs(self.solve(swing)).sum()) / (3 * n))
        return 1.0 / (self.norm * inverse)

    def eigenpairs(self) -> tuple[Array, Array]:
        """Eigenvalues, ascending, and eigenvectors as columns; the factor is lost."""
        entries = self._entries
        for rows in self._panels:
            corner = self._corner(rows)
            entries[rows, rows] = corner + corner.T
            for below in self._after(rows):
                entries[below, rows] = entries[rows, below].T
        np.fill_diagonal(entries, self.diagonal)
        values, vectors = eigh(entries.T, lower=False, overwrite_a=True, check_finite=False)
        return values, vectors

    def _corner(self, rows: slice) -> Array:
        """A panel on the diagonal: what is above the diagonal there, and zeros."""
        return np.triu(self._entries[rows, rows], 1)

    def _after(self, rows: slice) -> Iterator[slice]:
        return (panel for panel in self._panels if panel.start >= rows.stop)

    def _largest_sum(self) -> float:
        sums = np.abs(self.diagonal)
        for rows in self._panels:
            corner = np.abs(self._corner(rows))
            sums[rows] += corner.sum(axis=0) + corner.sum(axis=1)
            for after in self._after(rows):
                panel = np.abs(self._entries[rows, after])
                sums[rows] += panel.sum(axis=1)
                sums[after] += panel.sum(axis=0)
        return float(sums.max(initial=0.0))
