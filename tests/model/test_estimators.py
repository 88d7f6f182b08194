"""The estimators against plain linear algebra, scikit-learn's rules, and their own promises."""

import pickle
import warnings

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ntk_dist import NTKClassifier, NTKRegressor, stax
from ntk_dist.errors import (
    ArchitectureError,
    DataShapeError,
    DiskBudgetError,
    EmptyDataError,
    InvalidInputError,
    LabelError,
    MemoryBudgetError,
    NonFiniteDataError,
    NotConvergedError,
)
from ntk_dist.events import PhaseEvent
from ntk_dist.settings import get_settings

HIDDEN = {"W_std": 2**0.5, "b_std": 0.1}
FC = stax.serial(stax.Dense(1, **HIDDEN), stax.Relu(), stax.Dense(1, **HIDDEN))
CONV = stax.serial(
    stax.Conv(1, (3, 3), padding="SAME", **HIDDEN), stax.Relu(), stax.Flatten(), stax.Dense(1)
)


@parametrize_with_checks([NTKRegressor(FC), NTKClassifier(FC)])
def test_scikit_learn_rules(estimator, check):
    check(estimator)


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(60, 5))
    return x, np.sin(x @ rng.normal(size=(5, 2))), rng.normal(size=(20, 5))


@pytest.mark.parametrize("solver", ["cg", "direct"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_predictions_are_those_of_dense_linear_algebra(problem, solver, ridge, kernel):
    x, y, new = problem
    model = NTKRegressor(
        FC, kernel=kernel, ridge=ridge, solver=solver, dtype="float64", tol=1e-12, block_rows=17
    ).fit(x, y)
    gram, cross = FC.kernel_fn(x, None, kernel), FC.kernel_fn(new, x, kernel)
    expected = cross @ np.linalg.solve(gram + ridge * np.eye(len(x)), y)
    np.testing.assert_allclose(model.predict(new), expected, atol=1e-9)
    assert model.report_.status == "converged"
    assert max(model.report_.residuals) <= 1e-12


def test_ridgeless_interpolates(problem):
    x, y, _ = problem
    model = NTKRegressor(FC).fit(x, y[:, 0])
    np.testing.assert_allclose(model.predict(x), y[:, 0], atol=2e-5)
    assert model.predict(x).shape == (60,)


@pytest.mark.parametrize("solver", ["cg", "direct"])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_repeated_inputs_with_conflicting_targets_give_the_pseudo_inverse(problem, solver, ridge):
    x, y, new = problem
    again = np.array([0, 0, 3, 59, 3, 3])
    x, y = np.concatenate([x, x[again]]), np.concatenate([y, y[again] + 1.0])
    model = NTKRegressor(FC, ridge=ridge, solver=solver, dtype="float64", tol=1e-12).fit(x, y)
    gram, cross = FC.kernel_fn(x), FC.kernel_fn(new, x)
    inverse = np.linalg.pinv(gram + ridge * np.eye(len(x)), rcond=1e-11, hermitian=True)
    np.testing.assert_allclose(model.predict(new), cross @ inverse @ y, atol=1e-7)
    assert (model.report_.n_rows, model.report_.n_unique) == (66, 60)
    assert "6 of 66 rows repeat" in str(model.report_)


@pytest.mark.parametrize(
    ("network", "spoil"),
    [
        # A blank input has a zero row and column in the kernel of a network without biases.
        (stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)), lambda x: 0 * x[0]),
        # Erf is odd: opposite inputs have opposite kernels.
        (stax.serial(stax.Dense(1), stax.Erf(), stax.Dense(1)), lambda x: -x[1]),
        # All inputs are the same to a network that only has a bias.
        (stax.serial(stax.Dense(1, 0.0, 1.0)), lambda x: x[1] + 1),
        # A linear network has a kernel of the rank of its inputs.
        (stax.serial(stax.Dense(1)), lambda x: x[1]),
    ],
)
def test_other_singular_grams_give_the_minimum_norm_answer(problem, network, spoil):
    x, y, new = problem
    x, y = np.concatenate([spoil(x)[None], x]), np.concatenate([[[1.0, 2.0]], y])
    model = NTKRegressor(network, dtype="float64").fit(x, y)
    inverse = np.linalg.pinv(network.kernel_fn(x), rcond=1e-11, hermitian=True)
    expected = network.kernel_fn(new, x) @ inverse @ y
    np.testing.assert_allclose(model.predict(new), expected, atol=1e-5)
    assert model.report_.solve.status.is_success


def test_images_are_classified():
    digits = load_digits()
    x, y = digits.images[:400, ..., None], digits.target[:400]
    model = NTKClassifier(CONV, preprocess=["standardize_channels"]).fit(x[:300], y[:300])
    assert model.score(x[300:], y[300:]) > 0.9
    values = model.decision_function(x[300:])
    assert values.shape == (100, 10)
    np.testing.assert_array_equal(model.classes_[values.argmax(axis=1)], model.predict(x[300:]))


def test_two_classes_have_one_decision_value(problem):
    x, y, new = problem
    labels = np.where(y[:, 0] > 0, "up", "down")
    model = NTKClassifier(FC).fit(x, labels)
    assert model.decision_function(new).shape == (20,)
    np.testing.assert_array_equal(
        model.predict(new), np.where(model.decision_function(new) > 0, "up", "down")
    )
    np.testing.assert_array_equal(model.predict(x), labels)


def test_grid_search_and_pipelines_work(problem):
    x = problem[0]
    pipeline = make_pipeline(StandardScaler(), NTKRegressor(FC))
    smooth = x[:, 0] + 0.5 * x[:, 1]
    search = GridSearchCV(pipeline, {"ntkregressor__ridge": [1e-3, 1e4]}, cv=3).fit(x, smooth)
    assert search.best_params_["ntkregressor__ridge"] == 1e-3


def test_clones_and_pickles_predict_the_same(problem):
    x, y, new = problem
    model = NTKRegressor(FC).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(new), model.predict(new))
    assert clone(model).architecture == FC


def test_a_second_fit_computes_no_block_and_gives_the_same_bytes(problem, tmp_path):
    x, y, new = problem
    first = NTKRegressor(FC, workspace=tmp_path, block_rows=20).fit(x, y)
    second = NTKRegressor(FC, workspace=tmp_path, block_rows=20, ridge=0.0).fit(x, y)
    other_ridge = NTKRegressor(FC, workspace=tmp_path, block_rows=20, ridge=1.0).fit(x, y)
    assert first.report_.gram.n_computed == first.report_.gram.n_blocks == 6
    assert second.report_.gram.n_computed == other_ridge.report_.gram.n_computed == 0
    np.testing.assert_array_equal(first.predict(new), second.predict(new))


def test_several_ridges_are_compared_on_held_out_rows(problem, tmp_path):
    x, _, new = problem
    again = np.r_[np.arange(60), 0, 0, 7]
    x = x[again]
    y = x[:, 0] + np.random.default_rng(1).normal(size=63)
    model = NTKRegressor(FC, ridge=[1e-6, 0.3, 30.0], dtype="float64", tol=1e-12).fit(x, y)
    scores = model.report_.ridge_scores
    assert [score.ridge for score in scores] == [1e-6, 0.3, 30.0]
    assert model.ridge_ == min(scores, key=lambda score: score.error).ridge == 0.3
    assert "ridge 0.3 chosen by the error on held-out rows (1e-06: " in str(model.report_)
    alone = NTKRegressor(FC, ridge=0.3, dtype="float64", tol=1e-12).fit(x, y)
    assert alone.ridge_ == 0.3
    np.testing.assert_array_equal(model.predict(new), alone.predict(new))
    model.save(tmp_path / "model")
    loaded = NTKRegressor.load(tmp_path / "model")
    assert (loaded.ridge_, loaded.report_) == (0.3, model.report_)
    direct = NTKRegressor(FC, ridge=(1e-6, 0.3), dtype="float64", solver="direct").fit(x, y)
    np.testing.assert_allclose(direct.predict(new), alone.predict(new), rtol=1e-8)


def test_ridges_that_memory_cannot_judge_are_named_and_not_chosen(problem, monkeypatch, caplog):
    x, _, _ = problem
    y = np.random.default_rng(0).normal(size=60)
    # 48 rows are kept: room for six passes of one column.
    monkeypatch.setenv("NTK_DIST_PRECONDITIONER_MAX_BYTES", str(8 * 48 * 6))
    model = NTKRegressor(FC, ridge=[0.0, 1e4], tol=1e-3, preconditioner="none").fit(x, y)
    assert model.ridge_ == 1e4
    assert [score.has_converged for score in model.report_.ridge_scores] == [False, True]
    assert "ridge 0 is not among the choices" in caplog.text
    assert "(not converged)" in str(model.report_)
    with pytest.raises(NotConvergedError, match="no ridge could be judged"):
        NTKRegressor(FC, ridge=[0.0, 1e-9], preconditioner="none").fit(x, y)
    monkeypatch.setenv("NTK_DIST_PRECONDITIONER_MAX_BYTES", str(8 * 48 * 1))
    get_settings.cache_clear()
    with pytest.raises(MemoryBudgetError, match="two blocks"):
        NTKRegressor(FC, ridge=[0.0, 1e3], preconditioner="none").fit(x, y)


def test_tables_with_columns_that_are_no_numbers_are_refused(problem):
    x, y, _ = problem
    table = pandas.DataFrame(x).add_prefix("x")
    table["when"] = pandas.date_range("2020", periods=len(x))
    with pytest.raises(DataShapeError, match=r"X: expected real numbers in every column.*dates"):
        NTKRegressor(FC).fit(table, y)
    table["when"] = pandas.array(["1", pandas.NA] * (len(x) // 2), dtype="string")
    with pytest.raises(DataShapeError, match=r"X: .* a real number"):
        NTKRegressor(FC).fit(table, y)
    with pytest.raises(DataShapeError, match="X: Feature names are only supported"):
        NTKRegressor(FC).fit(pandas.DataFrame(x).rename(columns={0: "a"}), y)
    with pytest.raises(DataShapeError, match=r"Complex data not supported$"):
        NTKRegressor(FC).fit(x + 1j, y)


def test_a_warm_start_takes_fewer_steps_to_the_same_answer(problem):
    x, y, new = problem
    settings = {"dtype": "float64", "preconditioner": "none", "tol": 1e-9}
    cold = NTKRegressor(FC, **settings, ridge=0.11).fit(x, y)
    model = NTKRegressor(FC, **settings, ridge=0.1, warm_start=True).fit(x, y)
    assert model.report_.n_warm is None
    model.set_params(ridge=0.11).fit(x, y)
    assert model.report_.n_warm == 60
    assert model.report_.iterations < cold.report_.iterations
    np.testing.assert_allclose(model.predict(new), cold.predict(new), atol=1e-6)
    assert model.fit(x, y).report_.iterations == 0


def test_a_warm_start_knows_rows_by_what_they_are(problem):
    x, y, new = problem
    settings = {"dtype": "float64", "preconditioner": "none", "tol": 1e-8}
    model = NTKRegressor(FC, **settings, warm_start=True).fit(x[:50], y[:50])
    # Rows in another order, some gone, some new, and one that now occurs three times.
    order = np.r_[np.random.default_rng(0).permutation(60)[:55], 0, 0]
    order = np.r_[0, order[order != 0], 0, 0]
    known = len(set(order) & set(range(50)))
    model.fit(x[order], y[order])
    assert model.report_.n_warm == known
    assert f"an earlier fit had for {known} of {len(set(order))} rows" in str(model.report_)
    cold = NTKRegressor(FC, **settings).fit(x[order], y[order])
    np.testing.assert_allclose(model.predict(new), cold.predict(new), atol=1e-4)
    # Other targets, other inputs: there is nothing to start from, and that is said.
    assert model.fit(x, y[:, :1]).report_.n_warm == 0
    assert model.fit(x[:, :4], y[:, :1]).report_.n_warm == 0


def test_a_warm_start_keeps_the_preprocessing_so_that_rows_stay_what_they_were(problem, tmp_path):
    x, y, new = problem
    settings = {"preprocess": ["standardize"], "workspace": tmp_path, "block_rows": 20}
    model = NTKRegressor(FC, warm_start=True, **settings).fit(x[:40], y[:40])
    assert len(model.plan(x).missing) > 0
    mean = model.preprocessor_.states[0]["mean"]
    grown = model.fit(x, y)
    assert grown.report_.n_warm == 40
    np.testing.assert_array_equal(grown.preprocessor_.states[0]["mean"], mean)
    assert len(model.plan(x).missing) == 0
    other = grown.set_params(preprocess=["unit_norm"]).fit(x, y)
    assert other.report_.n_warm == 0
    assert other.predict(new).shape == (20, 2)


def test_a_deleted_block_alone_is_computed_again(problem, tmp_path):
    x, y, new = problem
    first = NTKRegressor(FC, workspace=tmp_path, block_rows=20).fit(x, y)
    (chunk,) = tmp_path.glob("grams/*/ntk/c/1/2")
    chunk.unlink()
    second = NTKRegressor(FC, workspace=tmp_path, block_rows=20).fit(x, y)
    assert second.report_.gram.n_computed == 1
    np.testing.assert_array_equal(first.predict(new), second.predict(new))


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_block_is_found_and_computed_again(problem, tmp_path, damage, caplog):
    x, y, new = problem
    first = NTKRegressor(FC, workspace=tmp_path, block_rows=20).fit(x, y)
    (chunk,) = tmp_path.glob("grams/*/ntk/c/0/1")
    data = bytearray(chunk.read_bytes())
    if damage == "flip":
        data[100] ^= 1
    chunk.write_bytes(data if damage == "flip" else data[:50])
    second = NTKRegressor(FC, workspace=tmp_path, block_rows=20).fit(x, y)
    np.testing.assert_array_equal(first.predict(new), second.predict(new))
    assert "recomputing block (0, 1)" in caplog.text


def test_what_is_set_after_a_fit_is_for_the_next_one(problem, tmp_path):
    x, y, new = problem
    model = NTKRegressor(FC, tol=1e-8).fit(x, y)
    expected = model.predict(new)
    other = stax.serial(stax.Dense(1), stax.Erf(), stax.Dense(1))
    model.set_params(kernel="nngp", architecture=other, dtype="float64", ridge=5.0)
    np.testing.assert_array_equal(model.predict(new), expected)
    model.save(tmp_path / "model")
    loaded = NTKRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(new), expected)
    assert (loaded.kernel, loaded.ridge, loaded.dtype) == ("ntk", 0.0, "float32")
    assert np.abs(model.fit(x, y).predict(new) - expected).max() > 1e-3


def test_models_travel_without_their_executor_and_workspace(problem, tmp_path):
    x, y, new = problem
    model = NTKRegressor(FC, preprocess=["standardize", "unit_norm"], workspace=tmp_path / "ws")
    model.fit(x, y)
    model.save(tmp_path / "model")
    again = NTKRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(new), model.predict(new))
    assert again.report_ == model.report_
    assert again.workspace is None
    model.save(tmp_path / "model")  # replaces itself
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "ws"]


def test_labels_come_back_from_disk_as_they_were(problem, tmp_path):
    x, y, new = problem
    model = NTKClassifier(FC).fit(x, np.array(["α", "b", "c"])[np.digitize(y[:, 0], [-0.3, 0.3])])
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(
        NTKClassifier.load(tmp_path / "model").predict(new), model.predict(new)
    )


def test_a_step_limit_warns_and_keeps_the_model(problem):
    x, y, new = problem
    model = NTKRegressor(FC, max_steps=2, preconditioner="none", tol=1e-10)
    with pytest.warns(ConvergenceWarning, match="step limit"):
        model.fit(x, y)
    assert model.report_.status == "max_steps"
    assert np.isfinite(model.predict(new)).all()


def test_the_plan_says_what_fit_will_do_and_starts_nothing(problem, tmp_path):
    x, y, _ = problem
    model = NTKRegressor(FC, workspace=tmp_path / "ws", block_rows=20)
    assert len(model.plan(x).missing) == 6
    assert not (tmp_path / "ws").exists()
    report = model.compute_gram(x)
    assert report.n_computed == 6
    assert len(model.plan(x).missing) == 0
    assert model.fit(x, y).report_.gram.n_computed == 0


def test_a_gram_that_will_not_fit_is_refused_before_it_starts(small_disk, rng):
    x = rng.normal(size=(600, 3))
    with pytest.raises(DiskBudgetError, match=r"needs 956\.2 KiB more .* free"):
        NTKRegressor(FC, workspace=small_disk, block_rows=200).fit(x, x[:, 0])
    assert not list(small_disk.glob("grams/*/ntk/c"))


def test_blocks_that_memory_will_not_hold_are_refused_before_they_start(monkeypatch, rng):
    x = rng.normal(size=(600, 3))
    monkeypatch.setattr("ntk_dist.store.memory.available_memory", lambda: 2**19)
    phases = []

    def listen(event):
        if isinstance(event, PhaseEvent):
            phases.append(event.phase)

    words = r"needs 956\.2 KiB more of memory .* 512\.0 KiB free: give a workspace folder"
    with pytest.raises(MemoryBudgetError, match=words):
        NTKRegressor(FC, block_rows=200).fit(x, x[:, 0], on_event=listen)
    assert set(phases) == {"ingest"}


@pytest.mark.parametrize("left", [0, 2**20])
def test_blocks_in_memory_leave_less_to_the_workers(monkeypatch, rng, left):
    x = rng.normal(size=(600, 3))
    needed = NTKRegressor(FC, block_rows=200).plan(x)
    free = needed.missing_bytes + needed.worker_bytes + left - 1
    for module in ("store.memory", "model.gram"):
        monkeypatch.setattr(f"ntk_dist.{module}.available_memory", lambda: free)
    model = NTKRegressor(FC, block_rows=200)
    if left:
        assert model.compute_gram(x).n_computed == 6
    else:
        with pytest.raises(MemoryBudgetError, match="choose fewer block_rows"):
            model.compute_gram(x)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (
            lambda x, y: (np.where(np.arange(60)[:, None] == 7, np.nan, x), y),
            NonFiniteDataError,
            "7",
        ),
        (lambda x, y: (x[:0], y[:0]), EmptyDataError, "0 sample"),
        (lambda x, y: (x[:, 0], y), DataShapeError, "2D"),
        (lambda x, y: (x, y[:-1]), LabelError, "60 rows, got 59"),
        (lambda x, y: (x, np.where(np.arange(60)[:, None] == 9, np.inf, y)), LabelError, ": 9"),
        (lambda x, y: (x + 1j, y), DataShapeError, "Complex"),
        (lambda x, y: ([[1.0], [1.0, 2.0]], y), DataShapeError, "sequence"),
        (lambda x, y: (x.reshape(60, 5, 1, 1), y), ArchitectureError, "Flatten"),
    ],
)
def test_bad_data_is_refused_in_words(problem, spoil, error, words):
    x, y, _ = problem
    with pytest.raises(error, match=words):
        NTKRegressor(FC).fit(*spoil(x, y))


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"architecture": None}, ArchitectureError, "built with ntk_dist.stax"),
        ({"kernel": "ntk2"}, InvalidInputError, "ntk"),
        ({"dtype": "float16"}, InvalidInputError, "float32"),
        ({"solver": "lu"}, InvalidInputError, "direct"),
        ({"preconditioner": "magic"}, InvalidInputError, "rpcholesky"),
        ({"ridge": -1.0}, InvalidInputError, "ridge"),
        ({"rank": 1000}, InvalidInputError, "rank"),
        ({"block_rows": 0}, InvalidInputError, "block_rows"),
        ({"executor": "slurm"}, InvalidInputError, "local"),
        ({"preprocess": ["whiten"]}, InvalidInputError, "zca"),
    ],
)
def test_bad_parameters_are_refused_in_words(problem, parameters, error, words):
    x, y, _ = problem
    with pytest.raises(error, match=words):
        NTKRegressor(**{"architecture": FC, **parameters}).fit(x, y)


def test_a_fit_that_fails_leaves_no_half_of_an_earlier_one(problem):
    x, y, new = problem
    model = NTKRegressor(FC, preprocess=["standardize"]).fit(x, y)
    with pytest.raises(LabelError):
        model.fit(100 * x, y[:3])
    with pytest.raises(NotFittedError):
        model.predict(new)


def test_planning_leaves_a_fitted_model_alone(problem):
    x, y, new = problem
    model = NTKRegressor(FC, preprocess=["standardize"]).fit(x, y)
    before = model.predict(new)
    model.plan(100 * x[:30])
    np.testing.assert_array_equal(model.predict(new), before)


def test_grid_search_over_numpy_numbers_in_a_workspace(problem, tmp_path):
    x = problem[0]
    grid = {"block_rows": np.array([20, 30]), "ridge": np.float32([0.1])}
    search = GridSearchCV(NTKRegressor(FC, workspace=tmp_path), grid, cv=2).fit(x, x[:, 0])
    search.best_estimator_.save(tmp_path / "model")
    assert NTKRegressor.load(tmp_path / "model").block_rows in (20, 30)


def test_overflow_is_an_error_and_not_an_answer(problem):
    x, y, new = problem
    with pytest.raises(NonFiniteDataError, match="overflows float64"):
        NTKRegressor(FC, preprocess=["standardize"]).fit(1e160 * x, y)
    with pytest.raises(NonFiniteDataError, match=r"block \(0, 0\) of the ntk overflows float32"):
        NTKRegressor(FC).fit(1e25 * x, y)
    with pytest.raises(NonFiniteDataError, match="of 20 rows overflow"):
        NTKRegressor(FC).fit(x, y).predict(1e38 * new)


def test_nothing_is_warned_about_in_a_good_fit(problem):
    x, y, _ = problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NTKRegressor(FC).fit(x, y)
