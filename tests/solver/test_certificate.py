"""What a report says of its answer, against what happens to the answer."""

import numpy as np
import pytest

from ntk_dist.solver import (
    DenseOperator,
    IdentityPreconditioner,
    JacobiPreconditioner,
    NystromPreconditioner,
    RidgedOperator,
    RPCholeskyPreconditioner,
    SolveStatus,
    solve_cg,
    solve_direct,
)
from ntk_dist.solver.certificate import residual_floor, rounding_share
from ntk_dist.solver.nystrom import nystrom
from ntk_dist.solver.preconditioners import LOW_RANK_PRECONDITIONERS

SINGLE = np.dtype(np.float32)


def smooth(points, others, width):
    distance = ((points[:, None] - others[None]) ** 2).sum(-1)
    return np.exp(-distance / (2 * width**2))


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("same_targets", [True, False])
@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
def test_predictions_move_by_no_more_than_the_share_and_not_by_far_less(width, same_targets, apart):
    generator = np.random.default_rng(0)
    points = generator.standard_normal((300, 4))
    points[200:] = points[:100] + apart * generator.standard_normal((100, 4))
    y = np.sin(points.sum(axis=1))
    if not same_targets:
        y[200:] = -y[:100]
    exact = smooth(points, points, width) + 1e-4 * np.eye(300)
    weights = smooth(generator.standard_normal((100, 4)), points, width)
    moves, shares = [], []
    for seed in range(3):
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (300, 300))
        rounded = exact + np.finfo(np.float32).eps * exact * (noise + noise.T) / 2
        x = np.linalg.solve(rounded, y)
        moves.append(np.sqrt(np.mean((weights @ (x - np.linalg.solve(exact, y))) ** 2)) / y.std())
        norms = (np.array([np.linalg.norm(v)]) for v in (x, y))
        shares.append(rounding_share(*norms, 300, float(np.trace(exact)), SINGLE))
    assert np.max(moves) < 2 * np.max(shares)
    assert np.max(moves) > 0.003 * np.max(shares)


def test_the_report_warns_where_predictions_depend_on_rounding_and_says_what_to_do(systems):
    values = np.logspace(0, -6, 60)
    matrix, basis = systems.with_spectrum(values)
    # The same matrix: what matters is whether the targets lean on its small eigenvalues.
    easy, hard = basis[:, 0], basis[:, -1]
    for solve in (solve_cg, solve_direct):
        calm = solve(DenseOperator(matrix.astype(np.float32)), easy).report
        moved = solve(DenseOperator(matrix.astype(np.float32)), hard).report
        exact = solve(DenseOperator(matrix), hard).report
        assert calm.warnings == exact.warnings == ()
        (warning,) = moved.warnings
        assert "rounding of the float32 entries moves predictions" in warning
        assert "use float64 blocks, refine, or add a ridge" in warning
        assert calm.rounding_share < 1e-6 < 1e-2 < moved.rounding_share
        assert exact.rounding_share == pytest.approx(moved.rounding_share * 2**-29, rel=1e-2)


def test_bounds_of_the_spectrum_are_bounds_and_say_of_what(systems):
    values = np.linspace(1.0, 50.0, 80)
    matrix, _ = systems.with_spectrum(values)
    operator, y = DenseOperator(matrix), np.random.default_rng(0).standard_normal((80, 2))
    preconditioner = RPCholeskyPreconditioner.of(
        operator, rank=20, generator=np.random.default_rng(0)
    )
    report = solve_cg(operator, y, preconditioner).report
    assert 1.0 <= report.rayleigh_smallest < 10.0
    assert 25.0 < report.norm_largest <= 50.0 + 1e-9
    assert report.matrix_condition == report.norm_largest / report.rayleigh_smallest
    within = np.linalg.eigvals(preconditioner.solve(matrix)).real
    assert within.min() * (1 - 1e-9) <= report.ritz_smallest < 2 * within.min()
    assert 0.9 * within.max() < report.ritz_largest <= within.max() * (1 + 1e-9)
    assert (report.preconditioner_passes, report.preconditioner_bytes) == (
        preconditioner.passes,
        preconditioner.n_bytes,
    )


def test_the_answer_bounds_the_smallest_eigenvalue_better_than_the_directions(systems):
    matrix, basis = systems.with_spectrum(np.r_[1e-3, np.linspace(1, 2, 60)])
    y = basis @ np.r_[0.01, np.ones(60)]
    report = solve_cg(DenseOperator(matrix), y, tol=1e-10).report
    x = np.linalg.solve(matrix, y)
    assert 1e-3 * (1 - 1e-9) <= report.rayleigh_smallest <= x @ y / (x @ x) * (1 + 1e-6)


def test_a_ridge_is_part_of_what_is_bounded(systems):
    matrix, _ = systems.with_spectrum(np.linspace(0, 1, 40))
    report = solve_cg(RidgedOperator(DenseOperator(matrix), 0.5), np.ones(40)).report
    assert report.rayleigh_smallest >= 0.5
    assert 1.0 < report.norm_largest <= 1.5 + 1e-12


@pytest.mark.parametrize("kind", LOW_RANK_PRECONDITIONERS.values(), ids=lambda k: k.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ridge", [0.0, 0.1, "by row"])
def test_a_good_preconditioner_does_not_hide_the_large_eigenvalues(systems, kind, dtype, ridge):
    n = 200
    operator = DenseOperator(systems.kernel(n).astype(dtype))
    added = 1e4 / np.arange(1, n + 1) if ridge == "by row" else np.full(n, ridge)
    matrix = RidgedOperator(operator, added)
    preconditioner = kind.of(operator, rank=20, ridge=added, generator=np.random.default_rng(0))
    y = np.random.default_rng(1).standard_normal((n, 2))
    report = solve_cg(matrix, y, preconditioner).report
    values = np.linalg.eigvalsh(matrix.as_dense())
    assert preconditioner.norm_at_least() <= values[-1] * (1 + 1e-6)
    assert values[-1] / 2 < report.norm_largest <= values[-1] * (1 + 1e-12)
    assert report.rayleigh_smallest >= values[0] * (1 - 1e-6)
    condition = values[-1] / values[0]
    assert condition / 5 < report.matrix_condition <= condition
    within = np.linalg.eigvals(preconditioner.solve(matrix.as_dense())).real
    assert report.condition <= within.max() / within.min() * (1 + 1e-6)


def test_what_a_matrix_was_shifted_by_to_be_approximated_is_no_eigenvalue_of_it():
    values = np.r_[-1e-4, np.ones(59)]
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))
    operator = DenseOperator((basis * values) @ basis.T)
    approximation = nystrom(operator, 60, np.random.default_rng(0))
    assert approximation.shift > 1e-4
    preconditioner = NystromPreconditioner(approximation)
    assert 0.5 < preconditioner.norm_at_least() <= 1.0 + 1e-9


def test_rows_that_differ_in_size_bound_the_largest_eigenvalue_by_the_largest_of_them():
    report = solve_cg(
        operator := DenseOperator(np.diag(np.logspace(0, 6, 50))),
        np.r_[np.ones(49), 0.0],
        JacobiPreconditioner(operator),
    ).report
    assert report.norm_largest == 1e6


def test_negative_curvature_is_named_with_its_size_and_that_of_rounding(systems):
    matrix, _ = systems.with_spectrum(np.r_[-0.5, np.linspace(1, 10, 40)])
    report = solve_cg(DenseOperator(matrix.astype(np.float32)), np.ones(41)).report
    assert report.status is SolveStatus.INDEFINITE
    assert -0.5 - 1e-6 <= report.rayleigh_smallest < 0
    assert f"is {report.rayleigh_smallest:.1e} in one direction" in report.text
    # Ten epsilons of the trace.
    assert "rounding of the float32 entries explains -2.6e-04 at most" in report.text


def test_a_tolerance_below_the_sums_own_rounding_is_named_as_such(systems):
    matrix, basis = systems.with_spectrum(np.logspace(0, -6, 60))
    report = solve_cg(DenseOperator(matrix), basis[:, -1], tol=1e-16).report
    assert report.status is SolveStatus.STAGNATED
    (warning,) = report.warnings
    assert "tol 1e-16 is out of reach, loosen it" in warning
    floor = residual_floor(report.rounding_share, np.dtype(np.float64))
    assert 0.01 * floor < max(report.residuals) <= floor


def test_nothing_is_added_to_the_diagonal_unasked(systems):
    matrix = systems.kernel(60)
    matrix[-1], matrix[:, -1] = matrix[0], matrix[:, 0]
    matrix[-1, -1] = matrix[0, 0]
    operator, y = DenseOperator(matrix), systems.kernel(60)[:, :2] @ np.ones(2)
    y[-1] = y[0]
    generator = np.random.default_rng(0)
    for preconditioner in (
        IdentityPreconditioner(),
        RPCholeskyPreconditioner.of(operator, rank=40, generator=generator),
    ):
        solution = solve_cg(operator, y, preconditioner, tol=1e-10)
        assert solution.report.jitter == solution.report.ridge == 0.0
        # The residual is that of the singular matrix itself.
        assert np.linalg.norm(y - matrix @ solution.x) <= 1e-10 * np.linalg.norm(y)


def test_a_matrix_that_is_not_finite_has_no_share():
    assert rounding_share(np.ones(1), np.ones(1), 3, np.nan, SINGLE) is None
    assert rounding_share(np.zeros(1), np.zeros(1), 3, 1.0, SINGLE) == 0.0
    matrix = np.eye(3)
    matrix[1, 1] = np.nan
    report = solve_direct(matrix, np.ones(3)).report
    assert (report.status, report.rounding_share) == (SolveStatus.NON_FINITE, None)
