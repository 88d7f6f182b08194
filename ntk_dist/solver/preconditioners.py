"""Cheap approximate inverses of K + ridge that make conjugate gradients need fewer steps.

Randomly pivoted Cholesky is what estimators use. The randomized Nyström approximation needs as many
steps (within 6 % on four data sets, ``benchmarks/bench_solver.py``) and a product for each column
of its rank. The diagonal alone (Jacobi) is free, and helps where rows differ in size: 278 steps
become 181 on kin40k, 501 become 476 on bike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, inv, qr, svd

from ntk_dist.errors import InvalidInputError
from ntk_dist.solver.low_rank import (
    LowRank,
    affordable_rank,
    gram_diagonal,
    require_rank,
    require_room,
)
from ntk_dist.solver.nystrom import nystrom
from ntk_dist.solver.operators import AbstractOperator, ridge_vector
from ntk_dist.solver.rpcholesky import rpcholesky
from ntk_dist.solver.tall import times, transposed_times, turn

__all__ = [
    "LOW_RANK_PRECONDITIONERS",
    "AbstractLowRankPreconditioner",
    "AbstractPreconditioner",
    "IdentityPreconditioner",
    "JacobiPreconditioner",
    "NystromPreconditioner",
    "RPCholeskyPreconditioner",
]

Array = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
STEEP = 1e-3
"""Rounding outside the range of F may be this share of the answer within it, before it is projected
away once more. float32 entries stay below; float64 entries of low rank reach 1, and then what is
left outside is rounding entirely."""
ROUNDING = 10
"""Epsilons that projecting a vector twice may leave of one that lies within the range."""
TURNS = 2
"""Products that turn a vector towards the largest eigenvalue of F F^T + ridge. One finds it where
the ridge is the same for all rows."""
FAINT = 0.1
"""Directions of F with a singular value below this share of D's are left to D: one in a hundred of
their curvature is lost, and dividing by it would cost digits."""


class AbstractPreconditioner(ABC):
    """A symmetric positive definite matrix P that is easy to invert."""

    name: ClassVar[str]
    rank: int
    """Rank of the approximation of K inside P; 0 when there is none."""
    passes: int
    """How often building it went through the blocks of K, those on the diagonal alone not
    counted."""
    n_bytes: int
    """What it keeps in memory, in bytes."""

    @abstractmethod
    def solve(self, r: Array) -> Array:
        """P^-1 r for ``r`` of shape ``(n, k)``; linear, symmetric and positive definite in r."""

    @abstractmethod
    def as_dense(self) -> Array:
        """P, of shape ``(n, n)``: ``solve`` is its inverse; for small n only."""

    def norm_at_least(self) -> float:
        """A lower bound, up to rounding, of the largest eigenvalue of K + ridge; 0 if unknown.

        What was built from K knows it: directions of conjugate gradients do not, since a good
        preconditioner takes the large eigenvalues out of them.
        """
        return 0.0


class IdentityPreconditioner(AbstractPreconditioner):
    """No preconditioner: P = I.

    Parameters
    ----------
    n
        Rows; only :meth:`as_dense` needs them.
    """

    name = "identity"
    rank = passes = n_bytes = 0

    def __init__(self, n: int = 0) -> None:
        self._n = n

    def solve(self, r: Array) -> Array:
        """``r`` itself."""
        return r

    def as_dense(self) -> Array:
        """I."""
        return np.eye(self._n)


class JacobiPreconditioner(AbstractPreconditioner):
    """P = diag(K) + ridge, with the mean of that where it is zero, as it is for a blank input.

    Parameters
    ----------
    operator
        K, without the ridge.
    ridge : float or (n,)
        The ridge of the system.

    Raises
    ------
    BreakdownError
        The diagonal is negative somewhere, or not finite.
    InvalidInputError
        K and the ridge are zero.
    """

    name = "jacobi"
    rank = passes = 0

    def __init__(self, operator: AbstractOperator, ridge: ArrayLike = 0.0) -> None:
        diagonal = gram_diagonal(operator) + ridge_vector(ridge, operator.n)
        _require_trace(float(diagonal.mean()))
        self._diagonal = np.where(diagonal > 0, diagonal, diagonal.mean())
        self.n_bytes = self._diagonal.nbytes

    def solve(self, r: Array) -> Array:
        """One division an entry."""
        solved: Array = r / self._diagonal[:, None]
        return solved

    def as_dense(self) -> Array:
        """The diagonal matrix."""
        return np.diag(self._diagonal)


class AbstractLowRankPreconditioner(AbstractPreconditioner):
    """P = F F^T + D for an approximation F F^T of K by a low rank.

    D is diagonal: the ridge, plus the mean of what F F^T leaves of the diagonal of K, which
    stands for the small eigenvalues that a low rank cannot see (Diaz, Epperly, Frangella, Tropp &
    Webber, "Robust, randomized preconditioning for kernel ridge regression", arXiv:2304.12465;
    there D is the ridge alone). With D^-1/2 F = U S V^T, U as it is kept and G = U^T U,

        P^-1 = D^-1/2 (I - U (G + S^-2)^-1 U^T) D^-1/2.

    G is the identity up to the rounding of U. In float32, which takes half the memory, that is
    1e-7; without G, P^-1 would be indefinite as soon as S^2 exceeds 1e7.

    Where S^2 passes 1 / epsilon, as it does when float64 entries make a K of low rank, the
    difference in brackets is nothing but rounding, of either sign. Then

        P^-1 = D^-1/2 (U (I + S^2)^-1 U^T + (I - U U^T)) D^-1/2,

    whose terms act on parts at right angles.

    Parameters
    ----------
    approximation
        F and the residual diagonal.
    ridge : float or (n,)
        The ridge of the system.
    precision
        Machine epsilon of the entries of K: the shift is never less than this share of the mean
        diagonal, nor than n epsilons of float64, since below it the residual diagonal is noise. It
        changes P, never the answer.
    overwrite
        Whether F may be lost, which saves a copy.

    Raises
    ------
    InvalidInputError
        K and the ridge are zero.
    """

    def __init__(
        self,
        approximation: LowRank,
        ridge: ArrayLike = 0.0,
        *,
        precision: float = 2**-52,
        overwrite: bool = False,
    ) -> None:
        factor = approximation.factor if overwrite else approximation.factor.copy()
        n, self.rank = factor.shape
        self.passes = approximation.passes
        diagonal = approximation.residual + np.einsum("ij,ij->i", factor, factor, dtype=np.float64)
        floor = max(precision, n * EPSILON) * float(diagonal.mean())
        self._excess = approximation.shift
        self.shift = max(float(approximation.residual.mean()), floor)
        """Added to the ridge on the diagonal of P."""
        d = ridge_vector(ridge, n) + self.shift
        _require_trace(float(d.min()))
        self._scale = 1.0 / np.sqrt(d)[:, None]
        factor *= self._scale.astype(factor.dtype)
        is_single = factor.dtype == np.float32
        self._u: NDArray[Any]
        self._u, self._s = (_orthogonalize if is_single else _orthonormalize)(factor)
        self._is_steep = (1.0 + self._s.max(initial=0.0) ** 2) * EPSILON > STEEP and not is_single
        if self._is_steep:
            # Then what D exceeds is a pivot made of rounding, and no direction of K.
            kept = self._s > 1.0
            self._u, self._s = np.ascontiguousarray(self._u[:, kept]), self._s[kept]
        self._coupling = _coupling(transposed_times(self._u, self._u), self._s)
        self.n_bytes = self._u.nbytes + self._coupling.nbytes + self._scale.nbytes

    @staticmethod
    @abstractmethod
    def approximate(
        operator: AbstractOperator, rank: int, generator: np.random.Generator
    ) -> LowRank:
        """F F^T close to ``operator``, from random numbers of ``generator``."""

    @classmethod
    def of(
        cls,
        operator: AbstractOperator,
        *,
        rank: int | Literal["auto"] = "auto",
        ridge: ArrayLike = 0.0,
        generator: np.random.Generator,
        max_bytes: int = 2**30,
    ) -> Self:
        """The preconditioner of ``operator`` + diag(``ridge``).

        Parameters
        ----------
        operator
            K, without the ridge.
        rank
            ``"auto"`` takes :func:`~ntk_dist.solver.low_rank.affordable_rank`.
        ridge : float or (n,)
            The ridge of the system.
        generator
            Source of the random pivots or vectors.
        max_bytes
            Memory of this process that building may take.

        Raises
        ------
        InvalidInputError
            The rank is more than n.
        MemoryBudgetError
            Building would take more than ``max_bytes``.
        BreakdownError
            The diagonal is negative somewhere, or an entry is not finite.
        """
        if rank == "auto":
            rank = affordable_rank(operator.n, max_bytes, operator.dtype)
        require_rank(rank, operator.n)
        require_room(operator.n, rank, max_bytes, operator.dtype)
        approximation = cls.approximate(operator, rank, generator)
        precision = float(np.finfo(operator.dtype).eps)
        return cls(approximation, ridge, precision=precision, overwrite=True)

    def solve(self, r: Array) -> Array:
        """Two products with an n x rank matrix, or four where P spans more than 13 digits."""
        w = self._scale * r
        inside = transposed_times(self._u, w)
        if not self._is_steep:
            solved: Array = self._scale * (w - times(self._u, self._coupling @ inside))
            return solved
        outside = w - self._u @ inside
        outside -= self._u @ (self._u.T @ outside)
        noise = ROUNDING * EPSILON * np.linalg.norm(w, axis=0)
        outside[:, np.linalg.norm(outside, axis=0) <= noise] = 0.0
        damped = inside / (1.0 + self._s[:, None] ** 2)
        result: Array = self._scale * (self._u @ damped + outside)
        return result

    def as_dense(self) -> Array:
        """D^1/2 (I + U S^2 U^T) D^1/2."""
        u = self._u * self._s
        inner: Array = (np.eye(len(u)) + u @ u.T) / (self._scale * self._scale.T)
        return inner

    def norm_at_least(self) -> float:
        """The largest eigenvalue of F F^T + ridge, or less; that of K + ridge is no smaller.

        Two products with an n x rank matrix a turn.
        """
        if not self._s.size:
            return 0.0
        vector = self._u[:, [int(np.argmax(self._s))]] / self._scale
        size = 0.0
        for _ in range(TURNS):
            vector /= np.linalg.norm(vector)
            w = vector / self._scale
            w += times(self._u, self._s[:, None] ** 2 * transposed_times(self._u, w))
            vector = w / self._scale - self.shift * vector
            size = float(np.linalg.norm(vector))
        return size - self._excess


class RPCholeskyPreconditioner(AbstractLowRankPreconditioner):
    """Columns of K chosen by accelerated randomly pivoted Cholesky."""

    name = "rpcholesky"
    approximate = staticmethod(rpcholesky)


class NystromPreconditioner(AbstractLowRankPreconditioner):
    """Products of K with random vectors: the randomized Nyström approximation."""

    name = "nystrom"
    approximate = staticmethod(nystrom)


LOW_RANK_PRECONDITIONERS: Mapping[str, type[AbstractLowRankPreconditioner]] = {
    kind.name: kind for kind in (RPCholeskyPreconditioner, NystromPreconditioner)
}
"""By name: those that have a rank to choose."""


def _require_trace(size: float) -> None:
    if not size > 0:
        raise InvalidInputError("expected a Gram matrix with a positive trace, got all zeros")


def _orthogonalize(factor: NDArray[np.float32]) -> tuple[NDArray[np.float32], Array]:
    """U and S of ``factor`` = U S V^T, which is lost; directions of no account are left out.

    From the eigenvalues of the rank x rank F^T F: they err by epsilon of the largest, which is far
    below the 1 that is added to them.
    """
    squares, vectors = eigh(transposed_times(factor, factor), check_finite=False)
    kept = squares > FAINT**2
    s = np.sqrt(squares[kept])
    return turn(factor, vectors[:, kept] / s), s


def _orthonormalize(factor: Array) -> tuple[Array, Array]:
    """U and S of ``factor`` = U S V^T, which is lost, to the last digits of float64."""
    if not factor.size:
        return factor, np.empty(0)
    basis, triangle = qr(
        np.asfortranarray(factor), mode="economic", overwrite_a=True, check_finite=False
    )
    vectors, s, _ = svd(triangle, check_finite=False)
    return turn(basis, vectors), s


def _coupling(overlap: Array, s: Array) -> Array:
    """The matrix (G + S^-2)^-1, by way of one that is the identity where the overlap G is."""
    if not s.size:
        return overlap
    t = s / np.hypot(1.0, s)
    near = t[:, None] * (overlap - np.eye(len(s))) * t + np.eye(len(s))
    inner: Array = t[:, None] * inv(near) * t
    return inner
