"""The whole matrix at once: the reference for small systems, and the answer for singular ones."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError

from ntk_dist.errors import MemoryBudgetError
from ntk_dist.settings import available_memory
from ntk_dist.solver.certificate import rounding_share, warn_of_rounding
from ntk_dist.solver.columns import as_columns, unit_columns
from ntk_dist.solver.operators import (
    AbstractOperator,
    DenseOperator,
    RidgedOperator,
    ridge_vector,
)
from ntk_dist.solver.result import Solution, SolveReport, SolveStatus, describe
from ntk_dist.solver.symmetric import SymmetricMatrix, dense_bytes
from ntk_dist.units import format_bytes

__all__ = ["require_dense_room", "solve_direct", "spectral_cut_off"]

Array = NDArray[np.float64]

CLEARLY = 10
"""Cut-offs below zero at which an eigenvalue is negative, and no rounding of a zero."""


def spectral_cut_off(n: int, dtype: np.dtype[Any]) -> float:
    """The share of the largest eigenvalue at or below which an eigenvalue is rounding.

    max(4 eps(dtype) / sqrt(n), n eps(float64)). Rounding n x n entries of size a independently
    moves eigenvalues by about sqrt(n) eps a (the norm of a random symmetric matrix), and the
    largest eigenvalue of a kernel matrix is near n a; 4 is the margin. The second term is what the
    eigenvalue solver itself may err by. The customary n eps(dtype) is 5e-4 for 4000 rows of
    float32 and deletes directions that are there: on protein even eps(dtype) alone left a
    residual of 1.7e-5 where conjugate gradients truly reached 1e-6.
    """
    rounding = 4 * float(np.finfo(dtype).eps) / math.sqrt(max(n, 1))
    return max(rounding, n * float(np.finfo(np.float64).eps))


def require_dense_room(n: int, max_bytes: int) -> None:
    """Refuse a matrix that does not fit.

    Raises
    ------
    MemoryBudgetError
        Names the bytes needed and free.
    """
    needed = dense_bytes(n)
    if needed > max_bytes:
        raise MemoryBudgetError(
            f"solver 'direct' needs {format_bytes(needed)} for {n} rows, got "
            f"{format_bytes(max_bytes)} free: use solver 'cg'"
        )


def solve_direct(
    operator: AbstractOperator | ArrayLike,
    rhs: ArrayLike,
    ridge: ArrayLike = 0.0,
    *,
    tol: float = 1e-6,
) -> Solution:
    """The solution of (K + ridge I) A = Y by Cholesky, or by pseudo-inverse when K is singular.

    Everything runs in float64 and in the memory of this process, which holds the matrix once.
    Cholesky stands if the condition number says that no eigenvalue is at or below
    :func:`spectral_cut_off`; otherwise eigenvalues decide, whose vectors take as much memory again,
    and those at or below the cut-off count as zero: the least-squares answer of minimum norm.

    Parameters
    ----------
    operator : AbstractOperator or (n, n)
        K. The dtype of a plain array says how precise it is.
    rhs : (n,) or (n, n_targets)
        Y.
    ridge : float or (n,)
        Added to the diagonal.
    tol
        What the report compares the residuals with; nothing is tuned by it.

    Raises
    ------
    DataShapeError
        Y has another number of rows.
    NonFiniteDataError
        Y holds NaN or infinity.
    InvalidInputError
        K is not square, or the ridge is negative.
    MemoryBudgetError
        The matrix does not fit in the memory that is free; nothing was gathered.
    """
    started = time.perf_counter()
    if not isinstance(operator, AbstractOperator):
        operator = DenseOperator(operator)
    y, unit = unit_columns(as_columns(rhs, operator.n, "right-hand side"))
    added = ridge_vector(ridge, operator.n)
    require_dense_room(operator.n, available_memory())
    entries = operator.as_dense()
    entries[np.diag_indices(operator.n)] += added
    matrix = SymmetricMatrix(entries)
    asked = added.max(initial=0.0)
    if isinstance(operator, RidgedOperator):
        asked += operator.ridge.max(initial=0.0)
    x, found = _factorize(matrix, y, spectral_cut_off(operator.n, operator.dtype))
    norms = np.asarray(y.any(axis=0), dtype=np.float64)
    if found["status"] is SolveStatus.NON_FINITE:
        residuals = norms
    else:
        residuals = np.linalg.norm(y - matrix @ x, axis=0)
        if found["status"] is SolveStatus.CONVERGED and not np.all(residuals <= tol):
            found["status"] = SolveStatus.STAGNATED
    trace = float(np.abs(matrix.diagonal).sum())
    share = rounding_share(np.linalg.norm(x, axis=0), norms, operator.n, trace, operator.dtype)
    report = SolveReport(
        text=describe(found["status"], residuals, tol, "a factorization"),
        method="direct",
        n=operator.n,
        steps=0,
        products=0,
        residuals=tuple(map(float, residuals)),
        tol=tol,
        ridge=float(asked),
        rounding_share=share,
        seconds=time.perf_counter() - started,
        warnings=(*found.pop("warnings", ()), *warn_of_rounding(share, operator.dtype)),
        **found,
    )
    x = x * unit
    return Solution(x[:, 0] if np.ndim(rhs) == 1 else x, report)


def _factorize(matrix: SymmetricMatrix, y: Array, cut_off: float) -> tuple[Array, dict[str, Any]]:
    """The answer, and the fields of the report that the factorization decides."""
    if not math.isfinite(matrix.norm):
        return np.zeros_like(y), {"status": SolveStatus.NON_FINITE}
    try:
        matrix.factor()
    except LinAlgError:
        return _pseudo_inverse(matrix, y, cut_off)
    reciprocal = matrix.reciprocal_condition()
    # The 1-norm condition bounds the 2-norm one, so this never keeps a singular matrix.
    if reciprocal <= cut_off:
        return _pseudo_inverse(matrix, y, cut_off)
    return matrix.solve(y), {"status": SolveStatus.CONVERGED, "condition": 1.0 / reciprocal}


def _pseudo_inverse(
    matrix: SymmetricMatrix, y: Array, cut_off: float
) -> tuple[Array, dict[str, Any]]:
    values, vectors = matrix.eigenpairs()
    least = cut_off * max(float(values[-1]), 0.0)
    # They ascend: those that are kept are the last ones, and their vectors need no copy.
    kept = slice(int(np.searchsorted(values, least, side="right")), None)
    rank = len(values[kept])
    x = vectors[:, kept] @ ((vectors[:, kept].T @ y) / values[kept, None])
    dropped = len(values) - rank
    if values[0] < -CLEARLY * cut_off * max(float(values[-1]), -float(values[0])):
        status = SolveStatus.INDEFINITE
    else:
        status = SolveStatus.MINIMUM_NORM if dropped else SolveStatus.CONVERGED
    warning = (
        f"{dropped} of {len(values)} eigenvalues at or below {cut_off:.1e} of the largest "
        f"({values[-1]:.1e}) count as zero; the smallest is {values[0]:.1e}"
    )
    return x, {
        "status": status,
        "condition": float(values[-1] / values[kept][0]) if rank else None,
        "rayleigh_smallest": float(values[0]),
        "rank": rank,
        "cut_off": cut_off,
        "warnings": (warning,) if dropped else (),
    }
