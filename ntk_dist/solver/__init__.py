"""The linear system (K + ridge I) A = Y: operators that never form K, solvers that report truly.

An *operator* multiplies (``operators``), a *preconditioner* approximates the inverse, a *solver*
puts them together; each is chosen apart from the others. Take
:func:`~ntk_dist.solver.solve.solve` with
:class:`~ntk_dist.solver.preconditioners.RPCholeskyPreconditioner` when K lives in blocks on
workers: :func:`~ntk_dist.solver.cg.solve_cg` with one product per step, all targets together. Take
:func:`~ntk_dist.solver.direct.solve_direct` when K fits one machine: it is the reference, and it
gives the minimum-norm answer when K is singular, for which ``solve`` falls back on it. Where the
rounding of stored blocks matters, :func:`~ntk_dist.solver.refinement.solve_refined` takes residuals
from the kernel itself. Take :func:`~ntk_dist.solver.ridge_path.solve_ridge_path` to compare ridges:
it answers for all of them in the passes that the smallest one needs; ``ridge_choice`` says which
of them predicts best. All answer with a :class:`~ntk_dist.solver.result.Solution`, whose report is
told in true residuals.

Behind ``cg`` are its ``recurrence`` as a pure function, ``ritz`` (eigenvalues that it leaves
behind), ``resume`` (its state, written down) and ``certificate`` (how far an answer can be
trusted); behind ``refinement`` are its ``rounds``, behind ``ridge_path`` is ``block_lanczos``,
behind ``direct`` one ``symmetric`` matrix in memory. A ``low_rank`` approximation comes from
``rpcholesky`` or ``nystrom`` and is ``tall``;
``columns`` are right-hand sides as all of these want them.
"""

from ntk_dist.solver.cg import solve_cg
from ntk_dist.solver.direct import require_dense_room, solve_direct
from ntk_dist.solver.operators import (
    AbstractOperator,
    DenseOperator,
    RidgedOperator,
    ScaledOperator,
    StoredGramOperator,
)
from ntk_dist.solver.preconditioners import (
    AbstractPreconditioner,
    IdentityPreconditioner,
    JacobiPreconditioner,
    NystromPreconditioner,
    RPCholeskyPreconditioner,
)
from ntk_dist.solver.refinement import MOST_ROUNDS, solve_refined
from ntk_dist.solver.result import Solution, SolveReport, SolveStatus
from ntk_dist.solver.ridge_choice import (
    RidgeScore,
    SubmatrixOperator,
    best_ridge,
    require_room_to_choose,
    score_ridges,
)
from ntk_dist.solver.ridge_path import solve_ridge_path
from ntk_dist.solver.solve import DENSE_ROWS, solve

__all__ = [
    "DENSE_ROWS",
    "MOST_ROUNDS",
    "AbstractOperator",
    "AbstractPreconditioner",
    "DenseOperator",
    "IdentityPreconditioner",
    "JacobiPreconditioner",
    "NystromPreconditioner",
    "RPCholeskyPreconditioner",
    "RidgeScore",
    "RidgedOperator",
    "ScaledOperator",
    "Solution",
    "SolveReport",
    "SolveStatus",
    "StoredGramOperator",
    "SubmatrixOperator",
    "best_ridge",
    "require_dense_room",
    "require_room_to_choose",
    "score_ridges",
    "solve",
    "solve_cg",
    "solve_direct",
    "solve_refined",
    "solve_ridge_path",
]
