import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_dist.errors import BreakdownError, InvalidInputError, MemoryBudgetError
from ntk_dist.solver.low_rank import affordable_rank, building_bytes
from ntk_dist.solver.operators import DenseOperator
from ntk_dist.solver.preconditioners import (
    LOW_RANK_PRECONDITIONERS,
    IdentityPreconditioner,
    JacobiPreconditioner,
    RPCholeskyPreconditioner,
)
from ntk_dist.solver.rpcholesky import rpcholesky

SINGLE = np.dtype(np.float32)
LOW_RANK = pytest.mark.parametrize("kind", LOW_RANK_PRECONDITIONERS.values(), ids=lambda k: k.name)


def dense(approximation, ridge):
    """P by its definition."""
    factor = approximation.factor
    shift = approximation.residual.mean()
    return factor @ factor.T + np.diag(ridge + shift)


def test_identity_gives_back_what_it_got():
    r = np.arange(6.0).reshape(3, 2)
    assert IdentityPreconditioner().solve(r) is r


def test_jacobi_is_the_diagonal_and_its_mean_where_that_is_zero():
    matrix = np.diag([1.0, 0.0, 5.0])
    preconditioner = JacobiPreconditioner(DenseOperator(matrix))
    np.testing.assert_array_equal(preconditioner.as_dense(), np.diag([1.0, 2.0, 5.0]))
    ridged = JacobiPreconditioner(DenseOperator(matrix), ridge=0.5)
    np.testing.assert_array_equal(ridged.as_dense(), np.diag([1.5, 0.5, 5.5]))
    with pytest.raises(InvalidInputError, match="positive trace"):
        JacobiPreconditioner(DenseOperator(np.zeros((2, 2))))
    with pytest.raises(BreakdownError, match=r"got -1\.0 in row 1"):
        JacobiPreconditioner(DenseOperator(np.diag([1.0, -1.0])))


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


@LOW_RANK
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_stays_positive_definite_over_fourteen_orders_of_magnitude(systems, kind, dtype):
    matrix, _ = systems.with_spectrum(np.logspace(0, -14, 80))
    operator = DenseOperator(matrix.astype(dtype))
    preconditioner = kind.of(operator, rank=60, generator=np.random.default_rng(0))
    inverse = preconditioner.solve(np.eye(80))
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-13 * np.abs(inverse).max())
    r = np.random.default_rng(1).standard_normal((80, 200))
    assert np.all(np.einsum("ij,ij->j", r, preconditioner.solve(r)) > 0)


@LOW_RANK
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_spectrum_is_gathered_around_one(systems, kind, dtype):
    matrix = systems.kernel(200)
    preconditioner = kind.of(
        DenseOperator(matrix.astype(dtype)), rank=80, ridge=1e-2, generator=np.random.default_rng(0)
    )
    ridged = matrix + 1e-2 * np.eye(200)
    values = np.linalg.eigvals(preconditioner.solve(ridged)).real
    assert values.max() / values.min() < np.linalg.cond(ridged) / 20


@LOW_RANK
def test_the_same_generator_state_gives_the_same_bytes(systems, kind):
    operator = DenseOperator(systems.kernel(100))
    r = np.ones((100, 1))
    first, again, other = (
        kind.of(operator, rank=30, generator=np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert first.solve(r).tobytes() == again.solve(r).tobytes()
    assert first.solve(r).tobytes() != other.solve(r).tobytes()


@LOW_RANK
def test_a_zero_matrix_needs_a_ridge(kind):
    operator = DenseOperator(np.zeros((5, 5)))
    with pytest.raises(InvalidInputError, match="positive trace"):
        kind.of(operator, rank=2, generator=np.random.default_rng(0))
    ridged = kind.of(operator, rank=2, ridge=2.0, generator=np.random.default_rng(0))
    np.testing.assert_allclose(ridged.solve(np.ones((5, 1))), 0.5)


def test_automatic_rank_is_bounded_by_rows_memory_and_a_thousand(systems):
    assert affordable_rank(4000, 2**30, SINGLE) == 500
    assert affordable_rank(10**6, 2**40, SINGLE) == 1000
    assert affordable_rank(7, 2**30, SINGLE) == 0
    preconditioner = RPCholeskyPreconditioner.of(
        DenseOperator(systems.kernel(80)), generator=np.random.default_rng(0)
    )
    assert preconditioner.rank == 10


@pytest.mark.parametrize("n", [10**5, 10**6])
def test_automatic_rank_is_the_largest_that_fits_and_float32_fits_nearly_twice(n):
    single, double = (affordable_rank(n, 2**30, np.dtype(d)) for d in ("float32", "float64"))
    assert building_bytes(n, single, SINGLE) <= 2**30 < building_bytes(n, single + 1, SINGLE)
    assert single > 1.45 * double


@LOW_RANK
def test_a_rank_that_memory_does_not_hold_is_refused(systems, kind):
    operator, generator = DenseOperator(systems.kernel(80)), np.random.default_rng(0)
    few = building_bytes(80, 1, operator.dtype) - 1
    for rank in (1, 20, "auto"):
        with pytest.raises(MemoryBudgetError, match=r"for 80 rows, got 2\.0 MiB: raise NTK_DIST_"):
            kind.of(operator, rank=rank, generator=generator, max_bytes=few)
    assert kind.of(operator, rank=1, generator=generator, max_bytes=few + 1).rank == 1
    enough = building_bytes(80, 15, operator.dtype)
    with pytest.raises(MemoryBudgetError, match=r"rank 20 needs .*: lower the rank to 15, raise"):
        kind.of(operator, rank=20, generator=generator, max_bytes=enough)
    with pytest.raises(MemoryBudgetError, match="lower the rank to 14, raise"):
        kind.of(operator, rank=20, generator=generator, max_bytes=enough - 1)
    with pytest.raises(InvalidInputError, match="from 0 to n = 80, got 81"):
        kind.of(operator, rank=81, generator=generator)


@LOW_RANK
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [20, 250])
def test_building_stays_within_the_memory_that_the_rank_was_chosen_for(systems, kind, dtype, rank):
    operator = DenseOperator(systems.kernel(2000).astype(dtype))
    max_bytes = building_bytes(2000, rank, operator.dtype)
    tracemalloc.start()
    try:
        preconditioner = kind.of(operator, max_bytes=max_bytes, generator=np.random.default_rng(0))
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert preconditioner.rank == rank
    assert peak <= max_bytes
    assert preconditioner.n_bytes <= left < 1.2 * preconditioner.n_bytes + 2**16


@LOW_RANK
def test_float32_entries_are_kept_in_half_the_memory(systems, kind):
    matrix = systems.kernel(400)
    single, double = (
        kind.of(
            DenseOperator(matrix.astype(dtype)), rank=20, generator=np.random.default_rng(0)
        ).n_bytes
        for dtype in ("float32", "float64")
    )
    assert double - single == 400 * 20 * 4


@LOW_RANK
def test_passes_over_the_blocks_are_counted(systems, kind):
    operator = systems.CountingOperator(DenseOperator(systems.kernel(300)))
    preconditioner = kind.of(operator, rank=60, generator=np.random.default_rng(0))
    assert preconditioner.passes == len(operator.requests) + len(operator.widths)
    assert 1 < preconditioner.passes <= 5
    assert sum(operator.widths) in (0, 60)


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
