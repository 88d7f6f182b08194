import json
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.client.events import Message, MessageReader, read_event
from ntk_dist.client.flow import Item
from ntk_dist.errors import JobNotFoundError, ServiceUnreachableError
from ntk_dist.events import PhaseEvent, StepEvent
from ntk_dist.wire import problem_of, to_json

STREAM = (
    b": hello\n\nid: 7\nevent: step\ndata: {\ndata: }\n\n"
    b"data:x\r\n\r\nid: 9\n\nevent: e\ndata: y\n\n"
)
READ = [
    Message(id="7", kind="step", data="{\n}"),
    Message(id="7", kind="message", data="x"),
    Message(id="9", kind="e", data="y"),
]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=10))
def test_messages_are_read_however_they_are_cut(cuts):
    ends = sorted({0, *cuts, len(STREAM)})
    reader = MessageReader()
    found = [m for a, b in pairwise(ends) for m in reader.feed(STREAM[a:b])]
    assert found == READ


@given(noise=st.lists(st.binary(max_size=60), max_size=5))
def test_noise_is_no_event_and_no_error(noise):
    reader = MessageReader()
    for chunk in noise:
        for message in reader.feed(chunk + b"\n\n"):
            assert read_event(message) is None


def line(id, record, time="2026-01-02T03:04:05Z"):
    told = {"time": time, **record.to_dict()}
    kind = told.pop("kind")
    return f"id: {id}\nevent: {kind}\ndata: {json.dumps(told)}\n\n".encode()


EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
FIRST = PhaseEvent(phase="solve", state="started", total=3)
LAST = b'id: 5\nevent: end\ndata: {"kind": "end", "state": "succeeded"}\n\n'
SECOND = StepEvent(step=1, residuals=(0.5, float("nan")), tol=1e-6)


def collected(client):
    """Every event of the job, through a flow that is run as one."""
    job = yield from type(client).job(client, "j1")
    found, outcome, steps = [], None, type(job).events(job)
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration:
            return found
        outcome = None
        if isinstance(step, Item):
            found.append(step.value)
        else:
            outcome = yield step


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Bytes, and then a connection that breaks."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield self.data
        raise httpx.ReadTimeout("silence")

    async def __aiter__(self):
        yield self.data
        raise httpx.RemoteProtocolError("peer closed connection")


def test_a_stream_that_breaks_is_opened_again_where_it_broke(side, make_job):
    opened = []

    def answer(request):
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=to_json(make_job()))
        opened.append(request.headers.get("last-event-id"))
        assert request.headers["accept"] == "text/event-stream"
        if len(opened) == 1:
            return httpx.Response(
                200, headers=EVENTS, stream=Cut(line(1, FIRST) + b"id: 2\nevent: st")
            )
        if len(opened) == 2:
            return httpx.Response(502, text="no service")
        if len(opened) == 3:
            unknown = b"id: 3\nevent: of-tomorrow\ndata: {}\n\n"
            return httpx.Response(200, headers=EVENTS, content=line(2, SECOND) + unknown)
        return httpx.Response(200, headers=EVENTS, content=line(4, FIRST) + LAST)

    found = side.run(answer, collected)
    assert opened == [None, "1", "1", "3"]
    assert [one.id for one in found] == ["1", "2", "4"]
    assert found[0].event == FIRST
    assert found[1].event.residuals[0] == 0.5
    assert found[0].time.isoformat() == "2026-01-02T03:04:05+00:00"


def test_what_a_job_said_while_its_service_was_started_again_is_heard(side, make_job):
    opened = []

    def answer(request):
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=to_json(make_job("succeeded")))
        opened.append(request.headers.get("last-event-id"))
        # A service that is stopped ends its streams, and by the next one the job is over.
        content = line(1, FIRST) if len(opened) == 1 else line(2, SECOND) + LAST
        return httpx.Response(200, headers=EVENTS, content=content)

    found = side.run(answer, collected)
    assert opened == [None, "1"]
    assert [one.id for one in found] == ["1", "2"]


def test_an_error_ends_the_stream(side, make_job):
    def answer(request):
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=to_json(make_job()))
        told = problem_of(JobNotFoundError("expected a job, got none"), "r1")
        return httpx.Response(404, json=told)

    with pytest.raises(JobNotFoundError, match="expected a job, got none"):
        side.run(answer, collected)


def test_without_retries_a_broken_stream_is_an_error(side, make_job):
    def answer(request):
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=to_json(make_job()))
        return httpx.Response(503, text="no service")

    with pytest.raises(ServiceUnreachableError, match="got 503"):
        side.run(answer, collected, retries=0)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text/html", b"<html>"),
        ("application/json", b"{}"),
        ("text/event-stream", b""),
        ("text/event-stream", b"data: {\n\n\xff\xfe\n\n"),
        ("text/event-stream", b"id: 1\ndata: " + b"[" * 100_000 + b"\n\n"),
    ],
)
def test_what_is_no_stream_of_events_is_not_followed_for_ever(side, make_job, kind, content):
    opened = []

    def answer(request):
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=to_json(make_job()))
        assert len(opened) < 3
        opened.append(request)
        return httpx.Response(200, headers={"content-type": kind}, content=content)

    with pytest.raises(ServiceUnreachableError, match="expected"):
        side.run(answer, collected, retries=0)


def test_a_job_that_waits_for_its_turn_is_followed_however_often_its_stream_ends(side, make_job):
    contents = [b"retry: 2000\n\n"] * 3 + [b": nothing new\n\n", line(1, FIRST) + LAST]

    def answer(request):
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=to_json(make_job()))
        return httpx.Response(200, headers=EVENTS, content=contents.pop(0))

    assert [one.id for one in side.run(answer, collected, retries=0)] == ["1"]
