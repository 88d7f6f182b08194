import numpy as np
import pytest

from ntk_dist.errors import DataShapeError, InvalidInputError, MemoryBudgetError
from ntk_dist.solver import (
    DenseOperator,
    RidgedOperator,
    RPCholeskyPreconditioner,
    SolveStatus,
    solve_cg,
    solve_ridge_path,
)

RIDGES = (0.0, 1e-4, 1e-2, 1.0, 100.0)


def path(operator, y, ridges=RIDGES, **options):
    return solve_ridge_path(operator, y, ridges, generator=np.random.default_rng(1), **options)


@pytest.fixture(name="problem")
def _problem(systems):
    y = np.random.default_rng(0).standard_normal((150, 3)) * [1, 1e-9, 1e9]
    return systems.kernel(150), y


@pytest.mark.parametrize("block_size", [1, 8, 500])
def test_every_ridge_gets_its_answer(problem, block_size):
    matrix, y = problem
    for solution, ridge in zip(
        path(DenseOperator(matrix), y, tol=1e-10, block_size=block_size), RIDGES, strict=True
    ):
        full = matrix + ridge * np.eye(150)
        assert solution.report.status is SolveStatus.CONVERGED
        assert solution.report.ridge == ridge
        true = np.linalg.norm(y - full @ solution.x, axis=0) / np.linalg.norm(y, axis=0)
        assert true.max() <= 1e-10
        np.testing.assert_allclose(solution.report.residuals, true, atol=1e-13)
        expected = np.linalg.solve(full, y)
        np.testing.assert_allclose(solution.x / y.std(0), expected / y.std(0), rtol=1e-6, atol=1e-9)
        values = np.linalg.eigvalsh(full)
        assert values[0] * (1 - 1e-9) <= solution.report.ritz_smallest
        assert solution.report.ritz_largest <= values[-1] * (1 + 1e-9)


def test_all_ridges_share_the_passes_that_the_smallest_needs(problem, systems):
    matrix, y = problem
    counted = systems.CountingOperator(DenseOperator(matrix))
    solutions = path(counted, y, block_size=8)
    steps = [solution.report.steps for solution in solutions]
    assert steps == sorted(steps, reverse=True)
    assert counted.widths == [8] * steps[0] + [3 * len(RIDGES)]
    assert {solution.report.products for solution in solutions} == {steps[0] + 1}
    one_by_one = 0
    for ridge in RIDGES:
        operator = DenseOperator(matrix)
        preconditioner = RPCholeskyPreconditioner.of(
            operator, rank=20, ridge=ridge, generator=np.random.default_rng(0)
        )
        ridged = RidgedOperator(operator, ridge)
        one_by_one += solve_cg(ridged, y, preconditioner).report.products
    assert one_by_one > 3 * len(counted.widths)


def test_one_target_of_one_dimension(problem):
    matrix, y = problem
    (solution,) = path(DenseOperator(matrix), y[:, 0], [0.5])
    assert solution.x.shape == (150,)
    np.testing.assert_allclose(matrix @ solution.x + 0.5 * solution.x, y[:, 0], atol=1e-4)


def test_the_same_seed_gives_the_same_bytes(problem):
    matrix, y = problem
    first, second = (path(DenseOperator(matrix), y) for _ in range(2))
    assert all(a.x.tobytes() == b.x.tobytes() for a, b in zip(first, second, strict=True))


def test_steps_are_told_with_the_worst_ridge(problem):
    events = []
    matrix, y = problem
    solutions = path(DenseOperator(matrix), y, on_step=events.append)
    assert [event.step for event in events] == list(range(1, solutions[0].report.steps + 1))
    assert max(events[-1].residuals) <= 1e-6 < max(events[-2].residuals)


def test_what_does_not_fit_in_memory_says_so(problem):
    matrix, y = problem
    # Room for 13 passes of the three targets, and so for no other columns.
    solutions = path(DenseOperator(matrix), y, max_bytes=8 * 150 * 40)
    statuses = [solution.report.status for solution in solutions]
    assert statuses[0] is SolveStatus.MAX_STEPS
    assert statuses[-1] is SolveStatus.CONVERGED
    report = solutions[0].report
    assert report.steps == 13
    assert "basis of 39 vectors" in report.text
    true = np.linalg.norm(y - matrix @ solutions[0].x, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(report.residuals, true)
    with pytest.raises(MemoryBudgetError, match=r"two blocks of 3 columns of 150 rows"):
        path(DenseOperator(matrix), y, max_bytes=8 * 150 * 5)


@pytest.mark.parametrize("block_size", [1, 32])
@pytest.mark.parametrize(("n", "rank"), [(5, 3), (200, 150)])
def test_a_singular_matrix_answers_targets_of_its_range(systems, block_size, n, rank):
    values = np.r_[np.linspace(1, 3, rank), np.zeros(n - rank)]
    matrix, _ = systems.with_spectrum(values)
    y = matrix @ np.random.default_rng(0).standard_normal(n)
    (solution,) = path(DenseOperator(matrix), y, [0.0], tol=1e-8, block_size=block_size)
    assert solution.report.status is SolveStatus.CONVERGED
    true = np.linalg.norm(y - matrix @ solution.x) / np.linalg.norm(y)
    assert true <= 1e-8
    np.testing.assert_allclose(solution.report.residuals, true, rtol=0.1, atol=1e-14)


def test_a_singular_matrix_is_named_where_its_ridge_is_zero(systems):
    where = np.r_[np.arange(60), np.arange(20)]
    matrix = systems.kernel(60)[np.ix_(where, where)]
    y = np.random.default_rng(0).standard_normal((80, 2))
    singular, ridged = path(DenseOperator(matrix), y, [0.0, 0.1])
    assert singular.report.status is SolveStatus.STAGNATED
    assert "K + 0 I is singular to rounding" in singular.report.text
    assert np.isfinite(singular.x).all()
    assert ridged.report.status is SolveStatus.CONVERGED


def test_an_indefinite_matrix_is_named(systems):
    matrix, _ = systems.with_spectrum(np.r_[-1.0, np.linspace(1, 10, 40)])
    statuses = [
        solution.report.status
        for solution in path(DenseOperator(matrix), np.ones(41), [0.5, 2.0], block_size=4)
    ]
    assert statuses == [SolveStatus.INDEFINITE, SolveStatus.CONVERGED]


def test_a_matrix_that_is_not_finite_is_named():
    matrix = np.eye(20)
    matrix[3, 3] = np.nan
    for solution in path(DenseOperator(matrix), np.ones(20), [0.0, 1.0]):
        assert solution.report.status is SolveStatus.NON_FINITE
        np.testing.assert_array_equal(solution.x, 0)
        assert solution.report.residuals == (1.0,)


def test_zero_targets_need_nothing():
    (solution,) = path(DenseOperator(np.eye(5)), np.zeros((5, 2)), [0.1])
    assert solution.report.status is SolveStatus.CONVERGED
    np.testing.assert_array_equal(solution.x, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ridges": []}, InvalidInputError, "at least one"),
        ({"ridges": [0.1, -2.0]}, InvalidInputError, "at least 0, got -2"),
        ({"ridges": [np.nan]}, InvalidInputError, "got nan"),
        ({"tol": 0.0}, InvalidInputError, "tol: expected a positive"),
        ({"block_size": 0}, InvalidInputError, "block_size: expected a positive"),
        ({"y": np.ones(3)}, DataShapeError, "right-hand side"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, error, words):
    given = {"y": np.ones(4), "ridges": [0.1], **arguments}
    with pytest.raises(error, match=words):
        path(DenseOperator(np.eye(4)), **given)
