"""Predictions of a prepared model are those of the model, and it holds what it says it holds."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest

from ntk_dist import NTKClassifier, NTKRegressor, stax
from ntk_dist.errors import ArtifactError, DataShapeError, EmptyDataError, NonFiniteDataError
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model import serving
from ntk_dist.model.artifact import read_record
from ntk_dist.model.load import load_model
from ntk_dist.model.serving import ModelFacts, ServingModel

HIDDEN = {"W_std": 2**0.5, "b_std": 0.1}
FC = stax.serial(stax.Dense(1, **HIDDEN), stax.Relu(), stax.Dense(1, **HIDDEN))
CONV = stax.serial(
    stax.Conv(1, (3,), padding="SAME", **HIDDEN), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)
)


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(70, 5))
    return x, np.sin(x @ rng.normal(size=(5, 3))), rng.normal(size=(11, 5))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    "given",
    [
        {"dtype": "float32"},
        {"dtype": "float64", "kernel": "nngp"},
        {"preprocess": ["standardize"], "refine": True},
        {"preprocess": ["unit_norm"]},
    ],
    ids=str,
)
def test_values_are_those_of_the_model(problem, given, monkeypatch):
    x, y, new = problem
    model = NTKRegressor(FC, **given).fit(x, y)
    expected = model.predict(new)
    close(values_of(ServingModel(model), new), expected)
    if "unit_norm" not in given.get("preprocess", ()):  # curves know the norms beside them
        monkeypatch.setattr(serving, "COLUMNS_AT_ONCE", 16)
        monkeypatch.setattr(serving, "ROWS_AT_ONCE", 4)
        close(values_of(ServingModel(model), new), expected)


def values_of(ready, x, threads=1):
    return ready.values(ready.prepare(x), threads)


def test_threads_change_no_bit(problem):
    x, y, new = problem
    ready = ServingModel(NTKRegressor(FC).fit(x, y))
    np.testing.assert_array_equal(values_of(ready, new, 1), values_of(ready, new, 2))


def test_training_rows_and_their_opposites_have_the_exact_kernel(rng):
    x = rng.normal(size=(60, 4)).astype(np.float32)
    x[7] = 0
    x[9] = -x[8]
    kernel = Kernel(FC.layer, ("nngp", "ntk"), "float32")
    packed = kernel.pack(x, kernel.statistics(x))
    new = np.concatenate([x[[3, 7, 8, 9]], -x[[20]], 2 * x[[21]]])
    expected, found = kernel.block(new, x), packed.block(new)
    for name in kernel.kernels:
        # Statistics of one sample may differ in the last bit of float64, which rounding hides.
        np.testing.assert_array_equal(found[name], expected[name])
    assert found["ntk"][0, 3] == kernel.diag(x)["ntk"][3].astype(np.float32)


def test_networks_with_pooling_too(rng):
    x, y = rng.normal(size=(20, 6, 2)), rng.normal(size=20)
    model = NTKRegressor(CONV).fit(x, y)
    ready, new = ServingModel(model), rng.normal(size=(3, 6, 2))
    values = values_of(ready, new)
    assert values.shape == (3, 1)
    close(ready.output(values), model.predict(new))
    assert ready.labels(values) is None


@pytest.mark.parametrize("classes", [np.array(["no", "yes"]), np.array([3, 5, 9])])
def test_labels_are_those_of_the_classifier(rng, classes):
    x = rng.normal(size=(50, 5))
    model = NTKClassifier(FC).fit(x, classes[np.arange(50) % len(classes)])
    ready, new = ServingModel(model), rng.normal(size=(8, 5))
    values = values_of(ready, new)
    close(ready.output(values), model.decision_function(new))
    np.testing.assert_array_equal(ready.labels(values), model.predict(new))
    np.testing.assert_array_equal(ready.classes, classes)


def test_facts_come_from_the_record_alone(problem, tmp_path):
    x, y, _ = problem
    NTKRegressor(FC).fit(x, y).save(tmp_path / "m")
    facts = ModelFacts.of(read_record(tmp_path / "m"))
    ready = ServingModel(load_model(tmp_path / "m"))
    assert (facts.task, facts.dtype, facts.n_rows, facts.n_targets) == (
        "regression",
        "float32",
        70,
        3,
    )
    assert facts.n_bytes == ready.n_bytes
    assert facts.row_shape == ready.row_shape == (5,)
    assert facts.input_range == load_model(tmp_path / "m").input_range_ == (x.min(), x.max())
    record = read_record(tmp_path / "m")
    del record["input_range"]
    with pytest.raises(ArtifactError, match="makes no sense: KeyError"):
        ModelFacts.of(record)
    with pytest.raises(ArtifactError, match="makes no sense"):
        ModelFacts.of({"estimator": "NTKRegressor"})


def test_memory_is_what_was_said(rng):
    kernel = Kernel(FC.layer, ("ntk",), "float32")
    x = rng.normal(size=(2000, 30)).astype(np.float32)
    known = kernel.statistics(x)
    kernel.pack(x[:2], known[:2])  # whatever is kept from the first time on
    tracemalloc.start()
    packed = kernel.pack(x, known)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The kernels of each sample are views of the statistics.
    said = kernel.packed_bytes((30,), 2000) - 2000 * 8
    assert packed is not None
    assert said <= held < said + 20_000


def test_bad_rows_are_refused(problem):
    x, y, new = problem
    ready = ServingModel(NTKRegressor(FC).fit(x, y))
    with pytest.raises(DataShapeError, match=r"expected an array of shape \(n, 5\), got \(11, 4\)"):
        ready.prepare(new[:, :4])
    with pytest.raises(EmptyDataError):
        ready.prepare(new[:0])
    new[2, 1] = np.nan
    with pytest.raises(NonFiniteDataError, match="1 of 11 rows: 2"):
        ready.prepare(new)
    with pytest.raises(NonFiniteDataError, match="2 of 2 rows overflow"):
        ready.require_finite(np.full((2, 1), np.inf))


def test_many_threads_share_one(problem):
    x, y, _ = problem
    ready = ServingModel(NTKRegressor(FC).fit(x, y))
    batches = [np.random.default_rng(k).normal(size=(k + 1, 5)) for k in range(6)]
    expected, found = [values_of(ready, b) for b in batches], [None] * 6

    def run(k):
        found[k] = values_of(ready, batches[k], 2)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
