"""An application in this process, and callers of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from ntk_dist import stax
from ntk_dist.jobs.launch import AbstractLauncher
from ntk_dist.service import service as service_module
from ntk_dist.service.app import create_app
from ntk_dist.service.service import ServiceConfig
from ntk_dist.service.tokens import new_token
from ntk_dist.settings import ServiceSettings
from ntk_dist.wire import SCOPES

HERE = "http://127.0.0.1"
NET = ["serial", ["Dense", {"W_std": 1.4, "b_std": 0.1}], ["Relu"], ["Dense"]]


class Caller:
    """Sends requests to an application of this process, one after the other."""

    def __init__(self, loop: asyncio.Runner, app, headers: dict[str, str]) -> None:
        self._loop = loop
        self._app = app
        self._headers = headers

    def request(self, method: str, address: str, **options) -> httpx.Response:
        return self._loop.run(self._send(method, address, **options))

    async def _send(self, method: str, address: str, **options) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(
            transport=transport, base_url=HERE, headers=self._headers
        ) as client:
            return await client.request(method, address, **options)

    def get(self, address: str, **options) -> httpx.Response:
        return self.request("GET", address, **options)

    def post(self, address: str, **options) -> httpx.Response:
        return self.request("POST", address, **options)

    def put(self, address: str, **options) -> httpx.Response:
        return self.request("PUT", address, **options)


class Callers:
    """Of one application: with a token for every scope, or without."""

    def __init__(self, loop: asyncio.Runner, app) -> None:
        self._loop = loop
        self.app = app
        self.service = app.state.service
        self.tokens = {scope: self.new_token([scope]) for scope in SCOPES}

    def new_token(self, scopes, *, name="anna", lifetime: timedelta | None = None) -> str:
        text, record = new_token(name, scopes, datetime.now(UTC), lifetime)
        self.service.database.tokens.insert(record)
        return text

    def anyone(self, token: str | None = None) -> Caller:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return Caller(self._loop, self.app, headers)

    def may(self, scope: str) -> Caller:
        return self.anyone(self.tokens[scope])


@contextmanager
def applications(workspace: Path) -> Iterator[Callable[..., Callers]]:
    """A function that makes applications; nobody looks after their jobs."""
    with ExitStack() as closing:
        loop = closing.enter_context(asyncio.Runner())

        def make(*, is_open: bool = False, database_url: str | None = None, **settings) -> Callers:
            config = ServiceConfig(
                workspace=str(workspace),
                database_url=database_url,
                is_open=is_open,
                settings=ServiceSettings(**settings),
            )
            app = create_app(config)
            closing.callback(app.state.service.close)
            return Callers(loop, app)

        yield make


@pytest.fixture(scope="session")
def applications_in():
    """``applications``, for tests that bring their own workspace."""
    return applications


@pytest.fixture
def make_callers(tmp_path: Path) -> Iterator[Callable[..., Callers]]:
    with applications(tmp_path / "ws") as make:
        yield make


LIMITS = {"max_body_bytes": 2**16, "max_upload_bytes": 2**20, "max_queued_jobs": 8}


@pytest.fixture
def callers(make_callers, data_root) -> Callers:
    """An application whose callers may read ``data_root``."""
    return make_callers(data_roots=(str(data_root),), **LIMITS)


@pytest.fixture(scope="session")
def shared(tmp_path_factory, data_root) -> Iterator[Callers]:
    """One like that for all tests that change nothing: opening a database takes a third of a s."""
    with applications(tmp_path_factory.mktemp("shared")) as make:
        yield make(data_roots=(str(data_root),), **LIMITS)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A folder with data that jobs may read."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(7)
    x = rng.normal(size=(100, 4))
    np.savez(folder / "waves.npz", x=x, y=np.sin(x[:, 0]) + x[:, 1])
    return folder


@pytest.fixture
def job(data_root: Path) -> dict:
    """A job as callers send it."""
    place = data_root / "waves.npz"
    return {
        "name": "waves",
        "task": "regression",
        "data": {"x": f"{place}:x", "y": f"{place}:y"},
        "architecture": NET,
        "gram": {"block_rows": 40},
    }


@pytest.fixture(scope="session")
def make_slow_job() -> Callable[[Path, int], dict]:
    """A function: 150 images in a folder, and a job on them with blocks of so many rows."""

    def make(folder: Path, block_rows: int) -> dict:
        images = np.random.default_rng(5).normal(size=(150, 8, 8, 1))
        place = folder / "images.npz"
        np.savez(place, x=images, y=images.sum(axis=(1, 2, 3)))
        conv = stax.Conv(1, (3, 3), padding="SAME")
        net = stax.serial(conv, stax.Relu(), conv, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
        return {
            "name": "slow",
            "task": "regression",
            "data": {"x": f"{place}:x", "y": f"{place}:y"},
            "architecture": json.loads(net.to_json()),
            "gram": {"block_rows": block_rows},
        }

    return make


@pytest.fixture
def slow_job(tmp_path: Path, make_slow_job: Callable[[Path, int], dict]) -> dict:
    """55 blocks, of images in a folder ``data`` that only this job reads."""
    folder = tmp_path / "data"
    folder.mkdir()
    return make_slow_job(folder, 15)


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., object]:
    """A function that looks until something is true, and returns it."""

    def wait(condition: Callable[[], object], seconds: float = 90.0) -> object:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture
def error_of() -> Callable[[httpx.Response], tuple[int, str, str]]:
    """A function that reads an answer as status, code and message of an error in our shape."""

    def read(response: httpx.Response) -> tuple[int, str, str]:
        told = response.json()
        assert set(told) == {"error"}
        assert {"code", "message", "request_id"} <= set(told["error"])
        assert told["error"]["request_id"] == response.headers["X-Request-Id"]
        return response.status_code, told["error"]["code"], told["error"]["message"]

    return read


class PretendingLauncher(AbstractLauncher):
    """Starts nothing, and says that it runs."""

    def __init__(self) -> None:
        self.launched: Counter[str] = Counter()

    def check(self) -> None:
        pass

    def launch(self, record):
        self.launched[record.id] += 1
        return {"launched": True}

    def look(self, record) -> str:
        return "alive"

    def stop(self, record) -> None:
        pass

    def logs(self, record, start: int = 0) -> bytes:
        return b""


@pytest.fixture
def pretended_drivers(monkeypatch: pytest.MonkeyPatch) -> PretendingLauncher:
    """What starts the drivers of services made after this, which then do as the test says."""
    launcher = PretendingLauncher()
    monkeypatch.setattr(
        service_module, "launchers_of", lambda place, settings: {"process": launcher}
    )
    return launcher


class Server:
    """``ntk-dist serve`` in a process of its own."""

    def __init__(self, workspace: Path, log: Path, *options: str, **variables: str) -> None:
        command = [sys.executable, "-m", "ntk_dist", "serve", "--workspace", str(workspace)]
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--port", "0", *options],
                stdout=output,
                stderr=output,
                env={**os.environ, **variables},
            )
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            found = re.findall(r"listening on (\S+)", self.log.read_text())
            if found:
                return found[-1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def end(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def servers(folder: Path) -> Iterator[Callable[..., Server]]:
    """A function that starts services on one workspace."""
    started: list[Server] = []

    def start(*options: str, **variables: str) -> Server:
        log = folder / f"server-{len(started)}.log"
        started.append(Server(folder / "ws", log, *options, **variables))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.end(signal.SIGKILL)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that starts a service in a process of its own."""
    with servers(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_lasting_server(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """The same for all tests of a file; the workspace is beside its log."""
    with servers(tmp_path_factory.mktemp("lasting")) as start:
        yield start


@pytest.fixture(scope="session")
def serve_here() -> Callable[..., AbstractContextManager[str]]:
    """A function that serves a workspace, or an application that is made already, from a thread of
    this process, and gives the address."""

    @contextmanager
    def serve(
        workspace: Path, *, is_open: bool = True, app: FastAPI | None = None
    ) -> Iterator[str]:
        app = app or create_app(ServiceConfig(workspace=str(workspace), is_open=is_open))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                while not server.started:
                    assert thread.is_alive()
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                app.state.service.is_stopping = True  # streams of events end, so that it can
                server.should_exit = True
                thread.join(30)

    return serve
