"""Jobs over HTTP: what goes well, and every way in which it does not."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import event

from ntk_dist.errors import JobNotFoundError, OverloadedError
from ntk_dist.jobs import lifecycle
from ntk_dist.service.documents import MAX_DOCUMENT_BYTES
from ntk_dist.service.event_stream import EventStreams
from ntk_dist.wire import Job, JobState, of_json


def test_a_job_is_submitted_listed_and_looked_at(callers, job):
    client = callers.may("admin")
    made = client.post("/v1/jobs", json=job)
    assert made.status_code == 202, made.text
    told = of_json(Job, made.json())
    assert made.headers["Location"] == f"/v1/jobs/{told.id}"
    assert (told.state, told.name, told.executor) == (JobState.QUEUED, "waves", "local")
    assert told.spec["workspace"] == "WORKSPACE"
    assert callers.service.place.location not in made.text
    assert client.get(made.headers["Location"]).json() == made.json()
    second = client.post("/v1/jobs", json={**job, "name": "other"}).json()
    listed = client.get("/v1/jobs").json()
    assert [each["id"] for each in listed["items"]] == [second["id"], told.id]
    assert listed["next"] is None
    first_page = client.get("/v1/jobs?limit=1").json()
    older = client.get("/v1/jobs", params={"limit": 1, "after": first_page["next"]}).json()
    assert [each["id"] for each in older["items"]] == [told.id]
    named = client.get("/v1/jobs?name=waves&state=queued").json()["items"]
    assert [each["id"] for each in named] == [told.id]
    assert client.get("/v1/jobs?state=running").json()["items"] == []


def test_where_a_service_has_workers_it_says_how_a_job_gets_them(
    make_callers, job, data_root, error_of
):
    workers = "dask://host:8786"
    client = make_callers(executors=(workers, "local"), data_roots=(str(data_root),)).may("submit")
    plain = client.post("/v1/jobs", json=job).json()
    assert (plain["executor"], plain["warnings"]) == (workers, [])
    (warning,) = client.post("/v1/jobs", json={**job, "executor": "local"}).json()["warnings"]
    assert f"the workers of {workers} have nothing to do: leave executor out" in warning
    refused = client.post("/v1/jobs", json={**job, "executor": "dask"})
    status, code, message = error_of(refused)
    assert (status, code) == (403, "forbidden")
    assert message == (
        f"executor: expected one of {workers}, local, got 'dask': leave executor out of the job to "
        f"have it run on {workers}"
    )


def test_the_same_key_is_the_same_job(callers, job, error_of):
    client = callers.may("submit")
    keyed = {"Idempotency-Key": "a-key"}
    first = client.post("/v1/jobs", json=job, headers=keyed)
    assert "Idempotent-Replay" not in first.headers
    shuffled = json.dumps(dict(reversed(job.items())), indent=3)
    again = client.post(
        "/v1/jobs", content=shuffled, headers={**keyed, "Content-Type": "application/json"}
    )
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotent-Replay"] == "true"
    other = client.post("/v1/jobs", json={**job, "name": "other"}, headers=keyed)
    assert error_of(other)[:2] == (409, "idempotency_key_reused")
    odd = client.post("/v1/jobs", json=job, headers={"Idempotency-Key": "a b"})
    assert error_of(odd)[:2] == (400, "invalid_request")


def test_cancelling_and_resuming(callers, job, error_of):
    client = callers.may("admin")
    place = client.post("/v1/jobs", json=job).headers["Location"]
    cancelled = client.post(f"{place}:cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    again = client.post(f"{place}:cancel")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    resumed = client.post(f"{place}:resume")
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
    assert client.post(f"{place}:resume").status_code == 200
    jobs = callers.service.database.jobs
    job_id = resumed.json()["id"]
    now = jobs.get(job_id).updated
    jobs.change(job_id, lambda record: lifecycle.claim(record, "somebody", now, 60.0))
    assert error_of(client.post(f"{place}:resume"))[:2] == (409, "conflict")
    ending = client.post(f"{place}:cancel")
    assert (ending.status_code, ending.json()["is_cancelling"]) == (202, True)
    assert client.post(f"{place}:cancel").status_code == 200


@pytest.mark.parametrize("verb", ["cancel", "resume"])
def test_a_job_is_changed_by_whoever_made_it_and_by_admins(callers, job, error_of, verb):
    scopes = ["submit", "read"]
    anna = callers.anyone(callers.new_token(scopes))
    berta = callers.anyone(callers.new_token(scopes, name="berta"))
    place = anna.post("/v1/jobs", json=job).headers["Location"]
    if verb == "resume":
        anna.post(f"{place}:cancel")
    refused = error_of(berta.post(f"{place}:{verb}"))
    assert refused[:2] == (403, "forbidden")
    assert "expected a token of 'anna', who made it, or one with scope 'admin'" in refused[2]
    assert "got one of 'berta'" in refused[2]
    before = "queued" if verb == "cancel" else "cancelled"
    assert berta.get(place).json()["state"] == before, "everybody may look"
    # Another token of the same name is the same owner.
    again = callers.anyone(callers.new_token(["submit"]))
    assert again.post(f"{place}:{verb}").status_code == 202
    root = callers.anyone(callers.new_token(["admin"], name="root"))
    other = "resume" if verb == "cancel" else "cancel"
    assert root.post(f"{place}:{other}").status_code == 202


def test_a_job_of_nobody_is_for_admins_only(callers, make_callers, job, error_of):
    # Made where no token was asked for.
    place = make_callers(is_open=True, data_roots=("/",)).anyone()
    place = place.post("/v1/jobs", json=job).headers["Location"]
    submitter = callers.anyone(callers.new_token(["submit"], name="nobody"))
    refused = error_of(submitter.post(f"{place}:cancel"))
    assert refused[:2] == (403, "forbidden")
    assert "expected a token with scope 'admin'" in refused[2]
    assert callers.may("admin").post(f"{place}:cancel").status_code == 202


def test_without_tokens_everybody_is_an_admin(make_callers, callers, job):
    place = callers.may("submit").post("/v1/jobs", json=job).headers["Location"]
    anyone = make_callers(is_open=True).anyone()
    assert anyone.post(f"{place}:cancel").status_code == 202


def test_a_full_disk_is_507(callers, job, error_of):
    @event.listens_for(callers.service.database._connector.engine, "checkout")
    def fill(opened, *_):
        opened.execute("PRAGMA max_page_count = 1")  # as many pages as there are

    deep = ["serial", *[["Dense", {"W_std": 1.4}], ["Relu"]] * 100, ["Dense"]]
    refused = callers.may("submit").post("/v1/jobs", json={**job, "architecture": deep})
    status, code, message = error_of(refused)
    assert (status, code) == (507, "store_full"), message
    assert "No space is left" in message  # what to free is the operator's, and in the log


def test_a_full_queue_says_when_to_come_back(callers, job, error_of):
    client = callers.may("submit")
    for _ in range(8):
        assert client.post("/v1/jobs", json=job).status_code == 202
    refused = client.post("/v1/jobs", json=job)
    assert error_of(refused)[:2] == (429, "overloaded")
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["retry_after_s"] >= 1


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"tusk": 1}, 422, "invalid_job", "tusk: unknown key"),
        ({"task": "guessing"}, 422, "invalid_job", "task: expected 'classification' or"),
        ({"solver": {"tol": 2}}, 422, "invalid_job", "solver.tol"),
        ({"solver": {"ridge": -1}}, 422, "invalid_job", "ridge"),
        ({"solver": {"ridge": 10**400}}, 422, "invalid_job", "solver.ridge: expected a finite"),
        ({"solver": {"tol": "1e-6"}}, 422, "invalid_job", "solver.tol: expected a valid number"),
        ({"gram": {"block_rows": True}}, 422, "invalid_job", "gram.block_rows: expected a valid"),
        ({"solver": {"warm_start": "yes"}}, 422, "invalid_job", "solver.warm_start: expected"),
        ({"name": "../up"}, 422, "invalid_job", "name"),
        ({"name": "a/b"}, 422, "invalid_job", "name"),
        ({"name": "x\n"}, 422, "invalid_job", "name"),
        ({"name": None}, 422, "invalid_job", "name"),
        ({"data": {"x": "a.npy"}}, 422, "invalid_job", "data.y: missing"),
        ({"workspace": "/"}, 422, "invalid_job", "workspace: unknown key"),
        ({"executor": "dask://127.0.0.1:9"}, 403, "forbidden", "executor: expected one of local"),
        ({"architecture": ["serial", ["Reul"]]}, 422, "invalid_architecture", "Reul"),
        ({"preprocess": ["standardise"]}, 422, "invalid_job", "did you mean 'standardize'"),
        ({"preprocess": [{"name": "zca", "ridge": -1}]}, 422, "invalid_job", "ridge > 0"),
        ({"architecture": "/etc/hostname"}, 403, "forbidden", "architecture"),
        ({"data": {"x": "/etc/passwd", "y": "/etc/passwd"}}, 403, "forbidden", "data.x: expected"),
        ({"data": {"x": "upload://" + "0" * 32, "y": "y"}}, 404, "upload_not_found", "begin again"),
        ({"data": {"x": "upload://../x", "y": "y"}}, 404, "upload_not_found", "../x"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_at_once(
    shared, job, error_of, change, status, code, words
):
    refused = shared.may("submit").post("/v1/jobs", json={**job, **change})
    found = error_of(refused)
    assert found[:2] == (status, code)
    assert words in found[2]
    assert shared.service.queue.counts()[JobState.QUEUED] == 0


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "application/json", 400, "expected a JSON document"),
        (b"{", "application/json", 400, "expected a JSON document"),
        (b"[]", "application/json", 422, "expected a JSON object, got list"),
        (b'{"name": NaN}', "application/json", 400, "NaN"),
        (b'{"name": 1e999}', "application/json", 400, "too large"),
        (b'{"name": "\\u0000"}', "application/json", 400, "NUL"),
        (b'{"name": "\\ud800"}', "application/json", 400, "surrogate"),
        (b"\xff\xfe", "application/json", 400, "expected a JSON document"),
        (b"[" * 60000, "application/json", 400, "nested too deep"),
        (b"9" * 60000, "application/json", 400, "expected a JSON document"),
        (b"{}", "text/plain", 415, "expected application/json, got 'text/plain'"),
        (b"{}", None, 415, "expected application/json, got 'nothing'"),
        (b" " * 2**17, "application/json", 413, "at most 64.0 KiB, got 128.0 KiB"),
    ],
)
def test_a_body_that_is_no_job(shared, error_of, body, kind, status, words):
    headers = {} if kind is None else {"Content-Type": kind}
    refused = shared.may("submit").post("/v1/jobs", content=body, headers=headers)
    found = error_of(refused)
    assert found[0] == status
    assert words in found[2]


def test_a_body_in_chunks_is_counted_too(shared, error_of):
    async def chunks():
        for _ in range(100):
            yield b" " * 2**14

    refused = shared.may("submit").post(
        "/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert error_of(refused)[:2] == (413, "too_large")


@pytest.mark.parametrize("address", ["/v1/jobs", "/v1/uploads"])
def test_a_document_is_a_small_thing(make_callers, error_of, address):
    client = make_callers().may("submit")  # who may send bodies of 64 MiB
    kind = {"Content-Type": "application/json"}
    read = 0

    async def chunks():
        nonlocal read
        for _ in range(64):
            read += 2**18
            yield b" " * 2**18

    for content in (b" " * (MAX_DOCUMENT_BYTES + 1), chunks()):
        status, code, words = error_of(client.post(address, content=content, headers=kind))
        assert (status, code) == (413, "too_large")
        assert "a JSON document of at most 1.0 MiB, got 1." in words
    assert read < 2**21
    longest = b"{" + b" " * (MAX_DOCUMENT_BYTES - 2) + b"}"
    refused = error_of(client.post(address, content=longest, headers=kind))
    assert refused[0] in {400, 422}
    assert "sha256: missing" in refused[2] or "name: missing" in refused[2]


@pytest.mark.parametrize(
    ("method", "address", "status", "code"),
    [
        ("GET", "/v1/jobs/{none}", 404, "job_not_found"),
        ("GET", "/v1/jobs/{none}/logs", 404, "job_not_found"),
        ("GET", "/v1/jobs/{none}/events", 404, "job_not_found"),
        ("GET", "/v1/jobs/{none}/blocks", 404, "job_not_found"),
        ("POST", "/v1/jobs/{none}:cancel", 404, "job_not_found"),
        ("POST", "/v1/jobs/{none}:resume", 404, "job_not_found"),
        ("GET", "/v1/jobs/%00", 404, "job_not_found"),
        ("GET", "/v1/jobs/..%2f..%2fetc", 404, "not_found"),
        ("POST", "/v1/jobs/{none}:explode", 404, "not_found"),
        ("GET", "/v1/jobs/{none}:cancel", 405, "invalid_request"),
        ("DELETE", "/v1/jobs", 405, "invalid_request"),
        ("GET", "/v1/jobs?limit=0", 400, "invalid_request"),
        ("GET", "/v1/jobs?limit=many", 400, "invalid_request"),
        ("GET", "/v1/jobs?state=flying", 400, "invalid_request"),
        ("GET", "/v1/jobs?name=a/b", 400, "invalid_request"),
        ("GET", "/v1/jobs?after=yesterday", 400, "invalid_request"),
        ("GET", "/v1/jobs?stat=queued", 400, "invalid_request"),
        ("GET", "/v1/jobs/{none}/logs?start=-1", 400, "invalid_request"),
        ("GET", "/v1/jobs/", 404, "not_found"),
    ],
)
def test_questions_that_have_no_answer(shared, error_of, method, address, status, code):
    found = error_of(shared.may("admin").request(method, address.format(none="0" * 24)))
    assert found[:2] == (status, code)


def test_logs_blocks_and_events_of_a_job_that_waits(callers, job, error_of):
    client = callers.may("admin")
    place = client.post("/v1/jobs", json=job).headers["Location"]
    logs = client.get(f"{place}/logs")
    assert (logs.status_code, logs.text, logs.headers["X-Next-Start"]) == (200, "", "0")
    assert logs.headers["Content-Type"].startswith("text/plain")
    blocks = client.get(f"{place}/blocks")
    assert (blocks.status_code, blocks.json()) == (200, None)
    odd = client.get(f"{place}/events", headers={"Last-Event-ID": "yesterday"})
    assert error_of(odd)[:2] == (400, "invalid_request")
    client.post(f"{place}:cancel")
    events = client.get(f"{place}/events")
    assert events.headers["Content-Type"].startswith("text/event-stream")
    assert events.text.startswith("retry: ")
    last = events.text.strip().split("\n\n")[-1].splitlines()
    assert last[0].startswith("id: ")
    assert last[1] == "event: end"
    assert json.loads(last[2].removeprefix("data: ")) == {"kind": "end", "state": "cancelled"}


def test_streams_say_that_they_live_and_are_bounded(callers, job, error_of, monkeypatch):
    service, client = callers.service, callers.may("admin")
    place = client.post("/v1/jobs", json=job).headers["Location"]
    asked = iter([False, False, False, False, True])
    service.event_streams = EventStreams(
        service.queue, lambda: next(asked), max_streams=1, heartbeat_s=0.0
    )
    told = client.get(f"{place}/events").text
    assert told.count(": nothing new") == 2
    assert "event: end" not in told
    # Where drivers write every ten seconds nothing is read meanwhile, but the service may end.
    news, looks, asked = service.queue.news, [], iter([False, False, False, True, True])
    monkeypatch.setattr(type(service.queue), "poll_s", 1000.0)
    monkeypatch.setattr(service.queue, "news", lambda *which: looks.append(which) or news(*which))
    service.event_streams = EventStreams(service.queue, lambda: next(asked))
    assert "event: end" not in client.get(f"{place}/events").text
    assert len(looks) == 2
    service.event_streams = EventStreams(service.queue, lambda: True, max_streams=0)
    assert error_of(client.get(f"{place}/events"))[:2] == (429, "overloaded")


def test_streams_that_are_opened_at_once_are_bounded_too(callers, job):
    service, client = callers.service, callers.may("admin")
    job_id = client.post("/v1/jobs", json=job).json()["id"]
    streams = EventStreams(service.queue, lambda: True, max_streams=2)

    async def admit():
        pass

    async def open_many():
        return await asyncio.gather(
            *(streams.respond(job_id, None, admit) for _ in range(9)), return_exceptions=True
        )

    async def read(stream):
        async def send(message):
            pass

        async def receive():
            await asyncio.sleep(60)

        await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)

    opened = asyncio.run(open_many())
    accepted = [one for one in opened if not isinstance(one, OverloadedError)]
    assert len(accepted) == 2
    assert all(isinstance(one, OverloadedError) for one in asyncio.run(open_many()))
    for stream in accepted:
        asyncio.run(read(stream))
    with pytest.raises(JobNotFoundError):  # which takes no place for ever
        asyncio.run(streams.respond("0" * 24, None, admit))
    assert sum(not isinstance(one, OverloadedError) for one in asyncio.run(open_many())) == 2


def test_a_stream_ends_when_its_token_does(callers, job, error_of):
    service, moment, looks = callers.service, [100.0], []
    service.gate._clock = lambda: moment[0]
    place = callers.may("submit").post("/v1/jobs", json=job).headers["Location"]
    token = callers.new_token(["read"])

    def is_stopping():
        looks.append(moment[0])
        if len(looks) == 3:
            service.database.tokens.revoke(token.split("_")[1], datetime.now(UTC))
            moment[0] += 60  # what the gate remembers is old
        return len(looks) > 9

    service.event_streams = EventStreams(service.queue, is_stopping, heartbeat_s=0.0, admit_s=0.0)
    told = callers.anyone(token).get(f"{place}/events")
    assert told.status_code == 200
    assert ": nothing new" in told.text
    assert "event: end" not in told.text
    assert len(looks) < 9
    assert error_of(callers.anyone(token).get(f"{place}/events"))[:2] == (401, "unauthenticated")
