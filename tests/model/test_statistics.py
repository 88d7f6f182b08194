"""What is known of each sample alone is computed once, whoever asks for it and however often."""

import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from required import require

from ntk_dist import NTKRegressor, stax
from ntk_dist.errors import UnreadableDataError
from ntk_dist.events import PhaseEvent, TaskEvent
from ntk_dist.executors import make_executor
from ntk_dist.kernels.dispatch import Kernel

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1, 1.0, 0.1))
N, N_NEW = 64, 16


class CountingKernel(Kernel):
    """A kernel that leaves a line in a file for every evaluation of statistics."""

    def statistics(self, x):
        with Path(os.environ["COUNT_FILE"]).open("a") as file:
            file.write(f"{len(x)}\n")
        return super().statistics(x)


@pytest.fixture
def count(tmp_path, monkeypatch):
    """How many samples' statistics were computed so far, here and on workers."""
    path = tmp_path / "count"
    path.touch()
    monkeypatch.setenv("COUNT_FILE", str(path))
    monkeypatch.setattr("ntk_dist.model.base.Kernel", CountingKernel)
    return lambda: sum(map(int, path.read_text().split()))


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(N, 3))
    return x, x[:, 0] * x[:, 1], rng.normal(size=(N_NEW, 3))


@pytest.mark.parametrize("kept", [True, False])
def test_a_fit_and_its_predictions_compute_every_sample_once(problem, count, tmp_path, kept):
    x, y, new = problem
    model = NTKRegressor(NET, block_rows=16, workspace=tmp_path / "ws" if kept else None)
    model.fit(x, y)
    assert count() == N
    model.predict(new)
    assert count() == N + N_NEW
    copy = pickle.loads(pickle.dumps(model))
    copy.predict(new)
    assert count() == N + 2 * N_NEW


@pytest.mark.dask
def test_workers_share_them(problem, count, tmp_path):
    require("dask")
    cloudpickle = require("dask", "cloudpickle")
    x, y, new = problem
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        with make_executor("dask:2") as executor:
            for workspace in (tmp_path / "ws", None):
                before = count()
                model = NTKRegressor(NET, executor=executor, block_rows=16, workspace=workspace)
                model.fit(x, y)
                model.predict(new)
                assert count() - before == N + N_NEW
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_a_resumed_fit_computes_what_is_missing(problem, count, tmp_path):
    x, y, new = problem
    events = []
    first = NTKRegressor(NET, block_rows=16, workspace=tmp_path).fit(x, y).predict(new)
    (chunk,) = tmp_path.glob("grams/*/statistics/c/2/0")
    chunk.unlink()
    before = count()
    again = NTKRegressor(NET, block_rows=16, workspace=tmp_path)
    assert again.plan(x).missing_statistics == 16
    again.fit(x, y, on_event=events.append)
    assert count() - before == 16
    assert again.report_.gram.n_computed == 0
    gram = again.report_.gram.key
    assert events[2] == PhaseEvent(phase="statistics", state="started", total=4, done=3, gram=gram)
    assert isinstance(events[3], TaskEvent)
    np.testing.assert_array_equal(again.predict(new), first)


def test_a_saved_model_brings_them(problem, count, tmp_path):
    x, y, new = problem
    model = NTKRegressor(NET, block_rows=16).fit(x, y)
    expected = model.predict(new)
    model.save(tmp_path / "model")
    before = count()
    loaded = NTKRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(new), expected)
    assert count() - before == N_NEW
    loaded.save(tmp_path / "copy")
    np.testing.assert_array_equal(NTKRegressor.load(tmp_path / "copy").predict(new), expected)


def test_damaged_ones_of_a_model_are_refused(problem, tmp_path):
    x, y, new = problem
    NTKRegressor(NET).fit(x, y).save(tmp_path / "model")
    loaded = NTKRegressor.load(tmp_path / "model")
    chunk = tmp_path / "model" / "statistics" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[9] ^= 2
    chunk.write_bytes(data)
    with pytest.raises(UnreadableDataError, match="damaged"):
        loaded.predict(new)


def test_a_gram_that_was_removed_is_no_loss_for_the_model_in_memory(problem, tmp_path):
    x, y, new = problem
    model = NTKRegressor(NET, workspace=tmp_path).fit(x, y)
    expected = model.predict(new)
    shutil.rmtree(tmp_path / "grams")
    np.testing.assert_array_equal(model.predict(new), expected)
