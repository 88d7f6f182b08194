"""An orthonormal basis of a block Krylov space, and the matrix as seen in it.

Block Lanczos with full reorthogonalization: without it the basis loses its orthogonality as soon as
an extreme eigenvalue is found, and then more passes buy nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eig_banded, eigvals_banded, qr, solveh_banded

__all__ = ["KrylovSpace"]

Array = NDArray[np.float64]

PANEL = 512
"""Columns of the basis that are multiplied at a time: of 4096 with 32,000 entries, 32 columns lose
their shares in 0.48 s; 0.53 s with panels of 128, 0.99 s with panels of 32."""
SPENT = 64 * float(np.finfo(np.float64).eps)
"""Share of the norm of the matrix below which a new direction is rounding, and left out."""


class KrylovSpace:
    """The span of W, A W, A^2 W, ... for W = [y, extra], a block at a time.

    With Q the basis, T = Q'AQ is block tridiagonal, and so banded.

    Parameters
    ----------
    y : (n, k)
        Unit or zero columns.
    extra : (n, l)
        More columns to start with.
    most
        Columns that the basis will have at most; None is n.
    """

    def __init__(self, y: Array, extra: Array, most: int | None = None) -> None:
        lengths = np.linalg.norm(extra, axis=0)
        columns = np.concatenate([y, extra / np.where(lengths > 0, lengths, 1.0)], axis=1)
        self.newest, weights = _orthonormal(columns, SPENT)
        """The block to multiply by next, of shape ``(n, width)``; no columns when A maps the space
        into itself."""
        self._start = weights[:, : y.shape[1]]
        self._basis = _Panels(len(y), len(y) if most is None else min(most, len(y)))
        self._previous = np.zeros((len(y), 0))
        # LAPACK's lower form; a row more than needed, since SciPy cannot solve 1 x 1 in two.
        self._band = np.zeros((2 * columns.shape[1] + 1, 0))
        self._coupling = np.zeros((self.width, 0))
        self._norm = 0.0

    @property
    def width(self) -> int:
        """Columns of the next product."""
        return int(self.newest.shape[1])

    @property
    def size(self) -> int:
        """Columns of the basis: those that have been multiplied."""
        return int(self._band.shape[1])

    def grow(self, product: Array) -> None:
        """Take in A times :attr:`newest`."""
        known, width = self.newest, self.width
        inside = known.T @ product
        self._basis.append(known)
        self._norm = max(self._norm, float(np.linalg.norm(product, axis=0).max(initial=0.0)))
        # In exact arithmetic this is all there is to take away, directions aside that were left out
        # as rounding. What is left of the rest of the basis is taken from the directions, where it
        # is small beside their length; once is enough for what keeps half of it (Kahan's rule; the
        # others are rounding themselves).
        rest = product - known @ inside - self._previous @ self._coupling.T
        self.newest, outside = _orthonormal(rest, SPENT * self._norm)
        self.newest, again = _orthonormal(self._basis.beyond(self.newest), 0.5)
        self._previous, self._coupling = known, again @ outside
        fresh = np.zeros((len(self._band), width))
        for j in range(width):
            fresh[: width - j, j] = (inside[j:, j] + inside[j, j:]) / 2
            fresh[width - j : width - j + self.width, j] = self._coupling[:, j]
        self._band = np.concatenate([self._band, fresh], axis=1)

    def solve(self, ridge: float) -> tuple[Array, Array]:
        """(T + ridge I)^-1 Q'y and the residuals of the answers that it stands for.

        Returns
        -------
        inner : (size, k)
        residuals : (k,)
            Norms of y - (A + ridge I) Q inner.

        Raises
        ------
        LinAlgError
            T + ridge I is not positive definite, so A + ridge I is not either.
        """
        band = self._band.copy()
        band[0] += ridge
        rhs = np.zeros((self.size, self._start.shape[1]))
        rhs[: len(self._start)] = self._start
        inner: Array = solveh_banded(band, rhs, lower=True, check_finite=False)
        last = inner[self.size - self._coupling.shape[1] :]
        return inner, np.linalg.norm(self._coupling @ last, axis=0)

    def solve_singular(self, ridge: float, cut_off: float) -> tuple[Array, Array]:
        """(T + ridge I)^+ Q'y and its residuals, as :meth:`solve`, for a T that is singular.

        All eigenvectors of T are computed, which takes some ten ``size``^3 operations.

        Parameters
        ----------
        ridge
            Added to the diagonal.
        cut_off
            Eigenvalues up to so much of the largest count as zero.
        """
        values, vectors = eig_banded(self._band, lower=True, check_finite=False)
        values += ridge
        kept = values > cut_off * values[-1]
        shares = vectors[: len(self._start)].T @ self._start
        inner: Array = vectors[:, kept] @ (shares[kept] / values[kept, None])
        last = inner[self.size - self._coupling.shape[1] :]
        squares = (shares[~kept] ** 2).sum(axis=0) + ((self._coupling @ last) ** 2).sum(axis=0)
        return inner, np.sqrt(squares)

    def combine(self, inner: Array) -> Array:
        """Q inner, of shape ``(n, k)``, for the ``inner`` of this or an earlier size."""
        return self._basis.combine(inner)

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest Ritz value: the eigenvalues of A reach at least as far."""
        n = self.size
        ends = [
            eigvals_banded(self._band, lower=True, select="i", select_range=(i, i))[0]
            for i in (0, n - 1)
        ]
        return float(ends[0]), float(ends[1])


class _Panels:
    """Orthonormal columns of ``n`` entries, kept in wide arrays, ``most`` at most."""

    def __init__(self, n: int, most: int) -> None:
        self.size = 0
        self._n, self._most = n, most
        self._arrays: list[Array] = []

    def append(self, block: Array) -> None:
        """Take in more columns."""
        taken = 0
        while taken < block.shape[1]:
            at = self.size % PANEL
            if at == 0:
                # Column by column, so that those still to come take no memory.
                width = min(PANEL, self._most - self.size)
                self._arrays.append(np.empty((self._n, width), order="F"))
            more = block[:, taken : taken + PANEL - at]
            self._arrays[-1][:, at : at + more.shape[1]] = more
            taken, self.size = taken + more.shape[1], self.size + more.shape[1]

    def beyond(self, columns: Array) -> Array:
        """``columns`` without their shares in these."""
        columns = columns.copy()
        for panel in self._panels():
            columns -= panel @ (panel.T @ columns)
        return columns

    def combine(self, inner: Array) -> Array:
        """The first ``len(inner)`` columns times ``inner``."""
        answer = np.zeros((self._n, inner.shape[1]))
        for k, panel in enumerate(self._panels()):
            rows = inner[k * PANEL : (k + 1) * PANEL]
            answer += panel[:, : len(rows)] @ rows
        return answer

    def _panels(self) -> Iterator[Array]:
        for k, array in enumerate(self._arrays):
            yield array[:, : self.size - k * PANEL]


def _orthonormal(columns: Array, least: float) -> tuple[Array, Array]:
    """Q with orthonormal columns and R with Q R = ``columns``, up to directions below ``least``."""
    q, r, order = qr(columns, mode="economic", pivoting=True, check_finite=False)
    kept = int(np.sum(np.abs(r.diagonal()) > least))
    weights = np.empty((kept, columns.shape[1]))
    weights[:, order] = r[:kept]
    return np.ascontiguousarray(q[:, :kept]), weights
