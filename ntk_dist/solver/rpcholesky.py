"""Low-rank approximation of a Gram matrix from a few of its columns.

Accelerated randomly pivoted Cholesky: Epperly, Tropp & Webber, "Embrace rejection: kernel matrix
approximation by accelerated randomly pivoted Cholesky", arXiv:2410.03969. Pivots have the law of
the one-at-a-time method (each drawn with probability proportional to the diagonal of the
residual; Chen, Epperly, Tropp & Webber, arXiv:2207.06503), but a whole block is proposed at once
and thinned by rejection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from ntk_dist.errors import BreakdownError
from ntk_dist.solver.low_rank import LowRank, gram_diagonal, require_rank
from ntk_dist.solver.operators import AbstractOperator
from ntk_dist.solver.tall import row_tiles, times

__all__ = ["rpcholesky"]

Array = NDArray[np.float64]

LEAST_PROPOSALS = 32
"""Proposals of a round are what is still missing, but never fewer than this: at the end of a
factorization most proposals are rejected, and a round costs a pass over the blocks."""


def rpcholesky(operator: AbstractOperator, rank: int, generator: np.random.Generator) -> LowRank:
    """A factor F with F F^T close to the operator, from one call of ``columns`` per pass.

    Asking for the columns of all proposals, rejected ones too, costs memory for them but only one
    pass over the blocks; the columns of the accepted ones alone would need two. Stops early once
    the residual trace is at the precision of the operator's entries, in which F is kept.

    Parameters
    ----------
    operator
        K, without a ridge.
    rank
        Columns wanted, 0 to n.
    generator
        Source of the random pivots: the same state gives the same factor.

    Raises
    ------
    InvalidInputError
        The rank is negative or more than n.
    BreakdownError
        The diagonal is negative somewhere, or an entry is not finite.
    """
    n = operator.n
    require_rank(rank, n)
    original = gram_diagonal(operator)
    # What is left of an entry below its own rounding is noise, and no pivot.
    floor = 4 * float(np.finfo(operator.dtype).eps) * original
    residual = original.copy()
    factor = np.empty((n, rank), operator.dtype)
    pivots: list[int] = []
    passes = 0
    while len(pivots) < rank and np.any(residual > floor):
        done = len(pivots)
        weights = np.where(residual > floor, residual, 0.0)
        size = max(rank - done, LEAST_PROPOSALS)
        # With replacement, as the law needs: a proposal turned down once may be drawn again.
        proposals = generator.choice(n, size=size, p=weights / weights.sum())
        distinct, position = np.unique(proposals, return_inverse=True)
        columns = operator.columns(distinct)
        passes += 1
        if not np.all(np.isfinite(columns)):
            row, column = np.argwhere(~np.isfinite(columns))[0]
            raise BreakdownError(
                f"expected finite entries, got {columns[row, column]} in row {row}, column "
                f"{distinct[column]} of the Gram matrix; check the inputs and the stored blocks"
            )
        known = factor[distinct, :done].astype(np.float64).T
        among = columns[distinct] - times(factor[distinct, :done], known)
        block = among[np.ix_(position, position)]
        kept, lower = _reject(block, floor[proposals], rank - done, generator)
        if kept.size == 0:
            # Only when the columns say that nothing was left here: believe them and draw elsewhere.
            residual[proposals] = np.clip(block.diagonal(), 0.0, floor[proposals])
            continue
        chosen = proposals[kept]
        wanted = position[kept]
        known = np.ascontiguousarray(known[:, wanted])
        # Row by row what is left of the columns, so that no second n x rank matrix is made.
        for rows in row_tiles(n, rank, rank):
            left = columns[rows][:, wanted] - times(factor[rows, :done], known)
            fresh = solve_triangular(lower, left.T, lower=True).T
            factor[rows, done : done + len(kept)] = fresh
            residual[rows] -= np.einsum("ij,ij->i", fresh, fresh)
        pivots.extend(int(p) for p in chosen)
        residual = np.maximum(residual, 0.0)
        residual[chosen] = 0.0
    return LowRank(factor[:, : len(pivots)], residual, passes, np.array(pivots, np.intp))


def _reject(
    block: Array, floor: Array, most: int, generator: np.random.Generator
) -> tuple[NDArray[np.intp], Array]:
    """Positions kept among the proposals, and the Cholesky factor of the block they make.

    A proposal is kept with probability (what is left of its diagonal entry after those kept
    before it) / (what there was when it was proposed).

    Parameters
    ----------
    block : (m, m)
        The residual of K at the proposals.
    floor : (m,)
        Entries at or below are noise.
    most
        Keep at most this many.
    generator
        Source of the coin for each proposal.
    """
    left = block.copy()
    proposed = block.diagonal().copy()
    thresholds = generator.random(len(block)) * proposed
    lower = np.zeros_like(block)
    kept: list[int] = []
    for i in range(len(block)):
        if len(kept) == most:
            break
        if left[i, i] > max(thresholds[i], floor[i]):
            column = left[i:, i] / np.sqrt(left[i, i])
            lower[i:, len(kept)] = column
            left[i:, i:] -= np.outer(column, column)
            kept.append(i)
    chosen = np.array(kept, dtype=np.intp)
    return chosen, lower[chosen, : len(kept)]
