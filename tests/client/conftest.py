"""A service that answers by a script, and both clients that talk to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from ntk_dist import AsyncClient, Client
from ntk_dist.wire import Job, JobState, Model, to_json

Reply = httpx.Response | httpx.HTTPError
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Script:
    """Answers by method and path: the next of a list, its last one for ever."""

    answers: dict[str, Any] = field(default_factory=dict)
    heard: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.heard.append(request)
        found = self.answers[f"{request.method} {request.url.path}"]
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(found, Callable):
            found = found(request)
        if isinstance(found, Exception):
            raise found
        if not isinstance(found, httpx.Response):
            found = httpx.Response(200, json=to_json(found))
        # A response can be read once, and one of a script stands for many.
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    def transcript(self) -> list[tuple[str, str, dict[str, str], bytes]]:
        """What came, but for what differs from client to client."""
        return [
            (r.method, str(r.url), {k: r.headers[k] for k in KEPT if k in r.headers}, r.content)
            for r in self.heard
        ]


KEPT = ("accept", "authorization", "content-type", "idempotency-key", "x-content-sha256")


@dataclass
class Side:
    """One of the two clients, driven alike."""

    name: str

    def run(self, script: Callable[[httpx.Request], httpx.Response], flow_of: Any, **options: Any):
        """What the flow that ``flow_of`` makes of a client comes to."""
        transport = httpx.MockTransport(script)
        if self.name == "blocking":
            with Client(transport=transport, **options) as client:
                return client._driver.run(flow_of(client))

        async def run():
            async with AsyncClient(transport=transport, **options) as client:
                return await client._driver.run(flow_of(client))

        return asyncio.run(run())


@pytest.fixture(params=["blocking", "awaiting"])
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(state: str = "queued", **changes: Any) -> Job:
        given = {"id": "j1", "name": "digits", "launcher": "process", "executor": "local"}
        times = {"created": NOW, "updated": NOW}
        return Job(**{**given, **times, "state": JobState(state), "attempt": 1, **changes})

    return make


@pytest.fixture
def model() -> Model:
    return Model(
        name="digits",
        version=2,
        versions=(1, 2),
        task="classification",
        kernel="ntk",
        architecture=[],
        row_shape=(3,),
        n_rows=10,
        n_targets=1,
        dtype="float32",
        classes=("no", "yes"),
        n_bytes=1000,
    )


@pytest.fixture
def json_of() -> Callable[[httpx.Request], Any]:
    return lambda request: json.loads(request.content)
