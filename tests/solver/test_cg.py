import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_dist.errors import DataShapeError, InvalidInputError, NonFiniteDataError
from ntk_dist.gram.grid import BlockGrid
from ntk_dist.gram.shard import GramShard
from ntk_dist.solver import (
    DenseOperator,
    IdentityPreconditioner,
    RidgedOperator,
    RPCholeskyPreconditioner,
    SolveStatus,
    StoredGramOperator,
    solve_cg,
    solve_direct,
)

PRECONDITIONERS = {
    "none": lambda operator, ridge: None,
    "identity": lambda operator, ridge: IdentityPreconditioner(),
    "rank-0": lambda operator, ridge: rpcholesky(operator, 0, ridge),
    "rank-30": lambda operator, ridge: rpcholesky(operator, 30, ridge),
}


def rpcholesky(operator, rank, ridge=0.0):
    return RPCholeskyPreconditioner.of(
        operator, rank=rank, ridge=ridge, generator=np.random.default_rng(0)
    )


def kernel_like(condition, n):
    """A spectrum with a few large eigenvalues above a bulk, as smooth kernels have."""
    return np.r_[np.geomspace(condition, 10, 10), np.linspace(1, 5, n - 10)]


def problem(systems, name):
    """Matrix, ridge and targets."""
    generator = np.random.default_rng(0)
    if name == "kernel":
        return systems.kernel(120), 0.0, generator.standard_normal((120, 3))
    if name == "kernel-ridge":
        return systems.kernel(120), 0.1, generator.standard_normal((120, 3))
    if name == "kernel-ridge-by-row":
        return systems.kernel(120), 1 / (1 + np.arange(120.0)), generator.standard_normal((120, 1))
    if name == "condition-1e6":
        return systems.with_spectrum(kernel_like(1e6, 60))[0], 0.0, np.ones((60, 1))
    if name == "repeated-rows":
        where = np.r_[np.arange(60), np.arange(20)]
        matrix = systems.kernel(60)[np.ix_(where, where)]
        return matrix, 0.0, generator.standard_normal((60, 2))[where]
    return np.array([[4.0]]), 0.0, np.array([[2.0]])


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
@pytest.mark.parametrize(
    "name",
    ["kernel", "kernel-ridge", "kernel-ridge-by-row", "condition-1e6", "repeated-rows", "one"],
)
def test_it_agrees_with_numpy(systems, name, preconditioner):
    matrix, ridge, y = problem(systems, name)
    rank_fits = preconditioner != "rank-30" or len(matrix) >= 30
    operator = DenseOperator(matrix)
    ridged = RidgedOperator(operator, ridge)
    build = PRECONDITIONERS[preconditioner if rank_fits else "rank-0"]
    solution = solve_cg(ridged, y, build(operator, ridge), tol=1e-10)
    full = ridged.as_dense()
    assert solution.report.status is SolveStatus.CONVERGED
    true = np.linalg.norm(y - full @ solution.x, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(solution.report.residuals, true, rtol=0.01, atol=1e-11)
    assert true.max() <= 1e-10
    expected = np.linalg.pinv(full, rcond=1e-12, hermitian=True) @ y
    np.testing.assert_allclose(full @ solution.x, full @ expected, atol=1e-9)
    if name != "condition-1e6":
        np.testing.assert_allclose(solution.x, expected, rtol=1e-6, atol=1e-7)
    assert solution.report.ridge == np.max(ridge)


def test_one_target_comes_back_with_one_dimension(systems):
    matrix = systems.kernel(20)
    solution = solve_cg(DenseOperator(matrix), np.ones(20))
    assert solution.x.shape == (20,)
    np.testing.assert_allclose(matrix @ solution.x, 1, atol=1e-5)


def test_a_rank_of_a_few_eigenvalues_saves_the_steps_they_cost(systems):
    matrix, _ = systems.with_spectrum(np.r_[np.logspace(6, 3, 30), np.linspace(1, 2, 170)])
    operator, y = DenseOperator(matrix), np.ones(200)
    plain = solve_cg(operator, y).report
    helped = solve_cg(operator, y, rpcholesky(operator, 60)).report
    assert helped.status is plain.status is SolveStatus.CONVERGED
    assert helped.steps < plain.steps / 3
    assert (helped.preconditioner, helped.preconditioner_rank) == ("rpcholesky", 60)


def test_every_pass_is_one_product_and_done_targets_leave_it(systems):
    matrix, basis = systems.with_spectrum(np.linspace(1, 100, 80))
    # Targets in the span of 1, 3 and all eigenvectors need 1, 3 and many steps.
    y = np.stack([basis[:, 0], basis[:, :3].sum(1), basis.sum(1), np.zeros(80)], axis=1)
    operator = systems.CountingOperator(DenseOperator(matrix))
    report = solve_cg(operator, y, check_every=1000).report
    assert report.status is SolveStatus.CONVERGED
    assert report.products == len(operator.widths) == report.steps + 1
    # Target 0 steps and is checked, target 1 steps thrice and is checked, target 2 goes on alone.
    assert operator.widths[:6] == [3, 3, 2, 2, 1, 1]
    assert operator.requests == []
    checked = systems.CountingOperator(DenseOperator(matrix))
    often = solve_cg(checked, y[:, 2], check_every=10).report
    assert often.steps == report.steps
    assert len(checked.widths) == often.steps + often.steps // 10 + (often.steps % 10 > 0)


def test_targets_do_not_depend_on_their_neighbours(systems):
    operator = DenseOperator(systems.kernel(60))
    y = np.random.default_rng(0).standard_normal((60, 4)) * [1e-200, 1, 1e3, 1e200]
    together = solve_cg(operator, y, tol=1e-9)
    for k in range(4):
        alone = solve_cg(operator, y[:, k], tol=1e-9)
        np.testing.assert_allclose(together.x[:, k], alone.x, rtol=1e-6)
        assert together.report.residuals[k] <= 1e-9


def test_steps_are_told_as_they_happen(systems):
    events = []
    y = np.stack([np.ones(60), np.zeros(60)], axis=1)
    solution = solve_cg(DenseOperator(systems.kernel(60)), y, tol=1e-5, on_step=events.append)
    assert len(events) == solution.report.products
    assert events[-1].step == solution.report.steps
    assert events[-1].residuals == solution.report.residuals
    assert {event.tol for event in events} == {1e-5}


def test_float32_blocks_of_condition_1e5_reach_a_true_1e_9(systems):
    n = 200
    matrix = systems.with_spectrum(kernel_like(1e5, n))[0].astype(np.float32)
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    grid = BlockGrid(n, n, 48, symmetric=True)
    shard = GramShard(lambda b: matrix[grid.rows(b), grid.cols(b)], grid, list(grid), 0)

    class Shards:
        def call(self, method, *args):
            return [getattr(shard, method)(*args)]

        def sum(self, method, *args):
            return self.call(method, *args)[0]

    y = np.random.default_rng(0).standard_normal((n, 2))
    solution = solve_cg(StoredGramOperator(Shards(), n), y, tol=1e-9)
    assert solution.report.status is SolveStatus.CONVERGED
    residual = y - matrix.astype(np.float64) @ solution.x
    assert np.all(np.linalg.norm(residual, axis=0) <= 1e-9 * np.linalg.norm(y, axis=0))


class DriftingOperator(DenseOperator):
    """Products in float32: the recurrence cannot see that its residual has drifted."""

    def matmat(self, v):
        return super().matmat(v.astype(np.float32)).astype(np.float32).astype(np.float64)


def test_nothing_is_called_converged_on_the_word_of_the_recurrence(systems):
    matrix, _ = systems.with_spectrum(kernel_like(1e5, 100))
    events = []
    operator = DriftingOperator(matrix)
    solution = solve_cg(operator, np.ones(100), tol=1e-9, on_step=events.append)
    assert min(event.residuals[0] for event in events) <= 1e-9
    assert solution.report.status is SolveStatus.STAGNATED
    assert 1e-9 < solution.report.residuals[0] < 1e-3


def test_a_start_at_the_answer_takes_no_step(systems):
    matrix = systems.kernel(40)
    y = np.random.default_rng(0).standard_normal((40, 2))
    operator = DenseOperator(matrix)
    answer = solve_direct(matrix, y).x
    solution = solve_cg(operator, y, x0=answer)
    assert (solution.report.steps, solution.report.products) == (0, 1)
    np.testing.assert_allclose(solution.x, answer, rtol=1e-12)
    assert solution.report.condition is None
    near = solve_cg(operator, y, x0=answer + 1e-4)
    assert 0 < near.report.steps < solve_cg(operator, y).report.steps


def test_max_steps_gives_the_best_answer_so_far(systems):
    matrix, _ = systems.with_spectrum(np.linspace(1, 300, 100))
    y = np.ones((100, 2)) * [1, 0]
    solution = solve_cg(DenseOperator(matrix), y, max_steps=20)
    assert solution.report.status is SolveStatus.MAX_STEPS
    assert solution.report.steps == 20
    true = np.linalg.norm(y - matrix @ solution.x, axis=0)[0] / 10
    assert solution.report.residuals == pytest.approx((true, 0.0))
    assert 1e-6 < true < 1


def test_meeting_the_tolerance_on_the_last_step_counts(systems):
    operator = DenseOperator(systems.kernel(60))
    needed = solve_cg(operator, np.ones(60)).report.steps
    report = solve_cg(operator, np.ones(60), max_steps=needed).report
    assert (report.status, report.steps) == (SolveStatus.CONVERGED, needed)


def test_the_best_answer_is_never_worse_than_nothing(systems):
    # After one step the residual of this system is larger than the targets themselves.
    matrix, basis = systems.with_spectrum([1e-4, 1.0, 1e4])
    solution = solve_cg(DenseOperator(matrix), basis @ [1, 1, 0.01], max_steps=1)
    assert max(solution.report.residuals) <= 1


def test_repeated_rows_with_different_targets_end_with_a_name(systems):
    where = np.r_[np.arange(100), np.arange(20)]
    matrix = systems.kernel(100)[np.ix_(where, where)].astype(np.float32)
    y = np.random.default_rng(0).standard_normal((120, 2))
    for preconditioner in (None, rpcholesky(DenseOperator(matrix), 40)):
        solution = solve_cg(DenseOperator(matrix), y, preconditioner)
        assert solution.report.status in {SolveStatus.STAGNATED, SolveStatus.INDEFINITE}
        assert not solution.report.status.is_success
        assert np.all(np.isfinite(solution.x))
        assert max(solution.report.residuals) <= 1
        assert solution.report.steps < 1000


@pytest.mark.parametrize("seed", range(12))
def test_a_matrix_of_low_rank_takes_a_step_or_two(seed):
    # A linear network: the preconditioner knows all of the matrix, and the rest is rounding.
    generator = np.random.default_rng(122 + seed)
    n, rank = int(generator.integers(20, 250)), int(generator.integers(1, 8))
    inputs = generator.standard_normal((n, rank))
    matrix = inputs @ inputs.T / rank
    y = inputs @ generator.standard_normal(rank)
    operator = DenseOperator((matrix + matrix.T) / 2)
    solution = solve_cg(operator, y, rpcholesky(operator, n // 2), tol=1e-10)
    assert solution.report.status is SolveStatus.CONVERGED
    assert solution.report.steps <= 2
    expected = np.linalg.pinv(matrix, rcond=1e-9, hermitian=True) @ y
    np.testing.assert_allclose(solution.x, expected, rtol=1e-9, atol=1e-12)
    assert np.isfinite(solution.report.condition)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [None, 2, 60])
def test_targets_beyond_a_matrix_of_low_rank_are_no_sign_of_indefiniteness(dtype, rank):
    for seed in range(10):
        generator = np.random.default_rng(seed)
        inputs = generator.standard_normal((60, 3)).astype(dtype)
        operator = DenseOperator(inputs @ inputs.T)
        preconditioner = None if rank is None else rpcholesky(operator, rank)
        report = solve_cg(operator, generator.standard_normal(60), preconditioner).report
        assert report.status is SolveStatus.STAGNATED
        assert report.residuals[0] <= 1


def test_an_indefinite_matrix_is_named(systems):
    matrix, _ = systems.with_spectrum(np.r_[-1.0, np.linspace(1, 10, 40)])
    solution = solve_cg(DenseOperator(matrix), np.ones(41))
    assert solution.report.status is SolveStatus.INDEFINITE
    assert solution.report.rayleigh_smallest < 0
    assert np.all(np.isfinite(solution.x))


class Backwards(IdentityPreconditioner):
    def solve(self, r):
        return -r


def test_a_preconditioner_that_is_not_positive_definite_is_named(systems):
    report = solve_cg(DenseOperator(systems.kernel(10)), np.ones(10), Backwards()).report
    assert report.status is SolveStatus.INDEFINITE


def test_giving_up_returns_the_smallest_residual_not_the_last(systems):
    # Beyond the range of a singular matrix the answers run away; the good ones came early.
    values = np.r_[0.0, np.linspace(1, 2, 49)]
    matrix, basis = systems.with_spectrum(values)
    y = basis @ np.r_[0.1, np.ones(49)]
    solution = solve_cg(DenseOperator(matrix), y, check_every=10_000, max_steps=400)
    assert not solution.report.status.is_success
    assert 0.1 / np.linalg.norm(y) <= solution.report.residuals[0] < 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_is_named(bad):
    matrix = np.eye(5)
    matrix[2, 2] = bad
    y = np.zeros((5, 2))
    y[0, 0] = y[2, 1] = 1.0
    report = solve_cg(DenseOperator(matrix), y).report
    assert report.status is SolveStatus.NON_FINITE
    assert np.all(np.isfinite(report.residuals))


def test_zero_targets_and_a_zero_matrix():
    zero = np.zeros((4, 3))
    solution = solve_cg(DenseOperator(np.eye(4)), zero)
    np.testing.assert_array_equal(solution.x, zero)
    assert (solution.report.status, solution.report.products) == (SolveStatus.CONVERGED, 0)
    flat = solve_cg(DenseOperator(np.zeros((4, 4))), np.ones(4)).report
    assert flat.status is SolveStatus.STAGNATED
    assert flat.residuals == (1.0,)


def test_a_tolerance_below_rounding_ends(systems):
    report = solve_cg(DenseOperator(systems.kernel(50)), np.ones(50), tol=1e-30).report
    assert report.status is SolveStatus.STAGNATED
    assert max(report.residuals) < 1e-12


def test_ritz_values_bound_the_spectrum_from_within(systems):
    values = np.linspace(2, 50, 40)
    matrix, _ = systems.with_spectrum(values)
    report = solve_cg(DenseOperator(matrix), np.ones(40), tol=1e-10).report
    assert report.ritz_smallest == pytest.approx(2, rel=1e-4)
    assert report.ritz_largest == pytest.approx(50, rel=1e-4)
    assert report.condition == pytest.approx(25, rel=1e-4)
    assert 2 <= report.rayleigh_smallest < 50
    assert report.warnings == ()
    early = solve_cg(DenseOperator(matrix), np.ones(40), max_steps=3).report
    assert 2 < early.ritz_smallest < early.ritz_largest < 50


def test_directions_lost_in_rounding_are_warned_of(systems):
    matrix, basis = systems.with_spectrum(np.r_[1e-7, np.linspace(1e2, 1e3, 30)])
    operator = DenseOperator(matrix)
    operator.dtype = np.dtype(np.float32)
    report = solve_cg(operator, basis[:, 0] + basis[:, 5]).report
    assert report.status is SolveStatus.CONVERGED
    assert "singular to the precision of its float32 entries" in report.warnings[0]


def test_what_makes_no_sense_is_refused():
    operator = DenseOperator(np.eye(3))
    with pytest.raises(DataShapeError, match="right-hand side"):
        solve_cg(operator, np.ones(4))
    with pytest.raises(DataShapeError, match="x0"):
        solve_cg(operator, np.ones(3), x0=np.ones((3, 2)))
    with pytest.raises(NonFiniteDataError, match=r"1 rows \(1\)"):
        solve_cg(operator, [1.0, np.nan, 1.0])
    for rule in ("tol", "max_steps", "check_every", "patience"):
        with pytest.raises(InvalidInputError, match=f"{rule}: expected a positive number, got 0"):
            solve_cg(operator, np.ones(3), **{rule: 0})


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30),
    targets=st.integers(1, 4),
    seed=st.integers(0, 999),
    ridge=st.floats(1e-3, 10),
    rank=st.integers(0, 30),
)
def test_any_ridged_gram_matrix_is_solved(n, targets, seed, ridge, rank):
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((n, generator.integers(1, n + 1)))
    operator = DenseOperator(root @ root.T)
    y = generator.standard_normal((n, targets))
    solution = solve_cg(
        RidgedOperator(operator, ridge), y, rpcholesky(operator, min(rank, n), ridge), tol=1e-9
    )
    assert solution.report.status is SolveStatus.CONVERGED
    expected = np.linalg.solve(operator.as_dense() + ridge * np.eye(n), y)
    np.testing.assert_allclose(solution.x, expected, rtol=1e-4, atol=1e-6 / ridge)
