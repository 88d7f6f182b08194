"""The open inference protocol: a client made for other servers, and what no client sends."""

from __future__ import annotations

import contextlib
import json
import warnings

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_dist import NTKClassifier, NTKRegressor, stax
from ntk_dist.errors import RequestError
from ntk_dist.model.artifact import write_artifact
from ntk_dist.model.portable import pack
from ntk_dist.service.tensors import HEADER_LENGTH, parse_request
from ntk_dist.store.workspace import Workspace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries that it stands on
    triton = pytest.importorskip("tritonclient.http")
    from tritonclient.utils import InferenceServerException

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
RNG = np.random.default_rng(8)
X = RNG.normal(size=(40, 3)).astype(np.float32)
NEW = RNG.normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def models():
    return {
        "sum": NTKRegressor(NET).fit(X, X @ np.ones((3, 2))),
        "kind": NTKClassifier(NET).fit(X, np.array(["a", "b", "ü"])[np.arange(40) % 3]),
        "digit": NTKClassifier(NET).fit(X, np.arange(40) % 2),
    }


@pytest.fixture(scope="module")
def address(models, tmp_path_factory, serve_here):
    """Of a server in a thread of this process."""
    folder = tmp_path_factory.mktemp("v2")
    workspace = Workspace(folder)
    for name, model in models.items():
        with workspace.new_model(name) as draft:
            write_artifact(draft.place, pack(model))
    with serve_here(folder) as found:
        yield found


@pytest.fixture(scope="module")
def client(address):
    made = triton.InferenceServerClient(address.removeprefix("http://"))
    yield made
    made.close()


def tensor(x, datatype="FP32", *, binary=True):
    made = triton.InferInput("x", list(x.shape), datatype)
    made.set_data_from_numpy(x, binary_data=binary)
    return made


def test_server_and_models_say_what_they_are(client, models):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.is_model_ready("sum")
    assert client.is_model_ready("sum", "1")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("sum", "2")
    told = client.get_model_metadata("kind", "1")
    assert told["versions"] == ["1"]
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert told["outputs"] == [
        {"name": "y", "datatype": "FP64", "shape": [-1, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    assert client.get_model_metadata("digit")["outputs"][1]["datatype"] == "INT64"
    assert len(client.get_model_metadata("sum")["outputs"]) == 1


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_predictions_with_and_without_binary_tensors(client, models, binary_in, binary_out):
    outputs = [triton.InferRequestedOutput(n, binary_data=binary_out) for n in ("label", "y")]
    found = client.infer(
        "kind", [tensor(NEW, binary=binary_in)], outputs=outputs, request_id="seven"
    )
    told = found.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "kind", "1")
    assert [each["name"] for each in told["outputs"]] == ["label", "y"]
    assert [each["shape"] for each in told["outputs"]] == [[5], [5, 3]]
    np.testing.assert_allclose(
        found.as_numpy("y"), models["kind"].decision_function(NEW), rtol=1e-9, atol=1e-12
    )
    labels = [each.decode() if binary_out else each for each in found.as_numpy("label")]
    assert labels == models["kind"].predict(NEW).tolist()


def test_all_outputs_come_unless_some_are_asked_for(client, models):
    found = client.infer("digit", [tensor(NEW)])
    np.testing.assert_array_equal(found.as_numpy("label"), models["digit"].predict(NEW))
    assert found.as_numpy("y").shape == (5, 1)
    one = client.infer("digit", [tensor(NEW)], outputs=[triton.InferRequestedOutput("label")])
    assert one.as_numpy("y") is None


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP64", "f8"), ("FP16", "f2"), ("INT8", "i1"), ("INT64", "i8"), ("BOOL", "?")],
)
def test_numbers_of_every_kind(client, models, binary, datatype, dtype):
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    found = client.infer("sum", [tensor(x, datatype, binary=binary)], model_version="1")
    expected = models["sum"].predict(x.astype(float))
    np.testing.assert_allclose(found.as_numpy("y"), expected, rtol=1e-9, atol=1e-12)


def test_errors_reach_the_client(client):
    with pytest.raises(InferenceServerException, match=r"shape \(n, 3\), got \(5, 2\)"):
        client.infer("sum", [tensor(np.ascontiguousarray(NEW[:, :2]))])
    with pytest.raises(InferenceServerException, match="got 'nothing'"):
        client.infer("nothing", [tensor(NEW)])
    with pytest.raises(InferenceServerException, match="expected some of y, got 'label'"):
        client.infer("sum", [tensor(NEW)], outputs=[triton.InferRequestedOutput("label")])


def one(**changes):
    x = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    return {"inputs": [{k: v for k, v in {**x, **changes}.items() if v is not None}]}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "expected a JSON object"),
        ({}, "inputs: expected a list of one tensor 'x', got no list"),
        ({"inputs": []}, "got 0 of them"),
        ({"inputs": [3]}, r"inputs\[0\]: expected a JSON object"),
        (one(name="z"), "expected 'x', got 'z'"),
        (one(datatype="BF16"), "expected one of BOOL"),
        (one(datatype="BYTES"), "got 'BYTES'"),
        (one(shape=None), "x.shape: expected a list of lengths, got None"),
        (one(shape=[1, -3]), "x.shape"),
        (one(shape=[True, 3]), "x.shape"),
        (one(shape=[2, 3]), r"expected 6 entries for shape \[2, 3\]"),
        (one(data=None), "got neither"),
        (one(data=[[1], [2], [3]]), r"got an array of shape \[3, 1\]"),
        (one(data=["a", 1, 2]), "expected numbers"),
        (one(datatype="INT8", data=[1, 2, 300]), "-128 to 127, got 300"),
        (one(datatype="UINT8", data=[1, -2, 3]), "got -2"),
        (one(datatype="INT32", data=[1.5, 2, 3]), "expected entries of INT32, got float64"),
        (one(datatype="BOOL"), "expected entries of BOOL, got int64"),
        (one(parameters={"binary_data_size": 12}), "got both"),
        (one(data=None, parameters={"binary_data_size": 11}), "expected 12 bytes"),
        (one(data=None, parameters={"binary_data_size": 12}), "12 bytes behind the JSON, got 0"),
        (one(parameters=[]), "x: parameters: expected a JSON object"),
        ({**one(), "id": 3}, "id: expected text"),
        ({**one(), "outputs": {}}, "outputs: expected a list"),
        ({**one(), "outputs": [{"name": "y"}, {"name": "y"}]}, "a name of its own"),
        ({**one(), "parameters": {"binary_data_output": 1}}, "expected true or false"),
        (
            {**one(), "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
            "ask for 'label'",
        ),
    ],
)
def test_requests_that_do_not_validate(document, told):
    with pytest.raises(RequestError, match=told):
        parse_request(json.dumps(document).encode(), None)


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "99999", "²"])
def test_lengths_of_headers_that_make_no_sense(length):
    with pytest.raises(RequestError, match=HEADER_LENGTH):
        parse_request(json.dumps(one()).encode(), length)


def test_bytes_that_belong_to_no_tensor():
    body = json.dumps(one()).encode()
    with pytest.raises(RequestError, match="expected 0 bytes of tensors behind the JSON, got 3"):
        parse_request(body + b"abc", str(len(body)))


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 250).map(str)))
def test_any_bytes_are_a_request_or_refused(body, length):
    with contextlib.suppress(RequestError):
        parse_request(body, length)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {"name": st.just("x"), "shape": st.just([1, 3]) | _JSON, "data": _JSON},
        optional={"datatype": st.sampled_from(["FP32", "INT8", "BOOL"]), "parameters": _JSON},
    )
)
def test_any_tensor_is_read_or_refused(found):
    try:
        x = parse_request(json.dumps({"inputs": [found]}).encode(), None).x
    except RequestError:
        return
    assert list(x.shape) == found["shape"]


def test_errors_have_the_shape_of_the_protocol(address):
    for answer, status in [
        (httpx.post(f"{address}/v2/models/sum/infer", content=b"{"), 400),
        (httpx.get(f"{address}/v2/models/nothing"), 404),
        (httpx.get(f"{address}/v2/models/{'n' * 256}/ready"), 404),
        (httpx.get(f"{address}/v2/models/sum/versions/x"), 400),
        (httpx.get(f"{address}/v2/nothing"), 404),
        (
            httpx.post(
                f"{address}/v2/models/sum/infer",
                content=b"{",
                headers={"Content-Encoding": "gzip"},
            ),
            415,
        ),
    ]:
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]
        assert isinstance(answer.json()["error"], str)
