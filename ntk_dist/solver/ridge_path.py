"""Answers for many ridges from one sequence of passes over the matrix.

The Krylov space of K + ridge I does not depend on the ridge, so one basis Q of it serves them all:
x = Q (Q'KQ + ridge I)^-1 Q'Y. Random columns beside the targets in the first block stand in for a
preconditioner, which would tie the space to one ridge: Chen, Huber, Lin & Zaid, "Preconditioning
without a preconditioner", arXiv:2501.18717. Answers have no recurrence: the whole basis is kept.

Twelve ridges from 1e-6 to 1 of the mean diagonal, to 1e-6, on 4000 rows of CIFAR-10, kin40k and
bike: 32, 32 and 43 passes over the matrix for all of them, 496, 511 and 746 for conjugate gradients
with a preconditioner of rank 400, one ridge after another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError

from ntk_dist.errors import InvalidInputError, MemoryBudgetError
from ntk_dist.events import EventSink, StepEvent, ignore
from ntk_dist.solver.block_lanczos import KrylovSpace
from ntk_dist.solver.columns import as_columns, unit_columns
from ntk_dist.solver.direct import spectral_cut_off
from ntk_dist.solver.operators import AbstractOperator
from ntk_dist.solver.result import Solution, SolveReport, SolveStatus, describe
from ntk_dist.units import format_bytes

__all__ = ["BLOCK_SIZE", "columns_that_fit", "solve_ridge_path"]

Array = NDArray[np.float64]

BLOCK_SIZE = 32
"""Columns of a product, made up with random ones where there are fewer targets: on 2000 rows of
kin40k (one target) 40 passes with 10 columns and 24 with 32, in a basis of 400 and 768 vectors."""

GAIN = 0.5
"""Of its residual: where a space of twice the size leaves more, a singular matrix has no answer."""
LEAST_PASSES = 24
"""Passes that memory should have room for: narrower blocks take more of them, but find more with as
many vectors."""


@dataclass
class _Ridge:
    """What is known of one ridge while the space grows."""

    ridge: float
    inner: Array
    """Coefficients of its answer in the basis."""
    residuals: Array
    """Of its answer, shape ``(n_targets,)``."""
    passes: int = 0
    status: SolveStatus | None = None
    """None while it still asks for more."""
    tried: int = 0
    """Vectors in the space when it was last solved in as a singular one."""

    def update(self, space: KrylovSpace, passes: int, tol: float, rounding: float) -> None:
        """Solve for this ridge in the space as it is now."""
        self.passes = passes
        try:
            self.inner, self.residuals = space.solve(self.ridge)
        except LinAlgError:
            low, high = space.extremes()
            if low + self.ridge < -rounding * high:
                self.status = SolveStatus.INDEFINITE
            elif space.size >= 2 * self.tried or not space.width:  # eigenvectors cost much more
                self._update_singular(space, tol, rounding)
        else:
            if np.all(self.residuals <= tol):
                self.status = SolveStatus.CONVERGED

    def _update_singular(self, space: KrylovSpace, tol: float, rounding: float) -> None:
        """The least-squares answer of minimum norm, while a larger space makes it better."""
        inner, residuals = space.solve_singular(self.ridge, rounding)
        gained = residuals.max() <= GAIN * self.residuals.max()
        if residuals.max() <= self.residuals.max():
            self.inner, self.residuals = inner, residuals
        if np.all(residuals <= tol):
            self.status = SolveStatus.CONVERGED
        elif self.tried and not gained:
            self.status = SolveStatus.STAGNATED
        self.tried = space.size


def solve_ridge_path(
    operator: AbstractOperator,
    rhs: ArrayLike,
    ridges: Sequence[float],
    *,
    generator: np.random.Generator,
    tol: float = 1e-6,
    block_size: int = BLOCK_SIZE,
    max_bytes: int = 2**30,
    on_step: EventSink = ignore,
) -> tuple[Solution, ...]:
    """The solutions of (K + ridge I) X = Y for every ridge, in the order given.

    Each pass multiplies K by one block of columns; when every ridge has converged, one more pass
    with all answers together gives their true residuals. The smaller a ridge, the more passes it
    takes, and every pass adds a block to the basis: where that no longer fits, the answers for the
    smallest ridges are as good as they got, and say so.

    Parameters
    ----------
    operator
        K: symmetric and positive semidefinite, without a ridge; its products are sums in float64,
        whatever its entries are, or the basis would have more rounding in it than it can see.
    rhs : (n,) or (n, n_targets)
        Y.
    ridges
        At least one, each 0 or more.
    generator
        Source of the random columns: the same state gives the same answers.
    tol
        Bound on ||y - (K + ridge I) x|| / ||y|| for each target and ridge.
    block_size
        Columns of a product, unless there are more targets, or no memory for many passes.
    max_bytes
        Memory of this process that the basis may take: 8 n bytes for each column of each pass. The
        answers take 16 n bytes for each target and ridge besides.
    on_step
        Told of a :class:`~ntk_dist.events.StepEvent` after each pass, with the largest residual of
        each target over the ridges.

    Returns
    -------
    tuple of Solution
        In the reports, ``steps`` are the passes until the ridge had converged, ``products`` the
        passes of all ridges together, which share them, and the Ritz values those of K + ridge I.

    Raises
    ------
    DataShapeError, NonFiniteDataError
        Y has another number of rows, or holds NaN or infinity.
    InvalidInputError
        There is no ridge, or one is negative or not finite; the tolerance or the block size is not
        positive.
    MemoryBudgetError
        ``max_bytes`` does not hold two blocks.
    """
    started = time.perf_counter()
    n = operator.n
    y, unit = unit_columns(as_columns(rhs, n, "right-hand side"))
    sizes = np.asarray(y.any(axis=0), dtype=np.float64)
    _require_sensible(ridges, tol, block_size)
    most = columns_that_fit(n, y.shape[1], max_bytes)
    extra = max(0, min(block_size, most // LEAST_PASSES, n) - y.shape[1])
    path = [_Ridge(float(r), np.zeros((0, y.shape[1])), sizes) for r in ridges]
    space = KrylovSpace(y, generator.standard_normal((n, extra)), most)
    passes, rounding = 0, spectral_cut_off(n, operator.dtype)
    while any(r.status is None for r in path) and 0 < space.width <= most - space.size:
        with np.errstate(all="ignore"):  # a product that is not finite gets a verdict
            product = operator.matmat(space.newest)
        passes += 1
        if not np.isfinite(product).all():
            for one in path:
                one.status, one.residuals = SolveStatus.NON_FINITE, sizes
                one.inner = one.inner[:0]
            break
        space.grow(product)
        for one in path:
            if one.status is None:
                one.update(space, passes, tol, rounding)
        worst = np.max([one.residuals for one in path], axis=0)
        on_step(StepEvent(step=passes, tol=tol, residuals=tuple(map(float, worst))))
    x = np.concatenate([space.combine(one.inner) for one in path], axis=1)
    if any(one.inner.size for one in path):
        product, passes = operator.matmat(x), passes + 1
    else:
        product = np.zeros_like(x)
    solutions = []
    for k, one in enumerate(path):
        here = slice(k * y.shape[1], (k + 1) * y.shape[1])
        answer = x[:, here]
        true = np.linalg.norm(y - product[:, here] - one.ridge * answer, axis=0)
        report = _report(one, true, space, passes, tol, n, time.perf_counter() - started)
        answer = answer * unit
        solutions.append(Solution(answer[:, 0] if np.ndim(rhs) == 1 else answer, report))
    return tuple(solutions)


def _report(
    one: _Ridge,
    true: Array,
    space: KrylovSpace,
    products: int,
    tol: float,
    n: int,
    seconds: float,
) -> SolveReport:
    status = one.status
    if np.all(true <= tol):
        status = SolveStatus.CONVERGED
    elif status is SolveStatus.CONVERGED or (status is None and not space.width):
        status = SolveStatus.STAGNATED  # the answer in the basis is better than it truly is
    elif status is None:
        status = SolveStatus.MAX_STEPS
    text = describe(status, true, tol, f"{one.passes} passes")
    if one.status is SolveStatus.STAGNATED and status is one.status:
        text = (
            f"K + {one.ridge:g} I is singular to rounding, and the targets are not in its range as "
            f"far as {space.size} vectors show: offer a larger ridge. "
            f"{text.removeprefix(status.explanation).lstrip()}"
        )
    if status is SolveStatus.MAX_STEPS:
        text += (
            f" The basis of {space.size} vectors has filled the memory it may take: allow more, or "
            f"solve for ridge {one.ridge:g} by conjugate gradients."
        )
    ends = [end + one.ridge for end in space.extremes()] if space.size else [None, None]
    low, high = ends
    return SolveReport(
        status=status,
        text=text,
        method="block krylov",
        n=n,
        steps=one.passes,
        products=products,
        residuals=tuple(map(float, true)),
        tol=tol,
        ritz_smallest=low,
        ritz_largest=high,
        condition=high / low if low is not None and high is not None and low > 0 else None,
        rayleigh_smallest=low,
        ridge=one.ridge,
        seconds=seconds,
    )


def _require_sensible(ridges: Sequence[float], tol: float, block_size: int) -> None:
    if not len(ridges):
        raise InvalidInputError("ridges: expected at least one, got none")
    for ridge in ridges:
        if not (np.isfinite(ridge) and ridge >= 0):
            raise InvalidInputError(f"ridges: expected finite numbers of at least 0, got {ridge}")
    for name, value in (("tol", tol), ("block_size", block_size)):
        if not value > 0:
            raise InvalidInputError(f"{name}: expected a positive number, got {value}")


def columns_that_fit(n: int, width: int, max_bytes: int) -> int:
    """Most columns of the basis, for ``n`` rows and a ``width`` of so many targets.

    Raises
    ------
    MemoryBudgetError
        Fewer than two blocks.
    """
    most = max_bytes // (8 * n)
    if most < min(2 * width, n):
        raise MemoryBudgetError(
            f"a path of ridges needs {format_bytes(2 * width * 8 * n)} for two blocks of {width} "
            f"columns of {n} rows, got {format_bytes(max_bytes)}: allow more memory, or solve for "
            "one ridge"
        )
    return most
