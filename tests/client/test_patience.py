import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.client.exchange import Terms, exchange, failure_of
from ntk_dist.client.flow import Answer, Done, Pause, Request, Send, StepResult, Unanswered, proceed
from ntk_dist.client.patience import FailedTry, Patience
from ntk_dist.errors import (
    DefectError,
    InvalidInputError,
    JobLostError,
    NTKDistError,
    OverloadedError,
    RequestTooLargeError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnreachableError,
    StoreUnreachableError,
)
from ntk_dist.wire import problem_of, to_json

URL = "http://service"
READ = Request(method="GET", path="/v1/version")
ONCE = Request(method="POST", path="/v1/jobs/j:resume", is_repeatable=False)
LOST = FailedTry(error=ServiceUnreachableError("lost"), may_repeat=True)


def answer(status, error=None, **headers):
    import json

    body = json.dumps(to_json(problem_of(error, "r1"))).encode() if error else b"<html>"
    return Answer(
        status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=body
    )


def lost(*, was_sent, may_pass=True):
    return Unanswered(error=ServiceUnreachableError("x"), was_sent=was_sent, may_pass=may_pass)


def test_pauses_double_up_to_the_longest():
    patience = Patience(retries=10, within_s=1e9)
    longest = [patience.pause_s(LOST, n, elapsed_s=0, chance=1) for n in range(1, 9)]
    assert longest == [0.25, 0.5, 1, 2, 4, 8, 8, 8]
    assert patience.pause_s(LOST, 3, elapsed_s=0, chance=0) == 0.5


@given(
    retries=st.integers(0, 50),
    failures=st.integers(1, 2000),
    elapsed_s=st.floats(0, 200),
    asked_s=st.none() | st.floats(0, 100),
    chance=st.floats(0, 1),
)
def test_no_try_comes_too_often_too_late_or_too_soon(retries, failures, elapsed_s, asked_s, chance):
    patience = Patience(retries=retries)
    failure = FailedTry(error=OverloadedError("busy"), asked_s=asked_s, may_repeat=True)
    pause_s = patience.pause_s(failure, failures, elapsed_s=elapsed_s, chance=chance)
    if pause_s is None:
        return
    assert failures <= retries
    assert elapsed_s + pause_s <= patience.within_s
    assert pause_s >= (asked_s or 0)


def test_what_is_not_safe_is_not_repeated():
    never = FailedTry(error=DefectError("ours"))
    assert Patience().pause_s(never, 1, elapsed_s=0, chance=0) is None
    with pytest.raises(InvalidInputError, match="retries: expected 0 or more, got -1"):
        Patience(retries=-1)


@pytest.mark.parametrize(
    ("request_", "reply", "is_repeated"),
    [
        (READ, lost(was_sent=True), True),
        (ONCE, lost(was_sent=True), False),
        (ONCE, lost(was_sent=False), True),
        (READ, lost(was_sent=False, may_pass=False), False),
        (ONCE, answer(429, OverloadedError("busy")), True),
        (ONCE, answer(503, StoreUnreachableError("away"), retry_after="3"), True),
        (READ, answer(503, StoreUnreachableError("away")), True),
        (ONCE, answer(503, StoreUnreachableError("away")), False),
        (READ, answer(503, ServiceError("about to end")), True),
        (READ, answer(503, JobLostError("gone")), False),
        (READ, answer(500, StoreUnreachableError("away")), False),
        (READ, answer(500, DefectError("ours"), retry_after="3"), False),
        (READ, answer(504, ServiceTimeoutError("slow")), False),
        (READ, answer(503), True),
        (ONCE, answer(503), False),
        (READ, answer(502), True),
        (READ, answer(404), False),
        (READ, answer(308, location="https://service"), False),
    ],
)
def test_only_what_is_safe_is_repeated(request_, reply, is_repeated):
    failure = failure_of(URL, request_, reply)
    pause_s = Patience().pause_s(failure, 1, elapsed_s=0, chance=0.5)
    assert (pause_s is not None) == is_repeated


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, ServiceUnreachableError),
        (502, ServiceUnreachableError),
        (413, RequestTooLargeError),
        (429, OverloadedError),
        (500, DefectError),
        (418, DefectError),
    ],
)
def test_answers_of_strangers_are_told_as_such(status, kind):
    assert type(failure_of(URL, READ, answer(status)).error) is kind


def test_a_redirection_says_where_to():
    failure = failure_of(URL, READ, answer(308, location="https://service"))
    assert "it points to https://service" in str(failure.error)


def play(steps, replies, clock):
    """The result of a flow whose requests get ``replies``, and its pauses."""
    replies, pauses, last = list(replies), [], StepResult()
    while not isinstance(step := proceed(steps, last), Done):
        match step:
            case Send():
                clock[0] += 0.01
                last = StepResult(replies.pop(0))
            case Pause(seconds):
                clock[0] += seconds
                pauses.append(seconds)
                last = StepResult()
    assert not replies
    return step.value, pauses


def terms(clock, **patience):
    return Terms(url=URL, patience=Patience(**patience), clock=lambda: clock[0], chance=lambda: 1.0)


def test_a_request_is_repeated_until_it_is_answered():
    clock = [0.0]
    busy = answer(429, OverloadedError("busy"), retry_after="2")
    good = Answer(status=200, headers={}, body=b"{}")
    replies = [lost(was_sent=True), busy, answer(502), good]
    got, pauses = play(exchange(terms(clock), READ), replies, clock)
    assert got is good
    # The message says 1 s, and comes before the header, which some proxy may have rounded.
    assert pauses == [0.25, 1.25, 1.0]


@pytest.mark.parametrize("retries", [0, 2])
def test_the_last_error_is_raised_and_says_how_often_it_was_tried(retries):
    clock = [0.0]
    with pytest.raises(ServiceError) as caught:
        play(
            exchange(terms(clock, retries=retries), READ),
            [lost(was_sent=True)] * (retries + 1),
            clock,
        )
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == (1 if retries else 0)
    assert all("tried 3 times" in note for note in notes)


def test_all_tries_begin_within_the_time():
    clock = [0.0]
    with pytest.raises(NTKDistError):
        play(
            exchange(terms(clock, retries=1000), READ),
            (lost(was_sent=True) for _ in range(12)),
            clock,
        )
    assert 50 < clock[0] < 61
