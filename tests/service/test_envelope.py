"""What every request goes through, and how whatever goes wrong is told."""

import asyncio
import logging
import re

import pytest

from ntk_dist.errors import (
    OverloadedError,
    RequestError,
    RequestTooLargeError,
    ServiceError,
    StoreUnreachableError,
)
from ntk_dist.service.envelope import Envelope
from ntk_dist.service.limits import BODIES_HELD, Limits


@pytest.fixture
def broken(make_callers, monkeypatch):
    """A function that has looking at a job raise something, and looks at one."""
    callers = make_callers()

    def look(error: Exception):
        def fail(job_id):
            raise error

        monkeypatch.setattr(callers.service.queue, "get", fail)
        return callers.may("read").get("/v1/jobs/x", headers={"X-Request-Id": "mine-1"})

    return look


def test_a_defect_is_told_by_an_id_and_explained_in_the_log(broken, error_of, caplog):
    response = broken(RuntimeError("the password is hunter2"))
    status, code, message = error_of(response)
    assert (status, code) == (500, "defect")
    assert "hunter2" not in response.text
    assert response.headers["X-Request-Id"] == "mine-1"
    (record,) = [r for r in caplog.records if r.name == "ntk_dist.service.envelope"]
    assert "mine-1" in record.getMessage()
    assert "hunter2" in str(record.exc_info[1])
    assert "its log says what" in message


def test_places_of_the_operator_are_not_told(broken, error_of, caplog):
    response = broken(StoreUnreachableError("expected to read /srv/secret-place"))
    assert error_of(response)[:2] == (503, "store_unreachable")
    assert "secret-place" not in response.text
    assert "secret-place" in caplog.text


def test_a_long_quotation_is_cut(broken, error_of):
    told = error_of(broken(RequestError("x" * 10**6)))
    assert len(told[2]) < 3000


def test_every_answer_has_an_id_of_its_own_or_the_callers(shared):
    stranger = shared.anyone()
    ids = [stranger.get("/v1/version").headers["X-Request-Id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", found) for found in ids)
    for odd in ("a b", "x" * 65, "a\x1b[31m"):
        told = stranger.get("/v1/version", headers={"X-Request-Id": odd}).headers["X-Request-Id"]
        assert re.fullmatch(r"[0-9a-f]{32}", told)


def test_the_log_has_a_line_for_every_request_and_no_secret(shared, caplog):
    caplog.set_level(logging.INFO, "ntk_dist.service")
    shared.may("read").get("/v1/jobs?limit=3", headers={"X-Request-Id": "mine-2"})
    shared.may("read").get("/v1/jobs/a%0Ab")
    lines = [r.getMessage() for r in caplog.records if r.name == "ntk_dist.service.envelope"]
    assert re.fullmatch(r"GET /v1/jobs 200 [\d.]+ ms caller=anna request=mine-2", lines[0])
    assert lines[1].startswith("GET /v1/jobs/a%0Ab 404")
    assert shared.tokens["read"] not in caplog.text


@pytest.mark.parametrize("address", ["/v1/version", "/v1/jobs", "/metrics", "/v1/nowhere"])
def test_head_is_get_without_a_body(shared, address):
    client = shared.may("read")
    asked, headed = client.get(address), client.request("HEAD", address)
    assert headed.status_code == asked.status_code
    assert headed.headers["Content-Type"] == asked.headers["Content-Type"]
    assert headed.content == b""


def test_head_of_a_stream_ends(callers, job):
    client = callers.may("admin")
    place = client.post("/v1/jobs", json=job).headers["Location"]
    headed = client.request("HEAD", f"{place}/events")
    assert headed.status_code == 200
    assert headed.headers["Content-Type"].startswith("text/event-stream")


def test_options_and_methods_that_are_not_there(shared, error_of):
    client = shared.may("admin")
    asked = client.request("OPTIONS", "/v1/jobs")
    assert (asked.status_code, asked.headers["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    refused = client.request("BREW", "/v1/uploads/x")
    assert error_of(refused)[0] == 405
    assert refused.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"


def test_errors_of_the_other_protocol_have_its_shape(shared):
    refused = shared.may("read").get("/v2/nowhere")
    assert refused.status_code == 404
    assert set(refused.json()) == {"error"}
    assert "/v2/nowhere" in refused.json()["error"]


def test_metrics_count_requests_by_template(make_callers, job):
    callers = make_callers()
    client = callers.may("admin")
    for job_id in ("a", "b"):
        client.get(f"/v1/jobs/{job_id}")
    client.get("/made/up")
    client.request("BREW", "/made/up/too")
    text = client.get("/metrics").text
    found = 'ntk_dist_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 2.0'
    assert found in text
    assert 'method="GET",route="elsewhere",status="404"} 1.0' in text
    assert 'method="other",route="elsewhere",status="404"} 1.0' in text
    assert 'ntk_dist_http_request_seconds_count{route="/v1/jobs/{job_id}"} 2.0' in text
    assert 'ntk_dist_jobs{state="queued"} 0.0' in text
    assert "ntk_dist_models_loaded 0.0" in text
    assert "made" not in text


def test_a_service_that_ends_is_not_ready(make_callers, error_of):
    callers = make_callers()
    stranger = callers.anyone()
    assert stranger.get("/v1/health").json() == {"is_ready": True}
    assert stranger.get("/v2/health/ready").status_code == 200
    callers.service.is_stopping = True
    assert error_of(stranger.get("/v1/health"))[:2] == (503, "service_error")
    assert stranger.get("/v2/health/ready").status_code == 503
    assert stranger.get("/v2/health/live").status_code == 200
    callers.service.is_stopping = False
    callers.service.database.ping = lambda: (_ for _ in ()).throw(ServiceError("away"))
    assert stranger.get("/v1/health").status_code == 503


def test_models_that_are_not_there(shared, error_of):
    client = shared.may("read")
    assert client.get("/v1/models").json() == {"items": []}
    assert error_of(client.get("/v1/models/m"))[:2] == (404, "model_not_found")
    assert error_of(client.get("/v1/models/m/versions/1"))[:2] == (404, "model_not_found")
    assert error_of(client.get("/v1/models/m/versions/0"))[:2] == (400, "invalid_request")
    assert error_of(client.get("/v1/models/m/versions/last"))[:2] == (400, "invalid_request")
    assert error_of(client.get("/v1/models/.hidden"))[:2] == (404, "model_not_found")
    assert error_of(client.get("/v1/models/..%2fjobs"))[:2] == (404, "not_found")
    assert error_of(client.get("/v1/models/m:predict"))[0] == 405


# The middleware alone.

SCOPE = {"type": "http", "method": "POST", "path": "/x", "headers": []}


async def read_all(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            return body


async def nothing(message):
    pass


def chunks(*sizes):
    waiting = [
        {"type": "http.request", "body": b"x" * size, "more_body": k < len(sizes) - 1}
        for k, size in enumerate(sizes)
    ]

    async def receive():
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


def test_a_body_may_have_just_so_many_bytes():
    limits = Limits(read_all, max_body_bytes=10)
    asyncio.run(limits(SCOPE, chunks(4, 6), nothing))
    with pytest.raises(RequestTooLargeError, match="at most 10 B, got 11 B and more of it came"):
        asyncio.run(limits(SCOPE, chunks(4, 7), nothing))
    announced = {**SCOPE, "headers": [(b"content-length", b"11")]}
    with pytest.raises(RequestTooLargeError, match="got 11 B announced"):
        asyncio.run(limits(announced, chunks(), nothing))


def test_a_body_that_stops_coming_is_not_waited_for():
    limits = Limits(read_all, max_body_bytes=10, idle_s=0.01)
    asyncio.run(limits(SCOPE, chunks(4, 1), nothing))

    async def stuck():
        await asyncio.Event().wait()

    with pytest.raises(RequestError, match=r"within 0\.01 s, got 0 bytes"):
        asyncio.run(limits(SCOPE, stuck, nothing))


def test_all_bodies_together_are_bounded_and_let_go():
    async def hold(scope, receive, send):
        await receive()
        await asyncio.sleep(0.05)

    limits = Limits(hold, max_body_bytes=10)

    async def crowd():
        asked = [limits(SCOPE, chunks(10), nothing) for _ in range(BODIES_HELD + 3)]
        return await asyncio.gather(*asked, return_exceptions=True)

    for _ in range(2):  # the second crowd finds room again
        found = asyncio.run(crowd())
        assert sum(isinstance(one, OverloadedError) for one in found) == 3


def test_requests_at_a_time_are_bounded():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.05)

    limits = Limits(slow, max_body_bytes=10, max_requests=2)

    async def crowd():
        asked = [limits(SCOPE, chunks(1), nothing) for _ in range(5)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(crowd())
    assert sum(isinstance(one, OverloadedError) for one in found) == 3


def test_an_answer_that_breaks_off_is_cut_and_not_mended(shared):
    async def break_off(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("in the middle")

    service = shared.service
    envelope = Envelope(break_off, metrics=service.metrics, addresses=shared.app.addresses)
    sent = []

    async def send(message):
        sent.append(message["type"])

    with pytest.raises(ValueError, match="in the middle"):
        asyncio.run(envelope(dict(SCOPE), chunks(1), send))
    assert sent == ["http.response.start"]
