"""Predictions over HTTP: every kind of body, and every way to ask for something else."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pyarrow as pa
import pytest

from ntk_dist import AsyncClient, NTKClassifier, NTKRegressor, stax
from ntk_dist.errors import OverloadedError
from ntk_dist.model.artifact import write_artifact
from ntk_dist.model.portable import pack
from ntk_dist.service.bodies import JSON
from ntk_dist.store.workspace import Workspace
from ntk_dist.wire import ARROW, NPY, from_npy, to_npy

NET = stax.serial(stax.Flatten(), stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
RNG = np.random.default_rng(6)
X = RNG.normal(size=(40, 2, 3))
NEW = RNG.normal(size=(5, 2, 3))


@pytest.fixture(scope="module")
def models():
    return {
        "sum": NTKRegressor(NET).fit(X, X.sum(axis=(1, 2))),
        "kind": NTKClassifier(NET).fit(X, np.array(["a", "b", "c"])[np.arange(40) % 3]),
        "wide": NTKRegressor(NET).fit(X, RNG.normal(size=(40, 500))),
    }


@pytest.fixture(scope="module")
def callers(models, tmp_path_factory, applications_in):
    folder = tmp_path_factory.mktemp("predict")
    workspace = Workspace(folder)
    for name, model in models.items():
        with workspace.new_model(name) as draft:
            write_artifact(draft.place, pack(model))
    with applications_in(folder) as make:
        made = make(max_rows=50, max_body_bytes=2**16)
        yield made
        made.service.models.close()


@pytest.fixture
def asked(callers):
    return callers.may("predict")


def send(asked, body, kind, address="/v1/models/sum:predict", **headers):
    return asked.post(address, content=body, headers={"Content-Type": kind, **headers})


def arrow(x) -> bytes:
    table = pa.table({f"c{k}": column for k, column in enumerate(x.reshape(len(x), -1).T)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_every_kind_of_body_gets_the_same_answer(asked, models):
    expected = models["sum"].predict(NEW)
    bodies = {JSON: json.dumps({"rows": NEW.tolist()}), NPY: to_npy(NEW), ARROW: arrow(NEW)}
    for kind, body in bodies.items():
        answer = send(asked, body, kind)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-model-version"] == "1"
        if kind == JSON:
            assert {**answer.json(), "y": None} == {"model": "sum", "version": 1, "y": None}
            found = answer.json()["y"]
        elif kind == NPY:
            found = from_npy(answer.content)
        else:
            found = pa.ipc.open_stream(answer.content).read_all()["y"].to_pylist()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_classes(asked, models):
    address = "/v1/models/kind/versions/1:predict"
    found = send(asked, to_npy(NEW), NPY, address, Accept=JSON).json()
    assert found["label"] == models["kind"].predict(NEW).tolist()
    np.testing.assert_allclose(found["y"], models["kind"].decision_function(NEW), atol=1e-10)
    labels = send(asked, to_npy(NEW), NPY, f"{address}?output=label")
    assert from_npy(labels.content).tolist() == found["label"]
    scores = send(asked, to_npy(NEW), NPY, address)
    np.testing.assert_array_equal(from_npy(scores.content), np.array(found["y"]))


ROWS = json.dumps({"rows": NEW.tolist()})


@pytest.mark.parametrize(
    ("address", "body", "kind", "status", "code", "told"),
    [
        ("nothing:predict", ROWS, JSON, 404, "model_not_found", "got 'nothing'"),
        ("sum/versions/9:predict", ROWS, JSON, 404, "model_not_found", "got 9"),
        ("sum/versions/x:predict", ROWS, JSON, 400, "invalid_request", "version"),
        ("sum:predict?output=z", ROWS, JSON, 400, "invalid_request", "output"),
        ("sum:predict?output=label", to_npy(NEW), NPY, 422, "invalid_input", "none of classes"),
        ("sum:predict", ROWS, "text/csv", 415, "unsupported_media_type", "text/csv"),
        ("sum:predict", '{"rows": [[1]]}', JSON, 422, "wrong_shape", "(n, 2, 3), got (1, 1)"),
        ("sum:predict", to_npy(NEW[0]), NPY, 422, "wrong_shape", "(n, 2, 3), got (2, 3)"),
        ("sum:predict", to_npy(NEW[:0]), NPY, 422, "empty_data", "(0, 2, 3)"),
        ("sum:predict", to_npy(NEW)[:-1], NPY, 400, "invalid_request", "expected 240 bytes"),
        ("sum:predict", to_npy(NEW * np.nan), NPY, 422, "non_finite_data", "5 of 5 rows"),
        ("sum:predict", to_npy(NEW * 1e40), NPY, 422, "non_finite_data", "float32"),
        ("sum:predict", to_npy(np.zeros((51, 2, 3))), NPY, 413, "too_large", "at most 50 rows"),
        ("sum:predict", bytes(2**16 + 1), NPY, 413, "too_large", "64.0 KiB"),
        ("sum:predict", arrow(NEW[:, :1]), ARROW, 422, "wrong_shape", "(n, 2, 3), got (5, 3)"),
        ("sum:predict", "{", JSON, 400, "invalid_request", "JSON"),
    ],
)
def test_bad_requests(asked, error_of, address, body, kind, status, code, told):
    found = error_of(send(asked, body, kind, f"/v1/models/{address}"))
    assert found[:2] == (status, code)
    assert told in found[2]


def test_who_may_predict(callers, error_of):
    assert error_of(send(callers.anyone(), ROWS, JSON))[:2] == (401, "unauthenticated")
    assert error_of(send(callers.may("read"), ROWS, JSON))[:2] == (403, "forbidden")
    assert send(callers.may("admin"), ROWS, JSON).status_code == 200


def test_metrics_tell_of_loaded_models(callers):
    assert send(callers.may("predict"), ROWS, JSON).status_code == 200
    told = callers.may("read").get("/metrics").text
    assert 'ntk_dist_model_bytes{model="sum",version="1"}' in told


def test_too_much_to_do_is_said_before_a_body_is_read(callers, error_of, monkeypatch):
    def full():
        error = OverloadedError("too much")
        error.retry_after_s = 2.5
        raise error

    monkeypatch.setattr(callers.service.models, "require_room", full)
    answer = send(callers.may("predict"), ROWS, JSON)
    assert error_of(answer)[:2] == (429, "overloaded")
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["retry_after_s"] == 2.5


def test_an_answer_that_is_too_large_is_asked_for_in_halves(callers, models, error_of):
    x = X.repeat(2, axis=0)[:40]
    whole = send(callers.may("predict"), to_npy(x), NPY, "/v1/models/wide:predict")
    found = error_of(whole)
    assert found[:2] == (413, "too_large")
    assert "at most 64.0 KiB, got 40 rows of 500 numbers each, 156.2 KiB" in found[2]

    async def ask():
        transport = httpx.ASGITransport(callers.app)
        token = callers.new_token(["read", "predict"])
        async with AsyncClient(transport=transport, token=token) as client:
            return await (await client.model("wide")).predict(x)

    y = callers.anyone()._loop.run(ask())
    np.testing.assert_allclose(y, models["wide"].predict(x), rtol=1e-9, atol=1e-9)
