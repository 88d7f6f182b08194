"""Preconditioners and refinement as estimators offer them, and what they refuse before working."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from ntk_dist import NTKRegressor, stax
from ntk_dist.errors import InvalidInputError, MemoryBudgetError
from ntk_dist.model.pipeline import predict_rows
from ntk_dist.settings import get_settings
from ntk_dist.solver.low_rank import building_bytes

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(60, 5))
    return x, np.sin(x @ rng.normal(size=(5, 2))), rng.normal(size=(20, 5))


@pytest.fixture
def ill_conditioned(rng):
    """Every row but for an error of 1e-3 twice, with another target: a condition of 1e6."""
    x = rng.normal(size=(80, 4))
    x = np.concatenate([x, x + 1e-3 * rng.normal(size=x.shape)])
    return x, np.sin(x.sum(axis=1)) + 0.1 * rng.normal(size=160), rng.normal(size=(30, 4))


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_every_preconditioner_gives_the_same_answer(problem, ridge):
    x, y, new = problem
    answers = {}
    for name in ("none", "jacobi", "rpcholesky", "nystrom"):
        rank = "auto" if name in {"none", "jacobi"} else 30
        model = NTKRegressor(NET, preconditioner=name, rank=rank, ridge=ridge, dtype="float64")
        report = model.fit(x, y).report_.solve
        assert report.preconditioner == {"none": "identity"}.get(name, name)
        assert report.preconditioner_rank == (0 if rank == "auto" else 30)
        assert (report.preconditioner_passes > 0) == (rank == 30)
        assert report.jitter == 0.0
        answers[name] = (model.predict(new), report.steps)
    for values, _ in answers.values():
        np.testing.assert_allclose(values, answers["none"][0], atol=1e-4)
    assert answers["rpcholesky"][1] < answers["none"][1]


def test_the_report_bounds_the_spectrum_in_words(problem):
    x, y, _ = problem
    report = NTKRegressor(NET).fit(x, y).report_
    assert "condition of the matrix at least" in str(report)
    assert report.solve.matrix_condition < np.linalg.cond(NET.kernel_fn(x))


@pytest.mark.parametrize("apart_from_workers", [False, True])
def test_refined_answers_are_those_of_float64_blocks(ill_conditioned, tmp_path, apart_from_workers):
    x, y, new = ill_conditioned
    x = np.concatenate([x, x[:3]])  # merged, so that scaled operators are refined, too
    y = np.concatenate([y, y[:3] + 0.1])
    expected = NTKRegressor(NET, dtype="float64", solver="direct").fit(x, y).predict(new)
    plain = NTKRegressor(NET, block_rows=50).fit(x, y)
    workspace = tmp_path / "ws" if apart_from_workers else None
    refined = NTKRegressor(NET, block_rows=50, refine=True, tol=1e-11, workspace=workspace)
    refined.fit(x, y)
    assert np.abs(plain.predict(new) - expected).max() > 1e-4
    np.testing.assert_allclose(refined.predict(new), expected, atol=1e-8)
    report = refined.report_.solve
    assert report.method == "cg, refined"
    assert 1 <= report.refinements <= 8
    assert max(report.residuals) <= 1e-11
    assert not any("rounding of the float32" in w for w in report.warnings)
    assert f"{report.refinements} refinements" in str(refined.report_)
    if workspace:
        refined.save(tmp_path / "model")
        loaded = NTKRegressor.load(tmp_path / "model")
        np.testing.assert_array_equal(loaded.predict(new), refined.predict(new))
        # The blocks that are stored are the float32 ones, and no others.
        chunks = [p for p in workspace.glob("grams/*/ntk/c/*/*") if p.is_file()]
        assert len(chunks) == 10
        assert max(p.stat().st_size for p in chunks) < 50 * 50 * 4 + 1000


def test_refinement_with_a_ridge_solves_the_ridged_system(ill_conditioned):
    x, y, new = ill_conditioned
    expected = NTKRegressor(NET, ridge=1e-3, dtype="float64", tol=1e-12).fit(x, y).predict(new)
    refined = NTKRegressor(NET, ridge=1e-3, refine=3, tol=1e-11).fit(x, y)
    np.testing.assert_allclose(refined.predict(new), expected, atol=1e-9)


def test_the_number_of_rounds_is_a_limit(ill_conditioned):
    x, y, _ = ill_conditioned
    with pytest.warns(ConvergenceWarning, match="The limit of 1 refinements"):
        model = NTKRegressor(NET, refine=1, tol=1e-13).fit(x, y)
    assert model.report_.solve.refinements == 1


def test_a_warning_tells_where_rounding_moves_predictions(ill_conditioned, rng):
    x, y, _ = ill_conditioned
    x[80:] = x[:80] + 1e-5 * rng.normal(size=(80, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        report = NTKRegressor(NET).fit(x, y).report_
    assert any("use float64 blocks, refine, or add a ridge" in w for w in report.solve.warnings)
    assert "warning: rounding of the float32 entries" in str(report)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"preconditioner": "jacobi", "rank": 5}, r"^rank: expected 'auto', because .*, got 5$"),
        ({"preconditioner": "none", "rank": 5}, r"^rank: expected 'auto', because .*, got 5$"),
        ({"preconditioner": "ilu"}, r"^preconditioner: expected 'rpcholesky', 'nystrom', 'jacobi'"),
        ({"block_rows": 61}, r"^block_rows: expected at most 60 \(rows\), got 61$"),
        ({"rank": 61}, r"^rank: expected at most 60 \(rows\), got 61$"),
        ({"tol": 1e-16}, r"^tol: expected at least 1e-14, .*, got 1e-16$"),
        ({"refine": True, "dtype": "float64"}, r"^refine: .*float64 blocks leave nothing"),
        ({"refine": 2, "solver": "direct"}, r"^refine: .*'direct' is not refined"),
        ({"refine": -1}, r"^refine: .*got -1"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(problem, parameters, words):
    x, y, _ = problem
    with pytest.raises(InvalidInputError, match=words):
        NTKRegressor(NET, **parameters).fit(x, y)


@pytest.mark.parametrize("rank", ["auto", 20])
def test_a_budget_too_small_for_the_preconditioner_is_refused_before_anything_is_computed(
    problem, monkeypatch, tmp_path, rank
):
    x, y, _ = problem
    few = building_bytes(60, 1, np.dtype("float32")) - 1
    monkeypatch.setenv("NTK_DIST_PRECONDITIONER_MAX_BYTES", str(few))
    get_settings.cache_clear()
    with pytest.raises(MemoryBudgetError, match="NTK_DIST_PRECONDITIONER_MAX_BYTES"):
        NTKRegressor(NET, rank=rank, workspace=tmp_path).fit(x, y)
    assert not list(tmp_path.glob("grams/*/ntk/c"))
    NTKRegressor(NET, preconditioner="jacobi").fit(x, y)


@pytest.mark.parametrize(
    ("options", "rows", "error", "words"),
    [
        ({"solver": "direct"}, 60, MemoryBudgetError, "'direct' needs .* got 1.0 KiB free: use so"),
        ({"ridge": [0.1, 1.0], "solver": "direct"}, 60, MemoryBudgetError, "'direct' needs"),
        ({"ridge": [0.1, 1.0]}, 60, MemoryBudgetError, "needs 1.5 KiB for two blocks of 2 columns"),
        ({"ridge": [0.1, 1.0]}, 1, InvalidInputError, "two distinct rows or more"),
    ],
)
def test_what_no_solver_could_finish_is_refused_before_anything_is_computed(
    problem, monkeypatch, tmp_path, options, rows, error, words
):
    x, y, _ = problem
    monkeypatch.setattr("ntk_dist.model.solving.available_memory", lambda: 1024)
    # 48 rows are kept for choosing: one column more, and two blocks of two would fit.
    few = 8 * 48 * (4 if "solver" in options else 3)
    monkeypatch.setenv("NTK_DIST_PRECONDITIONER_MAX_BYTES", str(few))
    get_settings.cache_clear()
    with pytest.raises(error, match=words):
        NTKRegressor(NET, workspace=tmp_path, preconditioner="jacobi", **options).fit(
            x[:rows], y[:rows]
        )
    assert not list(tmp_path.glob("grams/*"))


def test_a_tolerance_below_the_blocks_precision_is_said_before_and_in_the_report(problem, caplog):
    x, y, _ = problem
    told = []

    def listen(event):
        told.append(caplog.text)

    report = NTKRegressor(NET, tol=1e-9).fit(x, y, on_event=listen).report_
    line = "tol 1e-09 is below the rounding of float32 entries (1e-07)"
    assert line in told[0]
    assert line in report.solve.warnings[0]
    assert report.status == "converged"
    for quiet in ({"dtype": "float64"}, {"refine": True}, {"tol": 1e-6}):
        quiet = {"tol": 1e-9, **quiet}
        assert NTKRegressor(NET, **quiet).fit(x, y).report_.solve.warnings == ()


@pytest.mark.parametrize(
    ("n_rows", "n_slots", "expected"),
    [(1, 1, 256), (2000, 1, 500), (10_000, 1, 2048), (10_000, 64, 256)],
)
def test_large_predictions_read_the_training_rows_a_few_times_only(n_rows, n_slots, expected):
    assert predict_rows(n_rows, n_slots) == expected
