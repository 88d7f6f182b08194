import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_dist.errors import InvalidInputError
from ntk_dist.solver.operators import DenseOperator
from ntk_dist.solver.preconditioners import (
    IdentityPreconditioner,
    RPCholeskyPreconditioner,
    automatic_rank,
)
from ntk_dist.solver.rpcholesky import rpcholesky


def dense(approximation, ridge):
    """P by its definition."""
    factor = approximation.factor
    shift = approximation.residual.mean()
    return factor @ factor.T + np.diag(ridge + shift)


def test_identity_gives_back_what_it_got():
    r = np.arange(6.0).reshape(3, 2)
    assert IdentityPreconditioner().solve(r) is r


# Not rank 60 without a ridge: the factor is exact then, and P is all shift, which is rounding.
@pytest.mark.parametrize(
    ("rank", "ridge"), [(0, 0.0), (1, 0.0), (20, 0.0), (20, 1e-3), (60, 1e-3), (60, "by row")]
)
def test_solve_is_the_inverse_of_its_definition(systems, rank, ridge):
    n = 60
    operator = DenseOperator(systems.kernel(n))
    added = np.linspace(0.1, 2, n) if ridge == "by row" else np.full(n, ridge)
    approximation = rpcholesky(operator, rank, np.random.default_rng(0))
    preconditioner = RPCholeskyPreconditioner(approximation, added)
    r = np.random.default_rng(1).standard_normal((n, 3))
    expected = np.linalg.solve(dense(approximation, added), r)
    np.testing.assert_allclose(preconditioner.solve(r), expected, rtol=1e-9)
    assert preconditioner.rank == approximation.rank == rank


def test_it_stays_positive_definite_over_fourteen_orders_of_magnitude(systems):
    matrix, _ = systems.with_spectrum(np.logspace(0, -14, 80))
    operator = DenseOperator(matrix)
    preconditioner = RPCholeskyPreconditioner.of(
        operator, rank=60, generator=np.random.default_rng(0)
    )
    inverse = preconditioner.solve(np.eye(80))
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-13 * np.abs(inverse).max())
    r = np.random.default_rng(1).standard_normal((80, 200))
    assert np.all(np.einsum("ij,ij->j", r, preconditioner.solve(r)) > 0)


def test_the_spectrum_is_gathered_around_one(systems):
    matrix = systems.kernel(200)
    preconditioner = RPCholeskyPreconditioner.of(
        DenseOperator(matrix), rank=80, ridge=1e-2, generator=np.random.default_rng(0)
    )
    ridged = matrix + 1e-2 * np.eye(200)
    values = np.linalg.eigvals(preconditioner.solve(ridged)).real
    assert values.max() / values.min() < np.linalg.cond(ridged) / 20


def test_the_same_generator_state_gives_the_same_bytes(systems):
    operator = DenseOperator(systems.kernel(100))
    r = np.ones((100, 1))
    first, again, other = (
        RPCholeskyPreconditioner.of(operator, rank=30, generator=np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    assert first.solve(r).tobytes() == again.solve(r).tobytes()
    assert set(first.pivots) != set(other.pivots)


def test_a_zero_matrix_needs_a_ridge():
    operator = DenseOperator(np.zeros((5, 5)))
    with pytest.raises(InvalidInputError, match="positive trace"):
        RPCholeskyPreconditioner.of(operator, rank=2, generator=np.random.default_rng(0))
    ridged = RPCholeskyPreconditioner.of(
        operator, rank=2, ridge=2.0, generator=np.random.default_rng(0)
    )
    np.testing.assert_allclose(ridged.solve(np.ones((5, 1))), 0.5)


def test_automatic_rank_is_bounded_by_rows_memory_and_a_thousand(systems):
    assert automatic_rank(4000, 2**30) == 500
    assert automatic_rank(10**6, 2**40) == 1000
    assert automatic_rank(10**6, 400 * 10**6) == 10
    assert automatic_rank(7, 2**30) == 0
    preconditioner = RPCholeskyPreconditioner.of(
        DenseOperator(systems.kernel(80)), generator=np.random.default_rng(0)
    )
    assert preconditioner.rank == 10


def test_building_stays_within_the_memory_that_the_rank_was_chosen_for(systems):
    operator, max_bytes = DenseOperator(systems.kernel(1000)), 4 * 10**6
    tracemalloc.start()
    try:
        preconditioner = RPCholeskyPreconditioner.of(
            operator, max_bytes=max_bytes, generator=np.random.default_rng(0)
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert preconditioner.rank == 100
    assert peak <= max_bytes


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 25), rank=st.integers(0, 25), seed=st.integers(0, 99), ridge=st.floats(0.01, 9)
)
def test_any_positive_semidefinite_matrix_can_be_preconditioned(n, rank, seed, ridge):
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((n, generator.integers(1, n + 1)))
    operator = DenseOperator(root @ root.T)
    approximation = rpcholesky(operator, min(rank, n), generator)
    preconditioner = RPCholeskyPreconditioner(approximation, ridge)
    matrix = approximation.factor @ approximation.factor.T
    matrix[np.diag_indices(n)] += ridge + preconditioner.shift
    np.testing.assert_allclose(matrix @ preconditioner.solve(np.eye(n)), np.eye(n), atol=1e-9)


def test_a_factor_that_is_all_of_the_matrix_is_inverted_to_the_last_digits():
    root = np.random.default_rng(0).standard_normal((100, 2))
    operator = DenseOperator(root @ root.T)
    preconditioner = RPCholeskyPreconditioner.of(
        operator, rank=10, generator=np.random.default_rng(0)
    )
    weights = np.random.default_rng(1).standard_normal((2, 3))
    expected = np.linalg.pinv(root.T) @ weights  # the pseudo-inverse times root @ weights
    np.testing.assert_allclose(preconditioner.solve(root @ weights), expected, rtol=1e-10)
