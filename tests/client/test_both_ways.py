"""Every error of the package: raised by a service, told in JSON, raised again by both clients."""

import inspect
import json
import ssl

import httpx
import pytest

from ntk_dist import Client, errors
from ntk_dist.errors import (
    DefectError,
    OverloadedError,
    ServiceTimeoutError,
    ServiceUnreachableError,
)
from ntk_dist.wire import problem_of, to_json

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_client_raises_what_the_service_raised(cls, side, script):
    raised = cls("expected 3 rows, got 2 — give it one more")
    if isinstance(raised, OverloadedError):
        raised.retry_after_s = 7.5
    body = json.dumps(to_json(problem_of(raised, "r-42")))
    script.answers["GET /v1/version"] = httpx.Response(cls.http_status, content=body)
    with pytest.raises(errors.NTKDistError) as caught:
        side.run(script, lambda client: type(client).version(client), retries=0)
    assert type(caught.value) is cls
    assert str(caught.value) == str(raised)
    assert caught.value.__notes__ == ["request r-42"]
    assert getattr(caught.value, "retry_after_s", None) == getattr(raised, "retry_after_s", None)
    assert len(script.heard) == 1


def http_errors():
    found = [cls for _, cls in inspect.getmembers(httpx, inspect.isclass)]
    return [c for c in found if issubclass(c, httpx.TransportError | httpx.DecodingError)]


@pytest.mark.parametrize("cls", http_errors(), ids=lambda cls: cls.__name__)
def test_every_error_of_the_network_is_one_of_ours(cls, side, script):
    script.answers["GET /v1/version"] = cls("no luck")
    with pytest.raises(errors.ServiceError, match=r"http://127\.0\.0\.1:8080") as caught:
        side.run(script, lambda client: type(client).version(client), retries=0)
    is_slow = issubclass(cls, httpx.TimeoutException) and cls is not httpx.ConnectTimeout
    assert type(caught.value) is (ServiceTimeoutError if is_slow else ServiceUnreachableError)
    assert type(caught.value.__cause__) is cls
    assert "no luck" in str(caught.value)


def test_a_certificate_that_is_not_trusted_is_not_tried_again(side, script):
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    script.answers["GET /v1/version"] = error
    with pytest.raises(ServiceUnreachableError, match=r"certificate verify failed.*as verify"):
        side.run(script, lambda client: type(client).version(client))
    assert len(script.heard) == 1


def test_nobody_answers():
    url = "http://127.0.0.1:9"  # the port of the discard service, which nobody runs
    with (
        pytest.raises(ServiceUnreachableError, match="check the address") as caught,
        Client(url, retries=0) as client,
    ):
        client.version()
    assert url in str(caught.value)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"<html>", ServiceUnreachableError, "expected a service of ntk_dist, got 200 from nginx"),
        (b"[1]", DefectError, "expected a Version"),
        (b'{"name": "ntk_dist"}', DefectError, "of one version"),
    ],
)
def test_other_answers_are_refused(body, kind, words, side, script):
    script.answers["GET /v1/version"] = httpx.Response(
        200, content=body, headers={"server": "nginx"}
    )
    with pytest.raises(kind, match=words):
        side.run(script, lambda client: type(client).version(client))
