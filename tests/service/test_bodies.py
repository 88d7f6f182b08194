"""Rows come through whole in every kind of body, and anything else is refused in words."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ntk_dist.errors import RequestError, UnsupportedMediaTypeError
from ntk_dist.service.bodies import KINDS, accepted, encode, kind_of, rows_of
from ntk_dist.wire import ARROW, JSON, NPY, to_npy


def arrow(table: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=3)
    return sink.getvalue().to_pybytes()


def table(x: np.ndarray) -> pa.Table:
    return pa.table({f"c{k}": column for k, column in enumerate(x.T)})


X = np.arange(12.0).reshape(4, 3) / 7


def test_rows_come_through_whole():
    np.testing.assert_array_equal(rows_of(json.dumps({"rows": X.tolist()}).encode(), JSON), X)
    np.testing.assert_array_equal(rows_of(to_npy(X), NPY), X)
    np.testing.assert_array_equal(rows_of(to_npy(np.asfortranarray(X)), NPY), X)
    np.testing.assert_array_equal(rows_of(arrow(table(X)), ARROW), X)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3)
    np.testing.assert_array_equal(rows_of(arrow(pa.table({"x": lists})), ARROW), X)
    np.testing.assert_array_equal(rows_of(arrow(pa.table({"x": lists})[1:]), ARROW), X[1:])
    assert rows_of(b'{"rows": [[[1], [2]]]}', JSON).shape == (1, 2, 1)
    assert rows_of(arrow(table(X > 0.5)), ARROW).dtype == bool


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "expected a JSON document"),
        (b"[[1, 2]]", r'expected {"rows": \[...\]}, got a list'),
        (b'{"row": [[1]]}', "and nothing else, got 'row'"),
        (b"{}", "got no rows"),
        (b'{"rows": [[1]], "rows": [[2]]}', "the key 'rows' twice"),
        (b'{"rows": [[1]], "r\\u006fws": [[2]]}', "the key 'rows' twice"),
        (b'{"rows": [[1]], "about": {"a": 1, "a": 2}}', "the key 'a' twice"),
        (b'{"rows": 3}', "rows: expected a list of rows, got a number"),
        (b'{"rows": [[1, 2], [3]]}', "rows of one shape"),
        (b'{"rows": [[1, null]]}', "got null"),
        (b'{"rows": [["1"]]}', "expected numbers"),
        (b'{"rows": [[1, {"a": 2}]]}', "got an object"),
        (b'{"rows": [[99999999999999999999]]}', "at most 64 bits"),
        (b'{"rows": [[1, [2]]]}', "rows of one shape"),
        (b'{"rows": ' + b"[" * 10000, "expected a JSON document"),
        (b'{"rows": [[1]]} x', "expected a JSON document"),
        (b'\xff{"rows": [[1]]}', "expected a JSON document"),
    ],
)
def test_json_that_holds_no_rows(body, told):
    with pytest.raises(RequestError, match=told):
        rows_of(body, JSON)


def test_numbers_that_are_not_finite_are_left_to_whoever_knows_the_rows():
    assert np.isnan(rows_of(b'{"rows": [[1, NaN]]}', JSON)).sum() == 1


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.array([["a"]]), "numbers of at most 64 bits, got dtype <U1"),
        (np.array([[1j]]), "complex128"),
        (np.zeros(2, "f4,f4"), "expected numbers"),
        (np.array(["2020"], "M8[Y]"), "expected numbers"),
        (np.zeros((2, 2), np.longdouble), "at most 64 bits"),
    ],
)
def test_npy_arrays_of_something_else(array, told):
    with pytest.raises(RequestError, match=told):
        rows_of(to_npy(array), NPY)


def test_npy_objects_are_never_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([[print]], object), allow_pickle=True)
    with pytest.raises(RequestError, match="got one of objects"):
        rows_of(buffer.getvalue(), NPY)


def npy_header(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999999999999)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 0)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2L,)}",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (5, 5)}",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': 3, 'fortran_order': False, 'shape': ()}",
        "('descr',)",
        "(" * 5000,
        "__import__('os')",
    ],
)
def test_npy_headers_that_promise_nonsense(header):
    with pytest.raises(RequestError):
        rows_of(npy_header(header), NPY)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: pa.table({"a": ["x"]}), "column a: expected numbers, got string"),
        (lambda: pa.table({"a": [1.0, None]}), "column a: expected numbers, got 1 nulls"),
        (lambda: pa.table({"a": pa.array([1]).dictionary_encode()}), "expected numbers"),
        (lambda: pa.table({"a": pa.nulls(3)}), "expected numbers, got null"),
        (lambda: pa.table({"a": [[1.0]]}), "expected numbers, got list"),
        (lambda: pa.table({}), "expected an Arrow stream with columns"),
        (lambda: pa.table({"a": pa.array([[1, None]], pa.list_(pa.int8(), 2))}), "nulls"),
        (
            lambda: pa.table({"a": pa.array([[1]], pa.list_(pa.int8(), 1)), "b": [1]}),
            "one column of lists",
        ),
    ],
)
def test_arrow_streams_that_hold_no_rows(made, told):
    with pytest.raises(RequestError, match=told):
        rows_of(arrow(made()), ARROW)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_arrow_streams_that_are_compressed_could_be_any_size(codec):
    big = pa.table({"a": np.zeros(3000)})
    body = arrow(big, options=pa.ipc.IpcWriteOptions(compression=codec))
    with pytest.raises(RequestError, match="without compression"):
        rows_of(body, ARROW)


GOOD = {
    JSON: json.dumps({"rows": X.tolist()}).encode(),
    NPY: to_npy(X),
    ARROW: arrow(table(X)),
}


@pytest.mark.parametrize("kind", KINDS)
@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes_are_rows_or_refused(kind, body):
    with contextlib.suppress(RequestError):
        assert rows_of(body, kind).dtype.kind in "biuf"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(st.data())
def test_damaged_bodies_are_rows_or_refused(kind, data):
    body = bytearray(GOOD[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for each in (bytes(body), bytes(body[:cut])):
        with contextlib.suppress(RequestError):
            assert rows_of(each, kind).nbytes <= 8 * len(each)


@given(arrays.arrays(st.sampled_from(["<f4", ">f8", "<i2", "?", "<u8"]), (2, 3)))
def test_any_numbers_pass_in_npy_and_arrow(x):
    np.testing.assert_array_equal(rows_of(to_npy(x), NPY), x)
    native = x.astype(x.dtype.newbyteorder("="))
    np.testing.assert_array_equal(rows_of(arrow(table(native)), ARROW), x)


def test_kinds_of_bodies():
    assert kind_of("Application/JSON; charset=utf-8") == JSON
    for given_type, encoding in [("text/csv", None), (None, None), (JSON, "gzip")]:
        with pytest.raises(UnsupportedMediaTypeError, match="expected"):
            kind_of(given_type, encoding)


@pytest.mark.parametrize(
    ("header", "sent", "kind"),
    [
        (None, NPY, NPY),
        ("*/*", ARROW, ARROW),
        ("text/html, application/json;q=0.9, */*;q=0.1", NPY, JSON),
        (f"{NPY};q=0.5, {ARROW}", JSON, ARROW),
        (f"{JSON};q=x, {NPY}", JSON, NPY),
    ],
)
def test_the_kind_of_the_answer(header, sent, kind):
    assert accepted(header, sent) == kind


def test_a_kind_nobody_makes():
    with pytest.raises(UnsupportedMediaTypeError, match="Accept"):
        accepted("text/html", JSON)


@pytest.mark.parametrize("y", [X, X[:, 0]], ids=["several", "one"])
def test_answers(y):
    label = np.array(["no", "yes", "no", "ü"])
    found = json.loads(encode(JSON, y, label, {"model": "m", "version": 2}))
    assert found == {"model": "m", "version": 2, "y": y.tolist(), "label": label.tolist()}
    np.testing.assert_array_equal(rows_of(encode(NPY, y, None, {}), NPY), y)
    back = pa.ipc.open_stream(encode(ARROW, y, label, {})).read_all()
    assert back.column_names == ["y", "label"]
    np.testing.assert_array_equal(np.array(back["y"].to_pylist()), y)
    assert back["label"].to_pylist() == label.tolist()
