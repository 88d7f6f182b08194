"""Models are found, loaded whole, kept within a budget, and let go when they are gone."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from ntk_dist import NTKClassifier, NTKRegressor, stax
from ntk_dist.errors import (
    ArtifactError,
    DataShapeError,
    MemoryBudgetError,
    ModelNotFoundError,
    NonFiniteDataError,
    RequestTooLargeError,
    ServiceTimeoutError,
)
from ntk_dist.model.artifact import write_artifact
from ntk_dist.model.portable import pack
from ntk_dist.service import catalog, model_host
from ntk_dist.service.model_host import ModelHost
from ntk_dist.settings import ServiceSettings
from ntk_dist.store.workspace import Workspace

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
NEW = np.random.default_rng(5).normal(size=(4, 3))


@pytest.fixture(scope="module")
def models():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 3))
    label = np.where(x[:, 0] > 0, "up", "down")
    return {
        "line": NTKRegressor(NET).fit(x, x[:, 0]),
        "other": NTKRegressor(NET).fit(x, x[:, 1:]),
        "sign": NTKClassifier(NET).fit(x, label),
    }


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def publish(workspace: Workspace, name: str, model) -> Path:
    with workspace.new_model(name) as draft:
        write_artifact(draft.place, pack(model))
    return draft.published.folder


@pytest.fixture
def host(workspace, models, monkeypatch):
    monkeypatch.setattr(catalog, "FRESH_S", 0.0)
    for name, model in models.items():
        publish(workspace, name, model)
    made = ModelHost(workspace)
    yield made
    made.close()


def ask(host: ModelHost, *arguments, **options):
    return asyncio.run(host.predict(*arguments, **options))


def test_models_are_described_without_being_loaded(host, models):
    found = {model.name: model for model in host.list().items}
    assert sorted(found) == sorted(models)
    line, sign = found["line"], host.describe("sign", 1)
    assert (line.task, line.row_shape, line.n_rows, line.n_targets) == ("regression", (3,), 40, 1)
    assert (sign.task, sign.classes, sign.version) == ("classification", ("down", "up"), 1)
    assert line.classes is None
    assert line.report["n_rows"] == 40
    assert host.loaded() == {}


def test_predictions_are_those_of_the_model(host, models):
    for name, model in models.items():
        answer = ask(host, name, None, NEW)
        decide = model.predict if name != "sign" else model.decision_function
        np.testing.assert_allclose(answer.output, decide(NEW), rtol=1e-10, atol=1e-12)
        assert answer.y.shape == (4, answer.model.n_targets)
        assert answer.model.is_loaded
    assert answer.label.tolist() == models["sign"].predict(NEW).tolist()
    assert host.loaded() == {(m.name, 1): m.n_bytes for m in host.list().items}


def test_callers_who_come_together_wait_for_one_load(host, models):
    async def run():
        return await asyncio.gather(*[host.predict("line", None, NEW[[k]]) for k in range(4)])

    found = np.concatenate([answer.output for answer in asyncio.run(run())])
    np.testing.assert_allclose(found, models["line"].predict(NEW), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("nothing", None, "expected the name of a model, got 'nothing'; there are: line, other"),
        ("../line", None, "got '../line'"),
        ("", None, "got ''"),
        ("line", 7, r"model line: expected one of the versions \[1\], got 7"),
    ],
)
def test_models_that_are_not_there(host, name, version, told):
    with pytest.raises(ModelNotFoundError, match=told):
        ask(host, name, version, NEW)
    with pytest.raises(ModelNotFoundError, match=told):
        host.describe(name, version)


def test_strangers_hear_of_no_other_model_and_nothing_is_looked_up_for_them(host, monkeypatch):
    def walk(workspace):
        raise AssertionError("every model was looked at")

    monkeypatch.setattr(Workspace, "models", walk)
    for name, version in (("nothing", None), ("line", 7), ("../line", None)):
        with pytest.raises(ModelNotFoundError, match="expected a model that is pub") as caught:
            asyncio.run(host.find(name, version, may_list=False))
        assert "other" not in str(caught.value)
        assert "[1]" not in str(caught.value)


def test_rows_that_do_not_fit(host, workspace):
    with pytest.raises(DataShapeError, match=r"shape \(n, 3\), got \(4, 2\)"):
        ask(host, "line", None, NEW[:, :2])
    with pytest.raises(NonFiniteDataError, match="1 of 1 rows: 0"):
        ask(host, "line", None, np.array([[1, np.nan, 0]]))
    with pytest.raises(DataShapeError, match="rows first"):
        ask(host, "line", None, np.float64(3))
    few = ModelHost(workspace, ServiceSettings(max_rows=3))
    with pytest.raises(RequestTooLargeError, match="at most 3 rows, got 4"):
        ask(few, "line", None, NEW)
    few.close()


def test_an_answer_is_no_larger_than_a_request_may_be(host, workspace):
    small = ModelHost(workspace, ServiceSettings(max_body_bytes=64))
    assert ask(small, "other", None, NEW).y.nbytes == 64
    with pytest.raises(RequestTooLargeError, match="at most 64 B, got 5 rows of 2 numbers each"):
        ask(small, "other", None, np.ones((5, 3)))
    assert ask(small, "line", None, np.ones((5, 3))).y.shape == (5, 1)
    small.close()
    tiny = ModelHost(workspace, ServiceSettings(max_body_bytes=8))
    assert ask(tiny, "other", None, NEW[:1]).y.shape == (1, 2)  # no smaller one could be asked for
    tiny.close()


def test_a_large_answer_is_looked_at_in_a_thread(host, monkeypatch):
    where = {}
    finish = model_host._answer

    def noted(model, values, about):
        where[len(values)] = threading.current_thread().name
        return finish(model, values, about)

    monkeypatch.setattr(model_host, "_answer", noted)
    for n_rows in (4, model_host.INLINE_BYTES // 8 + 1):
        ask(host, "line", None, np.ones((n_rows, 3)))
    small, large = where.values()
    assert small == threading.main_thread().name
    assert large.startswith("rows")


def test_new_versions_are_noticed_and_old_ones_stay(host, workspace, models):
    before = ask(host, "line", None, NEW)
    publish(workspace, "line", models["other"])
    after = ask(host, "line", None, NEW)
    assert (before.model.version, after.model.version) == (1, 2)
    assert after.y.shape == (4, 2)
    np.testing.assert_array_equal(ask(host, "line", 1, NEW).y, before.y)
    assert host.describe("line").versions == (1, 2)


def test_a_version_that_is_removed_is_let_go(host, workspace):
    ask(host, "line", None, NEW)
    shutil.rmtree(workspace.model_place("line").folder)
    with pytest.raises(ModelNotFoundError):
        ask(host, "line", None, NEW)
    assert host.loaded() == {}


def test_another_model_under_the_same_number_is_loaded_again(host, workspace, models):
    ask(host, "line", None, NEW)
    shutil.rmtree(workspace.model_place("line").folder)
    publish(workspace, "line", models["other"])
    assert ask(host, "line", 1, NEW).y.shape == (4, 2)
    assert host.describe("line").n_targets == 2


def test_half_a_model_is_never_listed_nor_served(host, workspace):
    folder = workspace.model_place("line").folder
    (folder / "model.json").unlink()
    assert "line" not in {model.name for model in host.list().items}
    with pytest.raises(ArtifactError):
        ask(host, "line", None, NEW)
    damaged = workspace.model_place("other").folder
    chunk = next(path for path in (damaged / "rows" / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ArtifactError, match="other 1 is damaged"):
        ask(host, "other", None, NEW)
    assert host.loaded() == {}


def test_the_one_asked_for_longest_ago_goes_first(host, workspace):
    sizes = {model.name: model.n_bytes for model in host.list().items}
    room = sizes["line"] + max(sizes["other"], sizes["sign"])
    small = ModelHost(workspace, ServiceSettings(models_max_bytes=room))
    for name in ("line", "other", "line", "sign"):
        ask(small, name, None, NEW)
    assert set(small.loaded()) == {("line", 1), ("sign", 1)}
    assert sum(small.loaded().values()) <= room
    small.close()


def test_a_model_larger_than_the_memory_for_models(workspace, models):
    publish(workspace, "line", models["line"])
    small = ModelHost(workspace, ServiceSettings(models_max_bytes=100))
    with pytest.raises(MemoryBudgetError, match="NTK_DIST_SERVICE__MODELS_MAX_BYTES"):
        ask(small, "line", None, NEW)
    small.close()


def test_loading_counts_too(host):
    with pytest.raises(ServiceTimeoutError, match="still being loaded"):
        ask(host, "line", None, NEW, timeout_s=1e-4)


def test_known_for_a_moment(workspace, models):
    publish(workspace, "line", models["line"])
    now = [0.0]
    known = catalog.Catalog(workspace, clock=lambda: now[0])
    assert known.known("line") is None
    assert known.find("line").model.versions == (1,)
    publish(workspace, "line", models["line"])
    assert known.known("line").model.version == 1
    now[0] = 2 * catalog.FRESH_S
    assert known.known("line") is None
    assert known.find("line").model.versions == (1, 2)
