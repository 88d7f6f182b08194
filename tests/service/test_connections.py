"""Connections that hold a file and say nothing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn
from uvicorn.server import ServerState

from ntk_dist.service import connections
from ntk_dist.service.connections import Connection, most_connections

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def app(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def listening():
    config = uvicorn.Config(app, http=Connection, log_config=None, lifespan="off")
    state, loop = ServerState(), asyncio.get_running_loop()

    def connection():
        return Connection(config=config, server_state=state, app_state={})

    async with await loop.create_server(connection, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()


async def hung_up(reader):
    """Whether the other side has ended the connection, by whatever means, within 10 s."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), 10) == b""
    return True


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.2)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHos"])
@pytest.mark.parametrize("requests_before", [0, 2])
def test_half_a_head_is_not_waited_for(sent, requests_before):
    async def run():
        async with listening() as address:
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(requests_before):
                writer.write(REQUEST)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            writer.write(sent or b"G" * bool(requests_before))
            assert await hung_up(reader)
            writer.close()

    asyncio.run(run())


def test_whoever_has_said_what_he_wants_may_wait():
    async def run():
        async with listening() as address:
            reader, writer = await asyncio.open_connection(*address)
            for part in (b"GET /slow HTTP/1.1\r\n", b"Host: here\r\n\r\n"):
                writer.write(part)
                await asyncio.sleep(0.01)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.5)  # between requests the time is uvicorn's to measure
            writer.write(REQUEST)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(run())


def test_connections_beyond_the_most_are_closed_at_once(monkeypatch, caplog):
    monkeypatch.setattr(Connection, "most", 2)
    monkeypatch.setattr(Connection, "_warned_s", float("-inf"))
    monkeypatch.setattr(connections, "HEAD_S", 60)

    async def run():
        async with listening() as address:
            kept = [await asyncio.open_connection(*address) for _ in range(2)]
            await asyncio.sleep(0.05)
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*address)
                assert await hung_up(reader)
                writer.close()
            for reader, writer in kept:
                writer.write(REQUEST)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
                writer.close()

    asyncio.run(run())
    assert caplog.text.count("connections beyond 2 are closed at once") == 1


def test_files_are_left_for_the_rest_of_the_service(monkeypatch):
    for files, most in ((1024, 768), (10**6, 2000), (connections.resource.RLIM_INFINITY, 2000)):
        monkeypatch.setattr(connections.resource, "getrlimit", lambda _, n=files: (n, n))
        assert most_connections() == most
