import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_dist.errors import BreakdownError, InvalidInputError
from ntk_dist.solver.operators import DenseOperator
from ntk_dist.solver.rpcholesky import rpcholesky


def test_the_factor_interpolates_its_pivots_and_never_exceeds_the_matrix(systems):
    matrix = systems.kernel(120)
    found = rpcholesky(DenseOperator(matrix), 40, np.random.default_rng(0))
    left = matrix - found.factor @ found.factor.T
    assert len(set(found.pivots.tolist())) == found.rank == 40
    np.testing.assert_allclose(left[found.pivots], 0, atol=1e-13)
    np.testing.assert_allclose(left.diagonal(), found.residual, atol=1e-13)
    assert np.linalg.eigvalsh(left).min() > -1e-12


def test_the_residual_is_near_the_best_of_any_rank(systems):
    # Theory: rank r / eps + r log(...) columns come within 1 + eps of the best rank r.
    matrix = systems.kernel(300)
    found = rpcholesky(DenseOperator(matrix), 60, np.random.default_rng(0))
    best = np.linalg.eigvalsh(matrix)[:-30].sum()
    assert found.residual.sum() < 1.2 * best


def test_a_round_asks_for_columns_once_and_few_rounds_are_needed(systems):
    operator = systems.CountingOperator(DenseOperator(systems.kernel(400)))
    found = rpcholesky(operator, 100, np.random.default_rng(0))
    assert found.passes == len(operator.requests) <= 5
    assert operator.widths == []
    assert max(operator.requests) <= 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_stops_when_the_matrix_is_used_up(dtype):
    root = np.random.default_rng(0).standard_normal((200, 7))
    matrix = (root @ root.T).astype(dtype)
    found = rpcholesky(DenseOperator(matrix), 50, np.random.default_rng(0))
    assert 7 <= found.rank < 12
    np.testing.assert_allclose(
        found.factor @ found.factor.T, matrix, atol=100 * np.finfo(dtype).eps * matrix.max()
    )
    assert np.all(found.residual >= 0)


def test_repeated_rows_are_chosen_once():
    root = np.repeat(np.random.default_rng(0).standard_normal((20, 20)), 5, axis=0)
    found = rpcholesky(DenseOperator(root @ root.T), 100, np.random.default_rng(0))
    assert sorted(p // 5 for p in found.pivots) == list(range(20))


def test_pivots_follow_the_diagonal():
    # One step on a diagonal matrix draws row i with probability d_i / sum d.
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    operator = DenseOperator(np.diag(weights))
    generator = np.random.default_rng(0)
    first = [rpcholesky(operator, 1, generator).pivots[0] for _ in range(4000)]
    shares = np.bincount(first, minlength=4) / 4000
    np.testing.assert_allclose(shares, weights / 10, atol=0.03)


def test_pairs_of_pivots_have_the_law_of_one_at_a_time(systems):
    matrix = systems.kernel(4, seed=3) * np.outer([1, 2, 1, 3], [1, 2, 1, 3])
    expected = np.zeros((4, 4))
    for i in range(4):
        left = np.diag(matrix) - matrix[:, i] ** 2 / matrix[i, i]
        left[i] = 0
        expected[i] = matrix[i, i] / np.trace(matrix) * left / left.sum()
    generator = np.random.default_rng(0)
    counts = np.zeros((4, 4))
    for _ in range(4000):
        i, j = rpcholesky(DenseOperator(matrix), 2, generator).pivots
        counts[i, j] += 1
    np.testing.assert_allclose(counts / 4000, expected, atol=0.03)


@pytest.mark.parametrize("rank", [-1, 6])
def test_an_impossible_rank_is_refused(rank):
    with pytest.raises(InvalidInputError, match=f"from 0 to n = 5, got {rank}"):
        rpcholesky(DenseOperator(np.eye(5)), rank, np.random.default_rng(0))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_diagonal_of_no_gram_matrix_is_refused(bad):
    matrix = np.eye(5)
    matrix[3, 3] = bad
    with pytest.raises(BreakdownError, match="in row 3"):
        rpcholesky(DenseOperator(matrix), 2, np.random.default_rng(0))


def test_columns_that_are_not_finite_are_refused():
    matrix = np.eye(5)
    matrix[0, 1:] = matrix[1:, 0] = np.nan
    with pytest.raises(BreakdownError, match=r"got nan in row \d, column \d"):
        rpcholesky(DenseOperator(matrix), 2, np.random.default_rng(0))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), rank=st.integers(0, 20), seed=st.integers(0, 99))
def test_it_ends_with_a_finite_factor_whatever_the_matrix(n, rank, seed):
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((n, n)) * 10.0 ** generator.integers(-8, 3, size=n)
    matrix = (root @ root.T).astype(np.float32)
    found = rpcholesky(DenseOperator(matrix), min(rank, n), generator)
    assert found.rank <= min(rank, n)
    assert found.factor.dtype == np.float32
    assert np.all(np.isfinite(found.factor))
