import asyncio
import threading
import time
from functools import partial

import httpx
import pytest

from ntk_dist import AsyncClient, Client
from ntk_dist.client.flow import (
    Done,
    Item,
    Listen,
    NextChunk,
    Pause,
    StepResult,
    Together,
    Work,
    proceed,
)
from ntk_dist.client.flow import Request as Asked
from ntk_dist.errors import DataError


def test_a_flow_is_told_what_came_and_what_failed():
    def steps():
        try:
            got = yield Pause(1)
        except DataError:
            got = yield Pause(2)
        return got

    flow = steps()
    assert proceed(flow, StepResult()) == Pause(1)
    assert proceed(flow, StepResult(error=DataError("no"))) == Pause(2)
    assert proceed(flow, StepResult(5)) == Done(5)


def test_results_come_in_order_and_not_too_many_at_a_time(side, script):
    at_work, most, lock = 0, 0, threading.Lock()

    def work(k):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.002 * (7 - k))
        with lock:
            at_work -= 1
        return k

    def one(k):
        return (yield Work(partial(work, k)))

    def all_of_them(client):
        return (yield Together((one(k) for k in range(7)), 3))

    assert side.run(script, all_of_them) == list(range(7))
    assert most == (1 if side.name == "blocking" else 3)


def test_the_first_failure_ends_the_others(side, script):
    ended = []

    def bad():
        yield Pause(0.01)
        raise DataError("no")

    def long():
        try:
            yield Pause(60)
        finally:
            ended.append("long")

    def together(client):
        yield Together([bad(), long()], 2)

    started = time.monotonic()
    with pytest.raises(DataError, match="no"):
        side.run(script, together)
    assert ended == ([] if side.name == "blocking" else ["long"])
    assert time.monotonic() - started < 30


def test_an_iterator_that_is_left_closes_what_it_listens_to(side):
    closed = []

    class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self):
            while True:
                yield b"x"

        async def __aiter__(self):
            while True:
                yield b"x"

        def close(self):
            closed.append("stream")

        async def aclose(self):
            closed.append("stream")

    def steps():
        try:
            yield Listen(Asked(method="GET", path="/"))
            while True:
                yield Item((yield NextChunk()))
        finally:
            closed.append("flow")

    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Endless()))
    if side.name == "blocking":
        with Client(transport=transport) as client:
            for chunk in client._driver.iterate(steps()):
                assert chunk == b"x"
                break
    else:

        async def leave():
            async with AsyncClient(transport=transport) as client:
                items = client._driver.iterate(steps())
                assert await anext(items) == b"x"
                await items.aclose()

        asyncio.run(leave())
    assert closed == ["stream", "flow"]


def test_methods_look_like_methods():
    import inspect

    with Client() as client:
        assert client.submit.__name__ == "submit"
        assert list(inspect.signature(client.submit).parameters) == ["job", "key", "upload"]
        assert client.submit.__doc__ == Client.submit.__doc__
        assert inspect.isfunction(Client.submit)
