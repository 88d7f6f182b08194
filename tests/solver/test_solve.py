import numpy as np
import pytest

from ntk_dist.solver import (
    DENSE_ROWS,
    DenseOperator,
    RidgedOperator,
    RPCholeskyPreconditioner,
    SolveStatus,
    solve,
    solve_cg,
)


def zero_row(systems):
    """An input of zeros in a network without bias."""
    matrix = systems.kernel(40)
    matrix[-1] = matrix[:, -1] = 0.0
    return matrix


def scaled_rows(systems):
    """Inputs x and 2x in a network that is homogeneous of degree one."""
    scale = np.r_[np.ones(30), np.full(10, 2.0)]
    where = np.r_[np.arange(30), np.arange(10)]
    return scale[:, None] * systems.kernel(30)[np.ix_(where, where)] * scale


def constant(systems):
    """A network that is all bias."""
    return np.ones((40, 40))


SINGULAR = [zero_row, scaled_rows, constant]


def rpcholesky(operator, rank):
    return RPCholeskyPreconditioner.of(operator, rank=rank, generator=np.random.default_rng(0))


@pytest.mark.parametrize("make", SINGULAR)
@pytest.mark.parametrize("rank", [None, 5, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_matrix_with_targets_beyond_it_gives_the_minimum_norm(
    systems, make, rank, dtype
):
    operator = DenseOperator(make(systems).astype(dtype))
    y = 1 + np.random.default_rng(0).standard_normal((40, 2))
    solution = solve(operator, y, None if rank is None else rpcholesky(operator, rank))
    expected = np.linalg.pinv(operator.as_dense(), rcond=1e-9, hermitian=True) @ y
    np.testing.assert_allclose(solution.x, expected, atol=1e-9)
    report = solution.report
    assert (report.status, report.method) == (SolveStatus.MINIMUM_NORM, "cg, direct")
    assert "stagnated after" in report.warnings[0]
    assert "the dense solver answered" in report.warnings[0]
    assert report.products > 0
    solution.raise_for_status()


def test_where_conjugate_gradients_converge_the_matrix_is_not_gathered(systems):
    operator = systems.CountingOperator(DenseOperator(systems.kernel(40)))
    solution = solve(operator, np.ones(40), tol=1e-8)
    assert (solution.report.status, solution.report.method) == (SolveStatus.CONVERGED, "cg")
    assert max(solution.report.residuals) <= 1e-8
    assert operator.requests == []
    few = solve(operator, np.ones(40), tol=1e-8, max_steps=2)
    assert (few.report.status, few.report.method) == (SolveStatus.MAX_STEPS, "cg")
    assert operator.requests == []


def test_a_matrix_too_large_to_gather_keeps_the_answer_and_says_what_to_try(systems, monkeypatch):
    operator, y = systems.CountingOperator(DenseOperator(zero_row(systems))), np.ones(40)
    solution = solve(operator, y, dense_rows=39)
    assert operator.requests == []
    assert (solution.report.status, solution.report.method) == (SolveStatus.STAGNATED, "cg")
    assert "add a ridge" in solution.report.text
    assert "up to 39 rows; these are 40, so ask for it" in solution.report.text
    monkeypatch.setitem(solve.__globals__, "available_memory", lambda: 10_000)
    text = solve(operator, y).report.text
    assert "did not step in: it needs 75.0 KiB, got 9.8 KiB free" in text
    assert "rows" not in text
    assert operator.requests == []
    monkeypatch.undo()
    assert solve(operator, y, dense_rows=40).report.method == "cg, direct"
    assert DENSE_ROWS == 5000


def test_the_ridge_of_the_operator_is_solved_with_and_reported(systems):
    # The ridge spares no row: one of its entries is zero, where the matrix has none either.
    ridge = np.r_[np.full(39, 0.5), 0.0]
    matrix = zero_row(systems)
    solution = solve(RidgedOperator(DenseOperator(matrix), ridge), np.ones(40))
    assert solution.report.ridge == 0.5
    expected = np.linalg.pinv(matrix + np.diag(ridge), hermitian=True) @ np.ones(40)
    np.testing.assert_allclose(solution.x, expected, atol=1e-12)


def test_an_indefinite_matrix_stays_one(systems):
    matrix, _ = systems.with_spectrum(np.r_[-1.0, np.linspace(1, 10, 40)])
    report = solve(DenseOperator(matrix), np.ones(41)).report
    assert (report.status, report.method) == (SolveStatus.INDEFINITE, "cg, direct")
    assert "found negative curvature" in report.warnings[0]


@pytest.mark.parametrize("make", SINGULAR)
def test_even_alone_conjugate_gradients_come_near_the_least_residual(systems, make):
    matrix = make(systems)
    operator, y = DenseOperator(matrix), 1 + np.random.default_rng(0).standard_normal((40, 2))
    least = y - matrix @ np.linalg.pinv(matrix, rcond=1e-9, hermitian=True) @ y
    solution = solve_cg(operator, y, rpcholesky(operator, 5))
    assert not solution.report.status.is_success
    np.testing.assert_allclose(
        solution.report.residuals,
        np.linalg.norm(least, axis=0) / np.linalg.norm(y, axis=0),
        rtol=1e-4,
    )
