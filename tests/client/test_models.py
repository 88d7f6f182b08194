import asyncio
from dataclasses import replace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist import errors
from ntk_dist.client.models import (
    PIECE_BYTES,
    PIECE_ENTRIES,
    PIECE_ROWS,
    check_rows,
    found_model,
    pieces,
)
from ntk_dist.wire import NPY, from_npy, problem_of, to_json, to_npy


@given(
    n_rows=st.integers(1, 10_000),
    row_bytes=st.integers(1, 2 * PIECE_BYTES),
    n_training_rows=st.integers(1, 2 * PIECE_ENTRIES),
)
def test_pieces_cover_every_row_once_and_keep_their_bounds(n_rows, row_bytes, n_training_rows):
    found = list(pieces(n_rows, row_bytes, n_training_rows))
    assert [row for rows in found for row in rows] == list(range(n_rows))
    for rows in found:
        fits = len(rows) * row_bytes <= PIECE_BYTES and len(rows) * n_training_rows <= PIECE_ENTRIES
        assert len(rows) == 1 or (fits and len(rows) <= PIECE_ROWS)


class Service:
    """Answers the sum of every row, in pieces of at most ``most`` rows."""

    def __init__(self, model, most=1000):
        self.model = model
        self.most = most
        self.sizes = []

    def answer(self, request):
        if request.method == "GET":
            return httpx.Response(200, json=to_json(self.model))
        assert request.url.path == "/v1/models/digits/versions/2:predict"
        assert request.headers["content-type"] == request.headers["accept"] == NPY
        x = from_npy(request.content)
        self.sizes.append(len(x))
        if len(x) > self.most:
            told = problem_of(errors.RequestTooLargeError("too many rows"), "r1")
            return httpx.Response(413, json=told)
        y = x.reshape(len(x), -1).sum(axis=1, dtype=float)
        if request.url.params.get("output") == "label":
            y = np.where(y > 0, "yes", "no")
        return httpx.Response(200, content=to_npy(y), headers={"content-type": NPY})


def asked(verb, x, **options):
    def flow(client):
        model = yield from type(client).model(client, "digits")
        return (yield from getattr(type(model), verb)(model, x, **options))

    return flow


def test_big_arrays_are_split_and_put_together(side, model, rng):
    service = Service(model, most=30)
    x = rng.normal(size=(101, 3))
    labels = side.run(service.answer, asked("predict", x, rows_per_request=50))
    np.testing.assert_array_equal(labels, np.where(x.sum(axis=1) > 0, "yes", "no"))
    # Pieces of 50 are too large for this service, and are halved.
    assert sorted(service.sizes) == [1, 25, 25, 25, 25, 50, 50]
    np.testing.assert_array_equal(side.run(service.answer, asked("scores", x)), x.sum(axis=1))


def test_arrays_arrive_as_they_are(side, model):
    service = Service(replace(model, row_shape=(2, 2, 1), task="regression", classes=None))
    for dtype in (np.uint8, np.float16, np.float32, ">f8", bool):
        x = np.asfortranarray(np.arange(12).reshape(3, 2, 2, 1).astype(dtype))
        got = side.run(service.answer, asked("predict", x))
        np.testing.assert_array_equal(got, x.reshape(3, -1).sum(axis=1, dtype=float))


def test_a_row_that_is_too_large_is_an_error(side, model):
    with pytest.raises(errors.RequestTooLargeError, match="too many rows"):
        side.run(Service(model, most=0).answer, asked("predict", np.ones((5, 3))))


def test_pieces_are_answered_several_at_a_time_and_not_more(model):
    from ntk_dist import AsyncClient

    service, at_work, most = Service(model), 0, 0

    async def answer(request):
        nonlocal at_work, most
        at_work += request.method == "POST"
        most = max(most, at_work)
        await asyncio.sleep(0.005)
        at_work -= request.method == "POST"
        return service.answer(request)

    async def run():
        async with AsyncClient(transport=httpx.MockTransport(answer), parallel=3) as client:
            handle = await client.model("digits")
            return await handle.scores(np.arange(60.0).reshape(20, 3), rows_per_request=1)

    np.testing.assert_array_equal(asyncio.run(run()), np.arange(60.0).reshape(20, 3).sum(axis=1))
    assert most == 3


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (np.ones((2, 4)), errors.DataShapeError, r"expected shape \(n_rows, 3\), got \(2, 4\)$"),
        (np.ones(3), errors.DataShapeError, r"got \(3,\); for one row, give X\[None\]"),
        (np.ones((0, 3)), errors.EmptyDataError, "expected at least 1 row, got 0"),
        ([["a", "b", "c"]], errors.DataError, "expected an array of numbers, got dtype <U1"),
        ([[None] * 3], errors.DataError, "got dtype object"),
        ([[1, 2, 3], [1, 2]], errors.DataError, "expected an array of numbers, got"),
        (np.ones((2, 3), complex), errors.DataError, "got dtype complex128"),
    ],
)
def test_rows_that_cannot_be_answered_are_refused_before_they_are_sent(x, kind, words):
    with pytest.raises(kind, match=words):
        check_rows(x, (3,))


def test_rows_that_are_not_finite_are_named_by_their_own_numbers():
    x = np.zeros((5000, 3), np.float32)
    x[[7, 1500, 1501, 2000, 3000, 4999], 1] = np.nan
    with pytest.raises(
        errors.NonFiniteDataError, match=r"in 6 of 5000 rows: 7, 1500, 1501, 2000, 3000, \.\.\.$"
    ):
        check_rows(x, (3,))


def test_a_regressor_has_no_scores(side, model):
    service = Service(replace(model, task="regression", classes=None))
    with pytest.raises(errors.InvalidInputError, match="scores: expected a classifier"):
        side.run(service.answer, asked("scores", np.ones((1, 3))))
    with pytest.raises(errors.InvalidInputError, match="rows_per_request: expected at least 1"):
        side.run(service.answer, asked("predict", np.ones((1, 3)), rows_per_request=0))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        *map(to_npy, (np.ones(3), np.ones((2, 0)), np.ones((2, 7, 9)), np.float64(3))),
        to_npy(np.array([b"yes", b"no"])),
    ],
)
def test_answers_that_are_no_predictions_are_refused(body, side, model):
    def answer(request):
        if request.method == "GET":
            return httpx.Response(200, json=to_json(model))
        return httpx.Response(200, content=body)

    with pytest.raises(errors.DefectError, match="<model digits version 2: classification>"):
        side.run(answer, asked("predict", np.ones((2, 3))))


def test_scores_have_a_column_for_every_class(side, model):
    def answer(request):
        if request.method == "GET":
            return httpx.Response(200, json=to_json(replace(model, n_targets=3)))
        return httpx.Response(200, content=to_npy(found[-1]))

    found = [np.ones((2, 3))]
    np.testing.assert_array_equal(side.run(answer, asked("scores", np.ones((2, 3)))), found[0])
    for wrong in (np.ones(2), np.ones((2, 2)), np.array([["a", "b", "c"]] * 2)):
        found.append(wrong)
        with pytest.raises(errors.DefectError, match=r"predictions of shape \(2, 3\), got shape"):
            side.run(answer, asked("scores", np.ones((2, 3))))


def test_a_slow_answer_says_that_fewer_rows_are_faster(side, model):
    def answer(request):
        if request.method == "GET":
            return httpx.Response(200, json=to_json(model))
        return httpx.Response(504, json=problem_of(errors.ServiceTimeoutError("60 s"), "r1"))

    with pytest.raises(errors.ServiceTimeoutError, match="60 s") as caught:
        side.run(answer, asked("predict", np.ones((2, 3))))
    assert any("2 rows were asked for" in note for note in caught.value.__notes__)


def test_a_version_may_be_named(side, script, model):
    script.answers["GET /v1/models/digits/versions/1"] = replace(model, version=1)
    found = side.run(script, lambda client: found_model(client._terms, "digits", 1))
    assert found.version == 1
