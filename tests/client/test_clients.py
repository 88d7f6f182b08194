import asyncio
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

import ntk_dist
from ntk_dist import AsyncClient, Client
from ntk_dist.errors import DefectError, InvalidInputError, ServiceUnreachableError
from ntk_dist.wire import NPY, JobPage, ModelList, Upload, Version, to_json, to_npy

SPEC = {"name": "digits", "task": "classification", "data": {"x": "x.npy", "y": "y.npy"}}
TOKEN = "ntkd_4f_sentinelsecret"


@pytest.fixture
def answers(make_job, model):
    upload = Upload(
        id="u1",
        filename="array.npy",
        n_bytes=192,
        sha256="",
        part_bytes=100,
        received=(),
        is_complete=False,
        place="upload://u1",
        created=model and make_job().created,
    )
    events = (
        b'id: 1\nevent: phase\ndata: {"phase": "solve", "state": "started", '
        b'"time": "2026-01-02T03:04:05Z"}\n\nid: 2\nevent: end\ndata: {}\n\n'
    )
    labels = np.array(["no", "yes"])
    return {
        "GET /v1/version": Version(name="ntk_dist", version="1"),
        "POST /v1/jobs": lambda request: make_job(),
        "GET /v1/jobs": [
            JobPage(items=(make_job(id="j3"), make_job(id="j2")), next="j2"),
            JobPage(items=(make_job(id="j1"),)),
        ],
        "GET /v1/jobs/j1": [make_job("running"), make_job("succeeded", model_version=2)],
        "POST /v1/jobs/j1:cancel": make_job("cancelled"),
        "POST /v1/jobs/j1:resume": make_job("queued"),
        "GET /v1/jobs/j1/logs": [
            httpx.Response(200, text="a line\n", headers={"x-next-start": "10"}),
            httpx.Response(200),
        ],
        "GET /v1/jobs/j1/events": httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=events
        ),
        "GET /v1/models": ModelList(items=(model,)),
        "GET /v1/models/digits": model,
        "GET /v1/models/digits/versions/2": model,
        "POST /v1/models/digits/versions/2:predict": lambda request: httpx.Response(
            200, content=to_npy(labels), headers={"content-type": NPY}
        ),
        "POST /v1/uploads": upload,
        "PUT /v1/uploads/u1/parts/0": upload,
        "PUT /v1/uploads/u1/parts/1": upload,
        "POST /v1/uploads/u1:complete": upload,
    }


def test_both_clients_say_the_same(answers, script):
    """The same calls, written out for either client: the requests are the same to the byte."""
    x = np.ones((2, 3), np.float32)
    options = {"token": TOKEN, "retries": 1}

    def copied():
        return {k: list(v) if isinstance(v, list) else v for k, v in answers.items()}

    def block():
        told = []
        with Client(transport=httpx.MockTransport(script), **options) as client:
            told.append(client.version())
            job = client.submit(SPEC, key="k")
            told += [job.info, job.wait(), job.model().info]
            told += [job.cancel(), job.resume(), job.logs(start=3), job.log_piece(start=3)]
            told += list(job.events(after="0"))
            told += [one.info for one in client.jobs(state="queued", name="digits")]
            told += [client.job("j1").info, client.models()[0].info]
            told += [client.model("digits").predict(x).tolist(), client.upload(np.arange(8.0))]
        return told

    async def await_():
        told = []
        transport = httpx.MockTransport(script)
        async with AsyncClient(transport=transport, parallel=1, **options) as client:
            told.append(await client.version())
            job = await client.submit(SPEC, key="k")
            told += [job.info, await job.wait(), (await job.model()).info]
            told += [await job.cancel(), await job.resume(), await job.logs(start=3)]
            told.append(await job.log_piece(start=3))
            told += [one async for one in job.events(after="0")]
            told += [one.info async for one in client.jobs(state="queued", name="digits")]
            told += [(await client.job("j1")).info, (await client.models())[0].info]
            told.append((await (await client.model("digits")).predict(x)).tolist())
            told.append(await client.upload(np.arange(8.0)))
        return told

    script.answers = copied()
    blocked, requests = block(), script.transcript()
    script.heard.clear()
    script.answers = copied()
    assert asyncio.run(await_()) == blocked
    assert script.transcript() == requests
    assert {(r.method, r.url.path) for r in script.heard} == {tuple(k.split()) for k in answers}
    assert {headers["authorization"] for _, _, headers, _ in requests} == {f"Bearer {TOKEN}"}
    pages = [url for method, url, _, _ in requests if "/v1/jobs?" in url]
    assert pages == [
        "http://127.0.0.1:8080/v1/jobs?state=queued&name=digits",
        "http://127.0.0.1:8080/v1/jobs?state=queued&name=digits&after=j2",
    ]


def test_a_key_is_always_sent_and_stays_when_the_request_is_repeated(side, script, make_job):
    script.answers["POST /v1/jobs"] = [httpx.ReadError("cut"), make_job(), make_job()]

    def twice(client):
        yield from type(client).submit(client, SPEC)
        yield from type(client).submit(client, SPEC)

    side.run(script, twice)
    keys = [request.headers["idempotency-key"] for request in script.heard]
    assert keys[0] == keys[1] != keys[2]


def test_resuming_is_not_repeated(side, script, make_job):
    script.answers = {
        "GET /v1/jobs/j1": make_job("lost"),
        "POST /v1/jobs/j1:resume": httpx.ReadError("cut"),
    }

    def resume(client):
        job = yield from type(client).job(client, "j1")
        yield from type(job).resume(job)

    with pytest.raises(ntk_dist.errors.ServiceUnreachableError, match="broke"):
        side.run(script, resume)
    assert len(script.heard) == 2


def test_names_stay_one_part_of_the_path(side, script):
    seen = []

    def answer(request):
        seen.append(request.url.raw_path)
        return httpx.Response(200, json={})

    with pytest.raises(ntk_dist.errors.DefectError):
        side.run(answer, lambda client: type(client).model(client, "../a b?c#d/ä"))
    assert seen == [b"/v1/models/..%2Fa%20b%3Fc%23d%2F%C3%A4"]


@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_is_nested_without_end_is_no_riddle(side, status):
    def answer(request):
        return httpx.Response(status, content=b"[" * 200_000)

    with pytest.raises((ServiceUnreachableError, DefectError), match=f"{status}"):
        side.run(answer, lambda client: type(client).version(client))


def test_a_service_may_live_below_a_path(side):
    seen = []

    def answer(request):
        seen.append(str(request.url))
        return httpx.Response(200, json=to_json(Version(name="ntk_dist", version="1")))

    side.run(answer, lambda client: type(client).version(client), url="https://host/ntk/")
    assert seen == ["https://host/ntk/v1/version"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "localhost:8080"}, "url: expected http://HOST:PORT"),
        ({"url": "ftp://host"}, "url: expected"),
        ({"url": "http://"}, "url: expected"),
        ({"url": "http://host:99999"}, "url: expected"),
        ({"url": "http://host/?q=1"}, "url: expected"),
        ({"url": "http://ho st"}, "url: expected"),
        ({"url": "http://me:sentinel@host"}, "expected no user or password in the address"),
        ({"url": "me:sentinel@ho st"}, "expected no user or password in the address"),
        ({"token": "sentinel with blanks"}, "token: expected what 'ntk-dist token create'"),
        ({"token": "sentinel\nX-Evil: 1"}, "token: expected"),
        ({"timeout_s": 0}, "timeout_s: expected more than 0 s, got 0 s"),
        ({"timeout_s": float("nan")}, "timeout_s: expected"),
        ({"retries": -1}, "retries: expected 0 or more, got -1"),
        ({"url": "https://h", "verify": "no-such-file.pem"}, "verify: expected True, False or a"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(kind, options, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        kind(**options)
    assert "sentinel" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 201])
def test_a_bad_key_is_refused(key):
    with Client() as client, pytest.raises(InvalidInputError, match="key: expected 1 to 200"):
        client.submit(SPEC, key=key)


def test_the_token_of_the_environment_is_used_and_never_shown(monkeypatch, script):
    monkeypatch.setenv("NTK_DIST_TOKEN", f" {TOKEN}\n")
    script.answers["GET /v1/version"] = Version(name="ntk_dist", version="1")
    with Client(transport=httpx.MockTransport(script)) as client:
        client.version()
        assert repr(client) == "Client('http://127.0.0.1:8080', token='ntkd_4f_***')"
    assert script.heard[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert repr(AsyncClient(token="other")) == "AsyncClient('http://127.0.0.1:8080', token='***')"
    assert repr(Client(token="")) == "Client('http://127.0.0.1:8080', token=None)"


def test_several_threads_use_one_client(script, make_job):
    script.answers = {f"GET /v1/jobs/j{k}": make_job(id=f"j{k}") for k in range(50)}
    with Client(transport=httpx.MockTransport(script)) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda k: client.job(f"j{k}").id, range(50)))
    assert found == [f"j{k}" for k in range(50)]


@pytest.mark.slow  # 20 s the first time, 2.5 s after a run of mypy over the package
def test_a_checker_knows_what_either_client_returns(tmp_path):
    pytest.importorskip("mypy")
    page = tmp_path / "page.py"
    page.write_text(
        textwrap.dedent("""
        from typing import assert_type
        import numpy as np
        from ntk_dist import AsyncClient, Client
        from ntk_dist.client import JobHandle, ModelHandle, TimedEvent
        from ntk_dist.client.flow import Awaiting, Blocking
        from ntk_dist.wire import Job, Upload, Version

        def block(client: Client) -> None:
            assert_type(client.version(), Version)
            job = client.submit({})
            assert_type(job, JobHandle[Blocking])
            assert_type(job.wait(progress=True), Job)
            assert_type(job.model().predict([[1.0]]), np.ndarray)
            assert_type([e for e in job.events()], list[TimedEvent])
            assert_type([j for j in client.jobs()], list[JobHandle[Blocking]])
            assert_type(client.models(), list[ModelHandle[Blocking]])
            assert_type(client.upload("x.npy"), Upload)
            client.submit({}, keys="k")

        async def await_(client: AsyncClient) -> None:
            job = await client.submit({})
            assert_type(job, JobHandle[Awaiting])
            assert_type(await job.wait(progress=True), Job)
            assert_type(await (await job.model()).predict([[1.0]]), np.ndarray)
            assert_type([e async for e in job.events()], list[TimedEvent])
            assert_type([j async for j in client.jobs()], list[JobHandle[Awaiting]])
            client.submit({}).wait()
        """)
    )
    root = Path(ntk_dist.__file__).parent.parent
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(page)],
        cwd=root,
        env={"MYPYPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    found = [line.split(" error: ") for line in told.stdout.splitlines() if " error: " in line]
    lines = [text for place, text in found if page.name in place]
    assert len(lines) == 2, told.stdout + told.stderr
    assert lines[0].startswith('Unexpected keyword argument "keys"')
    assert '"Coroutine[Any, Any, JobHandle[Awaiting]]" has no attribute "wait"' in lines[1]
