"""Every preconditioner is linear, symmetric, positive definite, and the inverse of the P it states.

Conjugate gradients rest on nothing else.
"""

import numpy as np
import pytest

from ntk_dist.solver.operators import DenseOperator
from ntk_dist.solver.preconditioners import (
    LOW_RANK_PRECONDITIONERS,
    IdentityPreconditioner,
    JacobiPreconditioner,
)

N = 60
RIDGES = {"ridgeless": 0.0, "ridge": 0.1, "by-row": np.linspace(0.0, 2.0, N)}


def gram(dtype):
    """Rows of different sizes, a blank one, and a condition number of 1e5 beside it."""
    points = np.random.default_rng(0).standard_normal((N, 3))
    distance = ((points[:, None] - points[None]) ** 2).sum(-1)
    scale = np.r_[0.0, np.linspace(0.5, 3.0, N - 1)]
    return DenseOperator((np.exp(-distance / 4) * np.outer(scale, scale)).astype(dtype))


def low_rank(kind, rank):
    return lambda operator, ridge: kind.of(
        operator, rank=rank, ridge=ridge, generator=np.random.default_rng(1)
    )


CASES = {
    "none": lambda operator, ridge: IdentityPreconditioner(operator.n),
    "jacobi": JacobiPreconditioner,
} | {
    f"{name}-{rank}": low_rank(kind, rank)
    for name, kind in LOW_RANK_PRECONDITIONERS.items()
    for rank in (0, 1, 25)
}


@pytest.fixture(params=CASES, name="preconditioner")
def _preconditioner(request, ridge, dtype):
    return CASES[request.param](gram(dtype), ridge)


@pytest.mark.parametrize("ridge", RIDGES.values(), ids=RIDGES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestPreconditionerContract:
    def test_solve_is_the_inverse_of_the_matrix_it_states(self, preconditioner):
        r = np.random.default_rng(2).standard_normal((N, 4))
        p = preconditioner.as_dense()
        np.testing.assert_array_equal(p, p.T)
        solved = preconditioner.solve(r)
        np.testing.assert_allclose(p @ solved, r, atol=1e-9)
        assert solved.dtype == np.float64

    def test_it_is_symmetric_and_positive_definite(self, preconditioner):
        inverse = preconditioner.solve(np.eye(N))
        np.testing.assert_allclose(inverse, inverse.T, rtol=0, atol=1e-13 * np.abs(inverse).max())
        assert np.linalg.eigvalsh((inverse + inverse.T) / 2).min() > 0

    def test_it_is_linear_and_treats_columns_apart(self, preconditioner):
        a, b = np.random.default_rng(3).standard_normal((2, N, 3))
        whole = preconditioner.solve(2.0 * a - b)
        parts = 2.0 * preconditioner.solve(a) - preconditioner.solve(b)
        np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-12 * np.abs(parts).max())
        alone = preconditioner.solve(a[:, 1:2])
        np.testing.assert_allclose(preconditioner.solve(a)[:, 1:2], alone, rtol=1e-9)
        assert preconditioner.solve(a[:, :0]).shape == (N, 0)

    def test_what_it_is_given_stays_as_it_was(self, preconditioner):
        r = np.ones((N, 2))
        preconditioner.solve(r)
        np.testing.assert_array_equal(r, 1.0)

    def test_it_tells_what_it_is_and_took(self, preconditioner):
        assert preconditioner.name in {"identity", "jacobi", *LOW_RANK_PRECONDITIONERS}
        assert 0 <= preconditioner.rank <= 25
        assert (preconditioner.passes > 0) == (preconditioner.rank > 0)
        assert preconditioner.n_bytes >= 0
