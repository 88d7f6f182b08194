import io
import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist import errors, wire
from ntk_dist.errors import DefectError, OverloadedError, RequestError
from ntk_dist.wire import Failure, Job, JobPage, JobState, Model, Progress, Upload

NOW = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
PROGRESS = Progress(phase="gram", label="computing Gram blocks", note="3 of 9", done=3, total=9)
JOB = Job(
    id="j1",
    name="digits",
    state=JobState.RUNNING,
    attempt=2,
    created=NOW,
    updated=NOW + timedelta(seconds=1),
    launcher="process",
    executor="local",
    warnings=("executor local: the workers have nothing to do",),
    progress=PROGRESS,
    failure=Failure(code="store_full", message="no space is left"),
    report={"n_rows": 3, "residuals": [1e-7]},
    spec={"name": "digits"},
)
MODEL = Model(
    name="digits",
    version=3,
    versions=(1, 3),
    task="classification",
    kernel="ntk",
    architecture=[{"type": "Dense", "out_dim": 1}],
    row_shape=(8, 8, 1),
    n_rows=1000,
    n_targets=10,
    dtype="float32",
    classes=("cat", "dog"),
    n_bytes=512_000,
)
UPLOAD = Upload(
    id="u1",
    filename="x.npz",
    n_bytes=10,
    sha256="00",
    part_bytes=4,
    received=(0, 2),
    is_complete=False,
    place="upload://u1",
    created=NOW,
)
RECORDS = [JOB, JobPage(items=(JOB,), next="j1"), MODEL, UPLOAD, wire.ModelList(items=(MODEL,))]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record):
    sent = json.loads(json.dumps(wire.to_json(record)))
    assert wire.of_json(type(record), sent) == record


def test_times_travel_in_utc():
    there = NOW.astimezone(timezone(timedelta(hours=5)))
    sent = wire.to_json(Progress(phase="", label="", note="", updated=there))
    assert sent["updated"] == "2026-01-31T12:00:00.250000Z"
    assert wire.of_json(Progress, sent).updated == NOW


def test_keys_of_a_later_version_are_passed_over():
    sent = {**wire.to_json(JOB), "mood": "good"}
    assert wire.of_json(Job, sent) == JOB


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        "job",
        {},
        {**wire.to_json(JOB), "state": "asleep"},
        {**wire.to_json(JOB), "created": "yesterday"},
        {**wire.to_json(JOB), "progress": 3},
        {**wire.to_json(JOB), "attempt": float("inf")},
        {**wire.to_json(JOB), "attempt": 1.5},
        {**wire.to_json(JOB), "is_cancelling": "false"},
        {**wire.to_json(JOB), "score": "0.5"},
        {**wire.to_json(JOB), "score": 10**400},
        {**wire.to_json(JOB), "name": 5},
    ],
)
def test_what_is_no_record_is_refused(found):
    with pytest.raises(RequestError, match="expected a Job"):
        wire.of_json(Job, found)


@pytest.mark.parametrize(
    ("key", "found", "words"),
    [
        ("task", "ranking", "'ranking' in place of classification or regression"),
        ("kernel", "NTK", "'NTK' in place of ntk or nngp"),
        ("dtype", "float16", "'float16' in place of float32 or float64"),
        ("dtype", None, "None in place of float32 or float64"),
        ("dtype", ["float32"], "in place of float32 or float64"),
    ],
)
def test_a_word_that_a_key_does_not_have_is_refused(key, found, words):
    sent = {**wire.to_json(MODEL), key: found}
    with pytest.raises(RequestError, match=f"expected a Model, got .*{words}"):
        wire.of_json(Model, sent)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_comes_back_as_the_class_that_was_raised(name):
    raised = getattr(errors, name)("expected 3 rows, got 2")
    body = json.loads(json.dumps(wire.problem_of(raised, "r-1")))
    again = wire.error_of(raised.http_status, body)
    assert type(again) is type(raised)
    assert str(again) == str(raised)
    assert again.__notes__ == ["request r-1"]


def test_an_overloaded_service_says_when_to_come_back():
    raised = OverloadedError("256 predictions wait")
    raised.retry_after_s = 2.5
    again = wire.error_of(429, wire.problem_of(raised, "r-1"))
    assert again.retry_after_s == 2.5


@pytest.mark.parametrize("after_s", ["abc", None, [1], -1, float("nan"), float("inf"), 10**400])
def test_a_time_to_come_back_that_is_none_is_passed_over(after_s):
    told = {"code": "overloaded", "message": "later", "retry_after_s": after_s}
    assert wire.error_of(429, {"error": told}).retry_after_s == OverloadedError("").retry_after_s


@pytest.mark.parametrize(
    "body", [None, "<html>", {"error": {}}, {"error": "no such model"}, {"detail": "x"}, []]
)
def test_an_answer_of_somebody_else_is_no_riddle(body):
    error = wire.error_of(502, body)
    assert type(error) is DefectError
    assert "502" in str(error)


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 4)),
    np.float64(3.0) * np.ones(()),
    np.array(["cat", "dog"]),
    np.arange(3) > 1,
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_an_array_comes_back_as_it_was(array):
    again = wire.from_npy(wire.to_npy(array))
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


def test_arrays_in_column_order_are_read():
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    assert b"'fortran_order': True" in buffer.getvalue()
    np.testing.assert_array_equal(wire.from_npy(buffer.getvalue()), np.arange(6.0).reshape(2, 3))


def header_of(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "npy format"),
        (wire.to_npy(np.ones(3))[:-1], "expected 24 bytes.*got 23"),
        (wire.to_npy(np.ones(3)) + b"x", "expected 24 bytes.*got 25"),
        (header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,)}\n"), "npy format"),
        (
            header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n"),
            "expected 8000000000000 bytes",
        ),
        (header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n"), "expected"),
        (header_of("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"), "objects"),
        (header_of("__import__('os')"), "npy format"),
        (b"PK\x03\x04" + b"0" * 100, "npy format"),
    ],
)
def test_bodies_that_are_no_array_are_refused(body, told):
    with pytest.raises(RequestError, match=told):
        wire.from_npy(body)


@given(st.binary(max_size=200), st.integers(0, 127))
def test_damaged_arrays_are_refused_or_read_but_never_anything_else(noise, place):
    body = bytearray(wire.to_npy(np.arange(4.0)))
    body[place : place + len(noise)] = noise
    try:
        array = wire.from_npy(bytes(body))
    except RequestError:
        return
    assert array.nbytes <= len(body)
