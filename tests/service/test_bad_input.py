"""Every kind of bad input at every address that takes it; what one address alone can be told wrong
is in the tests of that address.

The published document says which addresses there are, who may use them, what is named in them and
which take a body: a new one fails here until it is in the table.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from datetime import timedelta
from urllib.parse import urlsplit

import httpx
import numpy as np
import pyarrow as pa
import pytest

from ntk_dist import NTKRegressor, stax
from ntk_dist.errors import (
    AuthenticationError,
    DataShapeError,
    EmptyDataError,
    ForbiddenError,
    JobNotFoundError,
    ModelNotFoundError,
    NonFiniteDataError,
    RequestError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
    UploadNotFoundError,
)
from ntk_dist.model.artifact import write_artifact
from ntk_dist.model.portable import pack
from ntk_dist.service.tensors import HEADER_LENGTH
from ntk_dist.store.workspace import Workspace
from ntk_dist.wire import ARROW, JSON, NPY, to_npy

NET = stax.serial(stax.Flatten(), stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
X = np.random.default_rng(6).normal(size=(20, 2, 3))
BINARY = "application/octet-stream"
PREDICT = "POST /v1/models/{name}:predict"
PREDICT_VERSION = "POST /v1/models/{name}/versions/{version}:predict"
INFER = "POST /v2/models/{name}/infer"
INFER_VERSION = "POST /v2/models/{name}/versions/{version}/infer"
PUT_PART = "PUT /v1/uploads/{upload_id}/parts/{number}"

SCOPES_OF = {
    "GET /metrics": "read",
    "GET /v1/jobs": "read",
    "POST /v1/jobs": "submit",
    "GET /v1/jobs/{job_id}": "read",
    "GET /v1/jobs/{job_id}/logs": "read",
    "GET /v1/jobs/{job_id}/events": "read",
    "GET /v1/jobs/{job_id}/blocks": "read",
    "POST /v1/jobs/{job_id}:cancel": "submit",
    "POST /v1/jobs/{job_id}:resume": "submit",
    "POST /v1/uploads": "submit",
    PUT_PART: "submit",
    "POST /v1/uploads/{upload_id}:complete": "submit",
    "GET /v1/uploads/{upload_id}": "submit",
    "DELETE /v1/uploads/{upload_id}": "submit",
    "GET /v1/models": "read",
    "GET /v1/models/{name}": "read",
    "GET /v1/models/{name}/versions/{version}": "read",
    PREDICT: "predict",
    PREDICT_VERSION: "predict",
    "GET /v2/models/{name}": "predict",
    "GET /v2/models/{name}/versions/{version}": "predict",
    INFER: "predict",
    INFER_VERSION: "predict",
}
"""Operations for callers with a token, and the scope it needs."""
OPEN = {
    "GET /v1/version",
    "GET /v1/health",
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/{name}/ready",
    "GET /v2/models/{name}/versions/{version}/ready",
}
"""Those for everybody."""


def tensor(**changes) -> dict:
    """One row for a V2 client's request."""
    x = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "data": [1.0] * 6, **changes}
    return {"inputs": [{key: value for key, value in x.items() if value is not None}]}


ROWS = json.dumps({"rows": X.tolist()}).encode()
TENSOR = json.dumps(tensor()).encode()
BODIES = {
    "POST /v1/jobs": (b"{}", JSON),
    "POST /v1/uploads": (b"{}", JSON),
    PUT_PART: (b"part", BINARY),
    PREDICT: (ROWS, JSON),
    PREDICT_VERSION: (ROWS, JSON),
    INFER: (TENSOR, JSON),
    INFER_VERSION: (TENSOR, JSON),
}
"""Operations that take a body, and one of the right kind."""
NOTHING = {
    "job_id": ("0" * 24, JobNotFoundError),
    "upload_id": ("0" * 32, UploadNotFoundError),
    "name": ("nothing", ModelNotFoundError),
}
"""What an address may name, and how it is told that it is not there."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """With the model ``sum``."""
    made = Workspace(tmp_path_factory.mktemp("bad-input"))
    with made.new_model("sum") as draft:
        write_artifact(draft.place, pack(NTKRegressor(NET).fit(X, X.sum(axis=(1, 2)))))
    return made


@pytest.fixture(scope="module")
def callers(workspace, applications_in):
    with applications_in(workspace.place.folder) as make:
        made = make(max_rows=50, max_body_bytes=2**14)
        yield made
        made.service.models.close()


@pytest.fixture
def send(callers):
    """A function that asks for an operation as somebody who may."""

    def send(operation, body=None, kind=None, token=None, headers=None, **names):
        method, template = operation.split()
        if body is None:
            body, kind = BODIES.get(operation, (None, None))
        token = token or callers.tokens[SCOPES_OF.get(operation, "read")]
        sent = {"X-Content-Sha256": "0" * 64} if operation == PUT_PART else {}
        known = {"name": "sum", "version": 1, "number": 0, "job_id": "1", "upload_id": "1"}
        return callers.anyone(token).request(
            method,
            template.format(**{**known, **names}),
            content=body,
            headers={**sent, **({"Content-Type": kind} if kind else {}), **(headers or {})},
        )

    return send


@pytest.fixture
def check(error_of):
    """A function that looks at an answer: refused as this error, in the shape of its address."""

    def check(response, error, words=""):
        if response.request.url.path.startswith("/v2"):
            told = response.json()
            assert list(told) == ["error"]
            status, message = response.status_code, told["error"]
        else:
            status, code, message = error_of(response)
            assert code == error.code
        assert status == error.http_status, message
        assert words in message
        assert "Traceback" not in message

    return check


def test_the_table_has_every_operation(callers):
    known, with_token, with_body = set(), set(), set()
    for path, item in callers.app.openapi()["paths"].items():
        for method, told in item.items():
            operation = f"{method.upper()} {path}"
            known.add(operation)
            with_token |= {operation} if "security" in told else set()
            with_body |= {operation} if "requestBody" in told else set()
    assert with_token == set(SCOPES_OF)
    assert known - with_token == OPEN
    assert with_body == set(BODIES)
    names = {name for operation in known for name in re.findall(r"{(\w+)}", operation)}
    assert names == {*NOTHING, "version", "number"}


@pytest.mark.parametrize("operation", SCOPES_OF)
def test_a_token_that_is_none_any_more_or_goes_elsewhere(callers, send, check, operation):
    stranger = callers.anyone().request(*operation.replace("{version}", "1").split())
    check(stranger, AuthenticationError, "expected the header 'Authorization: Bearer TOKEN'")
    old = callers.new_token(["admin"], lifetime=timedelta(seconds=-1))
    for token, words in (("nonsense", "not known here"), (old, "expired on")):
        refused = send(operation, token=token)
        check(refused, AuthenticationError, words)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert token not in refused.text
    for scope in {"read", "predict", "submit"} - {SCOPES_OF[operation]}:
        check(send(operation, token=callers.tokens[scope]), ForbiddenError, f"with '{scope}'")


@pytest.mark.parametrize("operation", [one for one in [*SCOPES_OF, *sorted(OPEN)] if "{" in one])
def test_what_an_address_names_is_not_there(send, check, operation):
    (name,) = set(NOTHING) & set(re.findall(r"{(\w+)}", operation))
    unknown, error = NOTHING[name]
    check(send(operation, **{name: unknown}), error, unknown)


@pytest.mark.parametrize("operation", [one for one in [*SCOPES_OF, *sorted(OPEN)] if "{v" in one])
@pytest.mark.parametrize(
    ("version", "error", "words"),
    [
        (9, ModelNotFoundError, "expected one of the versions [1], got 9"),
        (0, RequestError, "version"),
        (2**31, RequestError, "version"),
        ("last", RequestError, "version"),
    ],
)
def test_a_version_that_is_not_there(send, check, operation, version, error, words):
    if operation in OPEN and version == 9:  # whoever has no token hears of no version
        words = "got 'sum version 9'"
    check(send(operation, version=version), error, words)


@pytest.mark.parametrize("operation", [*SCOPES_OF, *sorted(OPEN)])
def test_a_body_that_is_too_long(send, check, operation):
    refused = send(operation, b" " * 2**15, JSON)
    check(refused, RequestTooLargeError, "at most 16.0 KiB, got 32.0 KiB announced")
    if operation not in BODIES:
        return

    async def chunks():  # its length is not announced
        for _ in range(5):
            yield b" " * 2**12

    refused = send(operation, chunks(), BODIES[operation][1])
    check(refused, RequestTooLargeError, "and more of it came")


@pytest.mark.parametrize("operation", ["POST /v1/jobs", "POST /v1/uploads"])
@pytest.mark.parametrize(
    ("body", "kind", "error", "words"),
    [
        (b"{}", "text/plain", UnsupportedMediaTypeError, "got 'text/plain'"),
        (b"{}", None, UnsupportedMediaTypeError, "got 'nothing'"),
        (b'{"n_bytes": 3', JSON, RequestError, "expected a JSON document"),
        (b'{"n_bytes": NaN}', JSON, RequestError, "NaN"),
        (b'{"n_bytes": 3, "n_bytes": 4}', JSON, RequestError, "the key 'n_bytes' twice"),
        (b'{"filename": "\\u0000"}', JSON, RequestError, "NUL"),
    ],
)
def test_documents_that_are_none(send, check, operation, body, kind, error, words):
    check(send(operation, body, kind), error, words)


def test_an_upload_is_announced_by_an_object_with_all_its_keys(send, check):
    check(send("POST /v1/uploads", b"[]", JSON), RequestError, "a JSON object, got list")
    for key in ("filename", "n_bytes", "sha256"):
        check(send("POST /v1/uploads", b"{}", JSON), RequestError, f"{key}: missing")


def rows(found) -> bytes:
    return json.dumps({"rows": found}).encode()


def arrow(columns) -> bytes:
    table = pa.table({f"c{k}": column for k, column in enumerate(columns)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


ONE, MANY = X[:1], np.zeros((51, 2, 3))
NAN = ONE * [[[1, 1, np.nan], [1, 1, 1]]]


@pytest.mark.parametrize("operation", [PREDICT, PREDICT_VERSION])
@pytest.mark.parametrize(
    ("body", "kind", "error", "words"),
    [
        (b"{", JSON, RequestError, "expected a JSON document"),
        (rows("text"), JSON, RequestError, "rows: expected a list of rows, got text"),
        (rows([[["1", 2, 3], [4, 5, 6]]]), JSON, RequestError, "rows: expected numbers"),
        (rows([[[None, 2, 3], [4, 5, 6]]]), JSON, RequestError, "got null"),
        (rows([[[1, 2, 3], [4, 5]]]), JSON, RequestError, "rows of one shape"),
        (rows([[1, 2, 3]]), JSON, DataShapeError, "(n, 2, 3), got (1, 3)"),
        (rows([]), JSON, EmptyDataError, "got shape (0,)"),
        (rows(NAN.tolist()), JSON, NonFiniteDataError, "in 1 of 1 rows: 0"),
        (rows(MANY.tolist()), JSON, RequestTooLargeError, "at most 50 rows, got 51"),
        (to_npy(np.array([[["1"] * 3] * 2])), NPY, RequestError, "got dtype <U1"),
        (to_npy(ONE[:, :, :2]), NPY, DataShapeError, "(n, 2, 3), got (1, 2, 2)"),
        (to_npy(ONE[:0]), NPY, EmptyDataError, "(0, 2, 3)"),
        (to_npy(NAN), NPY, NonFiniteDataError, "in 1 of 1 rows: 0"),
        (to_npy(-np.inf * ONE), NPY, NonFiniteDataError, "in 1 of 1 rows: 0"),
        (to_npy(MANY), NPY, RequestTooLargeError, "at most 50 rows, got 51"),
        (to_npy(ONE)[:-1], NPY, RequestError, "expected 48 bytes"),
        (arrow([["1"]] * 6), ARROW, RequestError, "column c0: expected numbers, got string"),
        (arrow([[1.0]] * 5), ARROW, DataShapeError, "(n, 2, 3), got (1, 5)"),
        (arrow(NAN.reshape(6, 1)), ARROW, NonFiniteDataError, "in 1 of 1 rows: 0"),
        (arrow(MANY.reshape(51, 6).T), ARROW, RequestTooLargeError, "at most 50 rows, got 51"),
        (arrow(ONE.reshape(6, 1))[:-200], ARROW, RequestError, "expected an Arrow IPC stream"),
        (ROWS, "text/csv", UnsupportedMediaTypeError, "got 'text/csv'"),
        (ROWS, None, UnsupportedMediaTypeError, "Content-Type: expected one of"),
        (ROWS, ARROW, RequestError, "expected an Arrow IPC stream"),
    ],
)
def test_rows_that_are_none_of_the_model(send, check, operation, body, kind, error, words):
    check(send(operation, body, kind), error, words)


@pytest.mark.parametrize("operation", [PREDICT, PREDICT_VERSION])
def test_headers_that_ask_for_what_there_is_not(send, check, operation):
    packed = send(operation, headers={"Content-Encoding": "gzip"})
    check(packed, UnsupportedMediaTypeError, "Content-Encoding: expected none, got 'gzip'")
    read = send(operation, headers={"Accept": "text/html"})
    check(read, UnsupportedMediaTypeError, "Accept: expected one of")


def binary(x, n_bytes=None) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a request with its tensor behind the JSON."""
    told = {"binary_data_size": x.nbytes}
    head = tensor(shape=list(x.shape), datatype="FP64", data=None, parameters=told)
    text = json.dumps(head).encode()
    return text + x.tobytes()[:n_bytes], {HEADER_LENGTH: str(len(text))}


@pytest.mark.parametrize("operation", [INFER, INFER_VERSION])
@pytest.mark.parametrize(
    ("document", "error", "words"),
    [
        ([], RequestError, "expected a JSON object"),
        ({}, RequestError, "inputs: expected a list of one tensor 'x'"),
        (tensor(name="z"), RequestError, "expected 'x', got 'z'"),
        (tensor(datatype="BYTES"), RequestError, "got 'BYTES'"),
        (tensor(datatype="INT8"), RequestError, "expected entries of INT8, got float64"),
        (tensor(data=["a"] * 6), RequestError, "x.data: expected numbers"),
        (tensor(data=None), RequestError, "got neither"),
        (tensor(shape=[2, 2, 3]), RequestError, "expected 12 entries for shape [2, 2, 3]"),
        (tensor(shape=[1, 6]), DataShapeError, "(n, 2, 3), got (1, 6)"),
        (tensor(shape=[0, 2, 3], data=[]), EmptyDataError, "(0, 2, 3)"),
        (tensor(data=[np.nan] * 6), NonFiniteDataError, "in 1 of 1 rows: 0"),
        (tensor(shape=[51, 2, 3], data=[0.0] * 306), RequestTooLargeError, "at most 50 rows"),
        ({**tensor(), "outputs": [{"name": "label"}]}, RequestError, "some of y, got 'label'"),
    ],
)
def test_tensors_that_are_none_of_the_model(send, check, operation, document, error, words):
    check(send(operation, json.dumps(document).encode(), JSON), error, words)


@pytest.mark.parametrize("operation", [INFER, INFER_VERSION])
def test_tensors_behind_the_json_that_are_none_of_the_model(send, check, operation):
    body, headers = binary(NAN)
    check(send(operation, body, BINARY, headers=headers), NonFiniteDataError, "in 1 of 1 rows: 0")
    body, headers = binary(X[:2, :1])
    check(send(operation, body, BINARY, headers=headers), DataShapeError, "got (2, 1, 3)")
    body, headers = binary(ONE, n_bytes=40)
    check(send(operation, body, BINARY, headers=headers), RequestError, "48 bytes behind the JSON")
    check(send(operation, body, BINARY), RequestError, "expected a JSON document")
    check(send(operation, headers={HEADER_LENGTH: "x"}), RequestError, HEADER_LENGTH)
    packed = send(operation, headers={"Content-Encoding": "gzip"})
    check(packed, UnsupportedMediaTypeError, "got 'gzip'")


def test_a_connection_that_breaks_in_a_body_leaves_nothing_behind(
    workspace, serve_here, wait_for, caplog
):
    caplog.set_level(logging.INFO)
    with serve_here(workspace.place.folder) as url, httpx.Client(base_url=url) as client:
        announced = {"filename": "x.npy", "n_bytes": 2000, "sha256": "0" * 64}
        upload = client.post("/v1/uploads", json=announced).json()["id"]
        for operation, (body, kind) in BODIES.items():
            method, template = operation.split()
            place = template.format(name="sum", version=1, number=0, upload_id=upload)
            head = [
                f"{method} {place} HTTP/1.1",
                "Host: 127.0.0.1",
                f"Content-Type: {kind}",
                f"Content-Length: {len(body) + 1}",  # of which one byte never comes
                f"X-Content-Sha256: {'0' * 64}",
            ]
            with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as caller:
                caller.sendall("\r\n".join([*head, "", ""]).encode() + body)

        def cut():
            found = re.findall(r'route="(.*)",status="499"} 1.0', client.get("/metrics").text)
            return len(found) == len(BODIES) and found

        assert sorted(wait_for(cut)) == sorted(one.split()[1] for one in BODIES)
        assert client.get(f"/v1/uploads/{upload}").json()["received"] == []
        assert client.get("/v1/jobs").json()["items"] == []
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
