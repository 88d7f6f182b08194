import numpy as np
import pytest

from ntk_dist.errors import DataShapeError, NonFiniteDataError
from ntk_dist.solver import (
    DenseOperator,
    SolveStatus,
    solve_cg,
    solve_direct,
    solve_refined,
    solve_ridge_path,
)
from ntk_dist.solver.columns import as_columns, unit_columns


def test_one_target_becomes_one_column_of_float64():
    columns = as_columns([1, 2, 3], 3, "right-hand side")
    assert columns.shape == (3, 1)
    assert columns.dtype == np.float64


@pytest.mark.parametrize("shape", [(), (4,), (4, 2), (3, 2, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(DataShapeError, match=r"y: expected shape \(3,\) or \(3, n_targets\)"):
        as_columns(np.ones(shape), 3, "y")


@pytest.mark.parametrize("largest", [1e300, 1e-100])  # no number any more; 1e200, its products none
@pytest.mark.parametrize("refined", [False, True])
def test_a_start_too_large_for_the_targets_is_none(systems, caplog, largest, refined):
    matrix = systems.kernel(30)
    operator = DenseOperator(matrix)
    y = np.random.default_rng(0).standard_normal((30, 2)) * [1e-300, 1.0]
    answer = solve_direct(matrix, y).x
    start = np.column_stack([np.full(30, largest), answer[:, 1]])

    def solved(**options):
        if refined:
            return solve_refined(operator, operator, y, **options)
        return solve_cg(operator, y, **options)

    warm, cold = solved(x0=start), solved()
    assert warm.report.status is SolveStatus.CONVERGED
    np.testing.assert_allclose(warm.x[:, 0], cold.x[:, 0], rtol=1e-3)
    np.testing.assert_allclose(warm.x[:, 1], answer[:, 1], rtol=1e-3)
    assert ("1 of 2 targets start from zero" in caplog.text) == (largest == 1e300)


def test_rows_that_are_not_finite_are_named():
    values = np.ones((20, 2))
    values[[3, 5], 1] = np.nan
    with pytest.raises(NonFiniteDataError, match=r"in 2 rows \(3, 5\)"):
        as_columns(values, 20, "y")
    values[:, 0] = np.inf
    with pytest.raises(NonFiniteDataError, match=r"in 20 rows \(0, 1, 2, 3, 4, \.\.\.\)"):
        as_columns(values, 20, "y")


def test_unit_columns_are_those_that_were_there():
    y = np.random.default_rng(0).standard_normal((50, 4)) * [1.0, 1e160, 1e-170, 0.0]
    unit, lengths = unit_columns(y)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=0), [1, 1, 1, 0], rtol=1e-14)
    np.testing.assert_allclose(unit * lengths, y, rtol=1e-14)
    assert lengths[3] == 1


def refined(operator, y):
    return solve_refined(DenseOperator(operator.as_dense().astype(np.float32)), operator, y)


def path(operator, y):
    return solve_ridge_path(operator, y, [0.0], generator=np.random.default_rng(0))[0]


@pytest.mark.parametrize("solve", [solve_cg, refined, solve_direct, path])
@pytest.mark.parametrize("scale", [1e160, 1.0, 1e-170])
def test_answers_do_not_depend_on_the_unit_of_the_targets(solve, scale, systems):
    matrix = systems.kernel(40) + np.eye(40)
    y = np.random.default_rng(0).standard_normal((40, 2))
    solution = solve(DenseOperator(matrix), scale * y)
    assert solution.report.status is SolveStatus.CONVERGED
    assert 0 < max(solution.report.residuals) <= 1e-6
    np.testing.assert_allclose(solution.x / scale, np.linalg.solve(matrix, y), atol=1e-5)
