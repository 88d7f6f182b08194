"""Refined answers against those of the matrix before it was rounded."""

import numpy as np
import pytest

from ntk_dist.events import CheckpointEvent
from ntk_dist.solver import (
    DenseOperator,
    RidgedOperator,
    RPCholeskyPreconditioner,
    SolveStatus,
    solve_cg,
    solve_refined,
)
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.store.location import open_place


def rounded(matrix):
    return DenseOperator(matrix.astype(np.float32))


def preconditioner(operator, rank=20):
    return RPCholeskyPreconditioner.of(operator, rank=rank, generator=np.random.default_rng(0))


@pytest.mark.parametrize("digits", [3, 4, 5])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_the_answer_is_that_of_the_exact_matrix(systems, digits, ridge):
    matrix, _ = systems.with_spectrum(np.logspace(0, -digits, 80))
    y = np.random.default_rng(0).standard_normal((80, 3)) * [1.0, 1e9, 1e-9]
    exact, stored = DenseOperator(matrix), rounded(matrix)
    solution = solve_refined(
        RidgedOperator(stored, ridge),
        RidgedOperator(exact, ridge),
        y,
        preconditioner(stored),
        tol=1e-11,
    )
    expected = np.linalg.solve(matrix + ridge * np.eye(80), y)
    scale = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(solution.x / scale, expected / scale, atol=1e-9)
    once = solve_cg(RidgedOperator(stored, ridge), y, tol=1e-10).x
    assert np.abs((once - expected) / scale).max() > 1e-7
    report = solution.report
    assert (report.status, report.method) == (SolveStatus.CONVERGED, "cg, refined")
    assert max(report.residuals) <= 1e-11
    assert 1 <= report.refinements <= 5
    assert report.ridge == ridge


def test_each_round_is_one_product_with_the_exact_matrix(systems):
    matrix, _ = systems.with_spectrum(np.logspace(0, -4, 60))
    exact = systems.CountingOperator(DenseOperator(matrix))
    y = np.random.default_rng(0).standard_normal((60, 2))
    report = solve_refined(rounded(matrix), exact, y, tol=1e-11).report
    assert exact.widths == [2] * (report.refinements + 1)
    assert exact.requests == []
    assert report.products >= report.steps > report.refinements


@pytest.mark.parametrize("cut_at", [0, 1, 2])
def test_one_cut_off_goes_on_from_its_last_round(systems, tmp_path, cut_at):
    """A product with the exact matrix takes as long as the Gram matrix did: none is made twice."""
    matrix, _ = systems.with_spectrum(np.logspace(0, -5, 60))
    y = np.random.default_rng(0).standard_normal((60, 2)) * [1.0, 1e200]
    first, rounds = (Checkpoint(open_place(tmp_path), {"part": part}) for part in "ab")
    kept = {"tol": 1e-12, "checkpoint": first, "rounds_checkpoint": rounds}
    whole = solve_refined(rounded(matrix), DenseOperator(matrix), y, tol=1e-12)
    assert whole.report.refinements > 2
    saved = []

    def interrupt(event):
        if isinstance(event, CheckpointEvent):
            saved.append(event.step)
        elif len(saved) == cut_at + 1:  # in the correction after
            raise KeyboardInterrupt

    cut = systems.CountingOperator(DenseOperator(matrix))
    with pytest.raises(KeyboardInterrupt):
        solve_refined(rounded(matrix), cut, y, on_step=interrupt, **kept)
    assert len(cut.widths) == cut_at + 1
    rest = systems.CountingOperator(DenseOperator(matrix))
    solution = solve_refined(rounded(matrix), rest, y, **kept)
    assert len(rest.widths) == whole.report.refinements - cut_at
    assert solution.x.tobytes() == whole.x.tobytes()
    report = solution.report
    assert report.resumed_from_step == saved[-1]
    assert (report.refinements, report.steps) == (whole.report.refinements, whole.report.steps)


@pytest.mark.parametrize("spoil", ["shape", "missing", "torn"])
def test_rounds_that_cannot_be_used_are_made_again(systems, tmp_path, caplog, spoil):
    matrix, _ = systems.with_spectrum(np.logspace(0, -4, 60))
    y = np.random.default_rng(0).standard_normal((60, 2))
    rounds = Checkpoint(open_place(tmp_path), {"part": "rounds"})
    whole = solve_refined(
        rounded(matrix), DenseOperator(matrix), y, tol=1e-11, rounds_checkpoint=rounds
    )
    arrays = rounds.load()
    if spoil == "shape":
        rounds.save(arrays | {"x": arrays["x"][:, :1]})
    elif spoil == "missing":
        rounds.save({name: array for name, array in arrays.items() if name != "best"})
    else:
        rounds.file.write_bytes(rounds.file.read_bytes()[:-7])
    exact = systems.CountingOperator(DenseOperator(matrix))
    again = solve_refined(rounded(matrix), exact, y, tol=1e-11, rounds_checkpoint=rounds)
    assert len(exact.widths) == whole.report.refinements + 1
    assert again.x.tobytes() == whole.x.tobytes()
    assert "starting afresh, not from" in caplog.text


def test_targets_that_are_done_ask_for_no_correction(systems):
    matrix, basis = systems.with_spectrum(np.r_[1e-4, np.ones(59)])
    stored = systems.CountingOperator(rounded(matrix))
    y = np.column_stack([basis[:, -1], np.zeros(60), basis[:, 0]])
    solution = solve_refined(stored, DenseOperator(matrix), y, tol=1e-6)
    assert solution.report.status is SolveStatus.CONVERGED
    assert solution.report.refinements == 1
    assert stored.widths[-1] == 1
    np.testing.assert_array_equal(solution.x[:, 1], 0)


def test_one_target_comes_back_as_one_and_events_tell_of_the_targets(systems):
    matrix, _ = systems.with_spectrum(np.logspace(0, -4, 60))
    events = []
    y = np.random.default_rng(0).standard_normal(60)
    solution = solve_refined(
        rounded(matrix), DenseOperator(matrix), y, tol=1e-11, on_step=events.append
    )
    assert solution.x.shape == (60,)
    assert [e.step for e in events] == sorted(e.step for e in events)
    assert events[-1].step == solution.report.steps
    assert all(len(e.residuals) == 1 for e in events)
    assert events[-1].residuals[0] < 1e-10


def test_rounds_are_limited_and_the_best_answer_kept(systems):
    matrix, _ = systems.with_spectrum(np.logspace(0, -5, 60))
    y = np.random.default_rng(0).standard_normal(60)
    reports = [
        solve_refined(rounded(matrix), DenseOperator(matrix), y, tol=1e-13, rounds=k).report
        for k in (1, 2)
    ]
    assert [r.refinements for r in reports] == [1, 2]
    assert [r.status for r in reports] == [SolveStatus.MAX_STEPS] * 2
    assert reports[1].residuals[0] < 0.1 * reports[0].residuals[0]


def test_where_rounding_is_as_large_as_the_smallest_eigenvalue_it_stops_and_says_so(systems):
    matrix, basis = systems.with_spectrum(np.r_[1e-7, np.linspace(0.5, 1, 79)])
    # Rounding as it could be: the stored matrix is safely definite, and far off.
    stored = DenseOperator((matrix + 3e-7 * np.outer(basis[:, 0], basis[:, 0])).astype(np.float64))
    stored.dtype = np.dtype(np.float32)
    report = solve_refined(stored, DenseOperator(matrix), basis[:, 0], tol=1e-9).report
    assert report.status is SolveStatus.STAGNATED
    assert report.refinements == 1
    assert "the float32 entries are rounded by as much as the smallest eigenvalues" in report.text
    assert "compute the blocks in float64, or add a ridge" in report.text
    assert max(report.residuals) < 1


def test_where_float64_ends_it_stops_and_says_so(systems):
    matrix, basis = systems.with_spectrum(np.logspace(0, -5, 60))
    report = solve_refined(rounded(matrix), DenseOperator(matrix), basis[:, -1], tol=1e-15).report
    assert report.status is SolveStatus.STAGNATED
    assert "float64 sums leave no less here: loosen the tolerance" in report.text
    assert max(report.residuals) < 1e-10


def test_a_singular_stored_matrix_is_not_corrected_with(systems):
    matrix = systems.kernel(40)
    matrix[-1], matrix[:, -1] = matrix[0], matrix[:, 0]
    matrix[-1, -1] = matrix[0, 0]
    exact = systems.CountingOperator(DenseOperator(matrix))
    y = np.random.default_rng(0).standard_normal(40)
    solution = solve_refined(rounded(matrix), exact, y)
    assert solution.report.status is SolveStatus.MINIMUM_NORM
    assert solution.report.warnings[-1].startswith("not refined: ")
    assert exact.widths == []
    short = solve_refined(rounded(matrix), exact, y, max_steps=1)
    assert short.report.status is SolveStatus.MAX_STEPS


def test_the_certificate_is_that_of_float64(systems):
    matrix, basis = systems.with_spectrum(np.logspace(0, -6, 60))
    y = basis[:, -1]
    plain = solve_cg(rounded(matrix), y).report
    refined = solve_refined(rounded(matrix), DenseOperator(matrix), y, tol=1e-8).report
    assert "refine" in plain.warnings[0]
    assert refined.warnings == ()
    assert refined.rounding_share < 1e-8 * plain.rounding_share
