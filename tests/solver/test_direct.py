import numpy as np
import pytest

from ntk_dist.errors import DataShapeError, InvalidInputError, MemoryBudgetError
from ntk_dist.solver import direct
from ntk_dist.solver.direct import solve_direct, spectral_cut_off
from ntk_dist.solver.operators import DenseOperator, RidgedOperator
from ntk_dist.solver.result import SolveStatus
from ntk_dist.solver.symmetric import dense_bytes


@pytest.mark.parametrize("ridge", [0.0, 0.3, "by row"])
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 4)])
def test_it_agrees_with_numpy(systems, ridge, shape):
    matrix = systems.kernel(50)
    y = np.random.default_rng(0).standard_normal(shape)
    added = np.linspace(0, 2, 50) if ridge == "by row" else ridge
    solution = solve_direct(matrix, y, added)
    expected = np.linalg.solve(matrix + np.diag(np.broadcast_to(added, 50)), y)
    np.testing.assert_allclose(solution.x, expected, rtol=1e-10, atol=1e-10)
    assert solution.report.status is SolveStatus.CONVERGED
    assert solution.report.ridge == np.max(added)
    assert solution.report.jitter == 0
    assert max(solution.report.residuals) < 1e-12


def test_a_ridged_operator_and_a_ridge_are_the_same(systems):
    matrix, y = systems.kernel(30), np.ones(30)
    ridged = solve_direct(RidgedOperator(DenseOperator(matrix), 0.5), y)
    np.testing.assert_array_equal(ridged.x, solve_direct(matrix, y, 0.5).x)
    assert ridged.report.ridge == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_repeated_rows_with_different_targets_give_the_pseudo_inverse(systems, dtype):
    once = systems.kernel(40).astype(dtype)
    where = np.r_[np.arange(40), np.arange(10)]
    matrix = once[np.ix_(where, where)]
    y = np.random.default_rng(0).standard_normal((50, 2))
    solution = solve_direct(matrix, y)
    expected = np.linalg.pinv(matrix.astype(np.float64), rcond=1e-9, hermitian=True) @ y
    np.testing.assert_allclose(solution.x, expected, atol=1e-9)
    report = solution.report
    assert report.status is SolveStatus.MINIMUM_NORM
    assert report.rank == 40
    assert report.cut_off == spectral_cut_off(50, np.dtype(dtype))
    assert "10 of 50 eigenvalues" in report.warnings[0]
    assert min(report.residuals) > 0.01
    solution.raise_for_status()


def test_ill_conditioned_float32_directions_are_kept(systems):
    # Condition 1.5e5 is that of elevators at 4000 rows; n eps(float32) would cut at 2100.
    matrix, _ = systems.with_spectrum(np.geomspace(1, 1.5e5, 300))
    solution = solve_direct(matrix.astype(np.float32), np.ones(300))
    assert solution.report.status is SolveStatus.CONVERGED
    assert max(solution.report.residuals) < 1e-9


def test_a_condition_that_cholesky_survives_is_judged_by_eigenvalues(systems):
    matrix, basis = systems.with_spectrum([1e-15] * 20 + [1.0] * 19 + [2.0])
    solution = solve_direct(matrix, basis[:, 25])
    assert solution.report.status is SolveStatus.MINIMUM_NORM
    assert solution.report.rank == 20
    np.testing.assert_allclose(solution.x, basis[:, 25], atol=1e-13)
    assert solution.report.condition == pytest.approx(2)


def test_an_indefinite_matrix_is_named(systems):
    matrix, _ = systems.with_spectrum([-0.1, 1.0, 2.0])
    solution = solve_direct(matrix, np.ones(3))
    assert solution.report.status is SolveStatus.INDEFINITE
    assert solution.report.rayleigh_smallest == pytest.approx(-0.1)
    assert np.all(np.isfinite(solution.x))
    negative = solve_direct(-np.eye(3), np.ones(3))
    assert negative.report.status is SolveStatus.INDEFINITE
    np.testing.assert_array_equal(negative.x, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_is_named(bad):
    matrix = np.eye(3)
    matrix[0, 1] = matrix[1, 0] = bad
    solution = solve_direct(matrix, np.ones((3, 2)))
    assert solution.report.status is SolveStatus.NON_FINITE
    assert solution.report.residuals == (1.0, 1.0)
    np.testing.assert_array_equal(solution.x, 0)


def test_zero_targets_and_a_zero_matrix(systems):
    solution = solve_direct(systems.kernel(5), np.zeros((5, 2)))
    np.testing.assert_array_equal(solution.x, 0)
    assert solution.report.residuals == (0.0, 0.0)
    zero = solve_direct(np.zeros((3, 3)), np.ones(3))
    assert zero.report.status is SolveStatus.MINIMUM_NORM
    assert zero.report.rank == 0
    np.testing.assert_array_equal(zero.x, 0)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(DataShapeError, match="right-hand side"):
        solve_direct(np.eye(3), np.ones(4))
    with pytest.raises(InvalidInputError, match="ridge"):
        solve_direct(np.eye(3), np.ones(3), -1.0)


def test_the_cut_off_follows_the_rounding_of_the_entries():
    generator = np.random.default_rng(0)
    for n in (100, 400):
        matrix = 3 + generator.random((n, n))
        matrix = matrix + matrix.T
        noise = matrix.astype(np.float32) - matrix
        moved = np.abs(np.linalg.eigvalsh(noise)).max() / np.linalg.eigvalsh(matrix)[-1]
        assert moved < spectral_cut_off(n, np.dtype(np.float32)) < 100 * moved


def test_a_zero_eigenvalue_that_rounding_made_negative_is_not_indefinite(systems):
    cut_off = spectral_cut_off(50, np.dtype(np.float64))
    for share, status in [(-5, SolveStatus.MINIMUM_NORM), (-20, SolveStatus.INDEFINITE)]:
        matrix, _ = systems.with_spectrum(np.r_[share * cut_off * 10, np.linspace(1, 10, 49)])
        assert solve_direct(matrix, np.ones(50)).report.status is status


def test_a_matrix_that_does_not_fit_is_refused_before_it_is_gathered(systems, monkeypatch):
    operator = systems.CountingOperator(DenseOperator(systems.kernel(40)))
    monkeypatch.setattr(direct, "available_memory", lambda: dense_bytes(40) - 1)
    with pytest.raises(MemoryBudgetError, match=r"needs .* KiB for 40 rows, got .* free: use .*cg"):
        solve_direct(operator, np.ones(40))
    assert operator.requests == []
    monkeypatch.setattr(direct, "available_memory", lambda: dense_bytes(40))
    assert solve_direct(operator, np.ones(40)).report.status is SolveStatus.CONVERGED
