import io
from dataclasses import replace

import httpx
import pytest
from rich.console import Console

from ntk_dist.client.display import JobDisplay
from ntk_dist.client.jobs import error_of_job, poll_s
from ntk_dist.errors import (
    ConflictError,
    JobCancelledError,
    JobFailedError,
    JobLostError,
    NonFiniteDataError,
    ServiceTimeoutError,
)
from ntk_dist.wire import Failure, Progress, to_json


def waiting(**options):
    def flow(client):
        job = yield from type(client).job(client, "j1")
        return (yield from type(job).wait(job, **options))

    return flow


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("failed", JobFailedError, "job j1 \\(digits\\): row 3 is NaN"),
        ("cancelled", JobCancelledError, "what it computed is kept"),
        ("lost", JobLostError, "resume it"),
    ],
)
def test_a_job_that_came_to_nothing_is_raised(state, kind, words, side, script, make_job):
    failure = Failure(code="non_finite_data", message="row 3 is NaN") if state == "failed" else None
    script.answers["GET /v1/jobs/j1"] = [
        make_job("queued"),
        make_job("running"),
        make_job(state, failure=failure),
    ]
    with pytest.raises(kind, match=words) as caught:
        side.run(script, waiting())
    if failure:
        assert type(caught.value.__cause__) is NonFiniteDataError


def test_a_job_that_takes_longer_goes_on(side, script, make_job):
    script.answers["GET /v1/jobs/j1"] = make_job("running")
    with pytest.raises(ServiceTimeoutError, match=r"within 0.15 s, got state running; it goes on"):
        side.run(script, waiting(timeout_s=0.15))


def test_a_job_at_its_end_is_no_error_until_it_failed(make_job):
    assert error_of_job(make_job("succeeded")) is None
    assert error_of_job(make_job("running")) is None
    assert "without a word" in str(error_of_job(make_job("failed")))


def test_long_jobs_are_asked_after_less_often():
    pauses = [poll_s(k, is_shown=False) for k in range(2000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.1, 2.0)
    assert poll_s(2000, is_shown=True) == 0.5


def test_a_model_is_there_when_the_job_has_succeeded(side, script, make_job):
    script.answers["GET /v1/jobs/j1"] = make_job("running")

    def flow(client):
        job = yield from type(client).job(client, "j1")
        yield from type(job).model(job)

    with pytest.raises(ConflictError, match="expected a job that has succeeded, got state running"):
        side.run(script, flow)


def test_logs_are_read_to_their_end_and_no_further(side, make_job):
    log = "a\nübergroß\n".encode()
    starts = []

    def answer(request):
        if not request.url.path.endswith("/logs"):
            return httpx.Response(200, json=to_json(make_job()))
        starts.append(int(request.url.params["start"]))
        piece = log[starts[-1] : -2][:3]
        next_start = {"x-next-start": str(starts[-1] + len(piece))}
        return httpx.Response(200, content=piece, headers=next_start)

    def flow(client):
        job = yield from type(client).job(client, "j1")
        return (yield from type(job).logs(job, 1))

    # The end of the log is the first byte of a character.
    assert side.run(answer, flow) == "\nübergro"
    assert starts == [1, 4, 7, 10, 11]


def test_a_log_is_read_as_it_was_written(side, make_job):
    log = b"caf\xe9 \xff\n"

    def answer(request):
        if not request.url.path.endswith("/logs"):
            return httpx.Response(200, json=to_json(make_job()))
        start = int(request.url.params["start"])
        piece = log[start:][:4]
        return httpx.Response(200, content=piece, headers={"x-next-start": str(start + len(piece))})

    def flow(client):
        job = yield from type(client).job(client, "j1")
        start, found = 0, []
        while True:
            piece, start = yield from type(job).log_piece(job, start)
            if not piece:
                return b"".join(found), start
            found.append(piece)

    assert side.run(answer, flow) == (log, len(log))


def story(make_job):
    gram = Progress(phase="gram", label="computing Gram blocks", note="1 of 4", fraction=0.25)
    solve = Progress(phase="solve", label="solving", note="step 9", seconds={"gram": 2.0})
    return [
        make_job("queued"),
        make_job("running", progress=gram),
        make_job("running", progress=replace(gram, note="2 of 4", fraction=0.5)),
        make_job("running", progress=solve, is_cancelling=True),
        make_job("succeeded", attempt=2, model_version=3, score=0.97, progress=solve),
    ]


def test_a_log_gets_few_lines(make_job):
    now, out = [0.0], io.StringIO()
    with JobDisplay(Console(file=out, width=100), clock=lambda: now[0]) as show:
        for job in story(make_job):
            show(job)
            now[0] += 6
            show(job)
    assert out.getvalue().splitlines() == [
        "job digits (j1): queued",
        "job digits (j1): running",
        "computing Gram blocks: 1 of 4",
        "computing Gram blocks: 2 of 4",
        "job digits (j1): running, being cancelled",
        "computing Gram blocks: done in 2.0 s",
        "solving: step 9",
        "job digits (j1): succeeded, attempt 2, model digits version 3, score 0.9700",
    ]


def test_warnings_are_said_once(make_job):
    out = io.StringIO()
    with JobDisplay(Console(file=out, width=100)) as show:
        for state in ("queued", "running"):
            show(make_job(state, warnings=("executor local: slow", "so it is")))
    assert out.getvalue().splitlines() == [
        "job digits (j1): queued",
        "warning: executor local: slow",
        "warning: so it is",
        "job digits (j1): running",
    ]


def test_a_terminal_gets_a_bar(make_job):
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    drawn = []
    with JobDisplay(console) as show:
        for job in story(make_job):
            show(job)
            (bar,) = show._screen._bars.tasks
            drawn.append((bar.description, bar.completed))
    assert drawn == [
        ("queued", 0),
        ("computing Gram blocks", 0.25),
        ("computing Gram blocks", 0.5),
        ("solving", 0.0),
        ("succeeded", 0.0),
    ]
    assert "computing Gram blocks: done in 2.0 s" in out.getvalue()


def test_progress_is_shown_on_standard_error(side, script, make_job, capsys):
    script.answers["GET /v1/jobs/j1"] = make_job("succeeded", model_version=1)
    side.run(script, waiting(progress=True))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "job digits (j1): succeeded, model digits version 1" in shown.err
