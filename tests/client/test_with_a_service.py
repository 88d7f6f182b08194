"""Both clients and the real service, in this process and in one that is killed meanwhile."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest

from ntk_dist import AsyncClient, Client, errors, stax
from ntk_dist.client.exchange import exchange
from ntk_dist.client.flow import Request
from ntk_dist.database import database_url, open_database
from ntk_dist.service.app import create_app
from ntk_dist.service.service import ServiceConfig
from ntk_dist.service.tokens import new_token
from ntk_dist.settings import ServiceSettings
from ntk_dist.wire import SCOPES, JobState

MAX_ROWS = 40


class Server:
    """``ntk-dist serve`` in a process of its own, on a port of its own."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "ntk_dist", "serve", "--port", str(self.port)]
        variables = {"NTK_DIST_SERVICE__MAX_ROWS": str(MAX_ROWS)}
        with (self.folder / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--workspace", str(self.folder / "ws")],
                stdout=output,
                stderr=output,
                env={**os.environ, **variables},
            )

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def token(folder):
    text, record = new_token("anna", SCOPES, datetime.now(UTC))
    (folder / "ws").mkdir()
    database = open_database(database_url(str(folder / "ws")))
    database.tokens.insert(record)
    database.close()
    return text


@pytest.fixture(scope="module")
def server(folder, token):
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(100, 4))
    return x, np.where(x[:, 0] + np.sin(x[:, 1]) > 0, "up", "down")


NET = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))


@pytest.fixture(scope="module")
def trained(server, token, waves, folder):
    """The model ``waves``, fitted by a service that was killed meanwhile."""
    x, y = waves
    np.savez(folder / "waves.npz", x=x, y=y)
    job = {
        "name": "waves",
        "task": "classification",
        "data": {"x": f"{folder}/waves.npz:x", "y": f"{folder}/waves.npz:y"},
        "test": {"x": x[:10], "y": y[:10]},
        "architecture": NET,
        "gram": {"block_rows": 40},
    }
    with Client(server.url, token=token, retries=50) as client:  # it is still starting
        submitted = client.submit(job, upload=True)
    with Client(server.url, token=token) as client:
        handle = client.job(submitted.id)
        server.kill()
        again = threading.Timer(0.5, server.start)
        again.start()
        done = handle.wait(progress=True, timeout_s=200)
        again.join()
        assert done.state is JobState.SUCCEEDED
        assert done.score == 1.0
        assert done.spec["data"]["x"].endswith(":x")
        return handle


def test_a_job_goes_from_its_data_to_its_model(trained, server, token, waves):
    x, y = waves
    with Client(server.url, token=token) as client:
        handle = client.job(trained.id)
        model = handle.model()
        assert (model.name, model.version, model.info.classes) == ("waves", 1, ("down", "up"))
        assert [one.name for one in client.models()] == ["waves"]
        assert [one.id for one in client.jobs(state="succeeded", name="waves")] == [trained.id]
        # Without a ridge the model says of its own rows what it was told of them; the service
        # takes 40 rows at a time, so that 100 are halved twice.
        np.testing.assert_array_equal(model.predict(x), y)
        scores = model.scores(x, rows_per_request=7)
        np.testing.assert_array_equal(scores > 0, y == "up")
        np.testing.assert_allclose(model.scores(x), scores, rtol=1e-6)
        kinds = [one.event.kind for one in handle.events()]
        assert kinds[0] == "job"
        assert kinds.count("job") == 2
        assert {"phase", "task", "step"} <= set(kinds)
        assert isinstance(handle.logs(), str)
        with pytest.raises(errors.ConflictError):
            handle.cancel()


def test_the_other_client_finds_the_same(trained, server, token, waves):
    x, _ = waves

    async def ask():
        async with AsyncClient(server.url, token=token) as client:
            handle = await client.job(trained.id)
            model = await client.model("waves")
            scores = await model.scores(x, rows_per_request=7)
            events = [one async for one in handle.events()]
            later = [one.id async for one in handle.events(after=events[2].id)]
            return await handle.wait(), scores, [one.id for one in events], later

    done, scores, ids, later = asyncio.run(ask())
    with Client(server.url, token=token) as client:
        assert done == client.job(trained.id).info
        np.testing.assert_allclose(scores, client.model("waves").scores(x), rtol=1e-6)
    assert later == ids[3:]


def test_a_job_whose_data_make_no_sense_says_why(trained, server, token, waves):
    x, y = waves
    with_nan = x.copy()
    with_nan[17, 2] = np.nan
    job = {"name": "spoilt", "task": "classification", "architecture": NET}
    spoilt = [
        ({"data": {"x": with_nan, "y": y}}, errors.NonFiniteDataError, "1 of 100 rows: 17"),
        (
            {"data": {"x": x, "y": y}, "test": {"x": x[:9, :3], "y": y[:9]}},
            errors.DataShapeError,
            r"\(4,\).*\(3,\)",
        ),
    ]
    with Client(server.url, token=token) as client:
        for data, kind, words in spoilt:
            handle = client.submit({**job, **data}, upload=True)
            with pytest.raises(errors.JobFailedError, match=words) as caught:
                handle.wait(timeout_s=200)
            assert type(caught.value.__cause__) is kind
            assert handle.info.state is JobState.FAILED
            assert handle.info.failure.code == kind.code
        assert [one.name for one in client.models()] == ["waves"]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """What runs a call of a client against an application in this process, without drivers."""
    app = create_app(
        ServiceConfig(
            workspace=str(tmp_path_factory.mktemp("app") / "ws"),
            settings=ServiceSettings(max_body_bytes=2**16, max_upload_bytes=2**20),
        )
    )
    text, record = new_token("anna", ["read", "submit"], datetime.now(UTC))
    app.state.service.database.tokens.insert(record)

    async def with_token(call, token=text):
        transport = httpx.ASGITransport(app)
        async with AsyncClient(transport=transport, token=token, retries=0) as client:
            return await call(client)

    yield with_token
    app.state.service.database.close()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda client: client.job("0" * 24), errors.JobNotFoundError),
        (lambda client: client.model("nothing"), errors.ModelNotFoundError),
        (lambda client: client.model("../ws"), errors.NotFoundError),
        (lambda client: client.model("nothing", 3), errors.ModelNotFoundError),
        (lambda client: client.submit({"name": "x"}), errors.JobSpecError),
        (lambda client: client.upload(np.ones(3), resume="0" * 32), errors.UploadNotFoundError),
        (lambda client: client.upload(np.ones(3), filename="../x.npy"), errors.RequestError),
    ],
)
def test_errors_are_those_of_the_service(app, call, kind):
    with pytest.raises(kind) as caught:
        asyncio.run(app(call))
    assert type(caught.value) is kind
    assert any(note.startswith("request ") for note in caught.value.__notes__)


def test_a_life_in_the_queue(app, waves):
    x, y = waves
    job = {"name": "waves", "task": "classification", "architecture": NET}

    async def live(client):
        assert (await client.version()).name == "ntk_dist"
        place = (await client.upload(x.repeat(50, axis=0))).place  # three parts of 64 KiB
        labels = (await client.upload(y.repeat(50))).place
        full = {**job, "data": {"x": place, "y": labels}}
        first = await client.submit(full, key="one")
        again = await client.submit(full, key="one")
        assert again.id == first.id
        with pytest.raises(errors.IdempotencyError):
            await client.submit({**full, "kernel": "nngp"}, key="one")
        second = await client.submit(full)
        assert [one.id async for one in client.jobs()] == [second.id, first.id]
        assert (await second.cancel()).state is JobState.CANCELLED
        assert (await second.cancel()).state is JobState.CANCELLED
        with pytest.raises(errors.JobCancelledError):
            await second.wait()
        assert (await second.resume()).state is JobState.QUEUED
        with pytest.raises(errors.ServiceTimeoutError, match="got state queued"):
            await second.wait(timeout_s=0.2)
        with pytest.raises(errors.ForbiddenError):
            await client.submit({**job, "data": {"x": "/etc/passwd", "y": "/etc/passwd"}})
        with pytest.raises(errors.RequestTooLargeError):
            await client.upload(np.zeros(2**18))

    asyncio.run(app(live))


def test_tokens_are_asked_for(app):

    async def ask(client):
        return [one async for one in client.jobs()]

    for token in ("", "ntkd_0_sentinel"):
        with pytest.raises(errors.AuthenticationError) as caught:
            asyncio.run(app(ask, token))
        assert "sentinel" not in str(caught.value)
    with pytest.raises(errors.ForbiddenError, match="predict"):
        asyncio.run(app(_predicted))


async def _predicted(client):

    request = Request(method="POST", path="/v1/models/waves:predict")
    await client._driver.run(exchange(client._terms, request))
