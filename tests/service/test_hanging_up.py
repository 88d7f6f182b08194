"""Nobody computes for callers who are gone."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request

from ntk_dist.service.hanging_up import unless_gone


def request_of(hang_up: asyncio.Event) -> Request:
    async def receive():
        await hang_up.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_what_is_waited_for_comes():
    async def run():
        async def work():
            return 3

        return await unless_gone(request_of(asyncio.Event()), work())

    assert asyncio.run(run()) == 3


def test_errors_come_too():
    async def run():
        async def work():
            raise LookupError

        await unless_gone(request_of(asyncio.Event()), work())

    with pytest.raises(LookupError):
        asyncio.run(run())


def test_work_for_nobody_is_cancelled():
    async def run():
        hang_up, cancelled = asyncio.Event(), asyncio.Event()

        async def work():
            hang_up.set()
            try:
                await asyncio.sleep(20)
            finally:
                cancelled.set()

        with pytest.raises(ClientDisconnect):
            await unless_gone(request_of(hang_up), work())
        async with asyncio.timeout(5):
            await cancelled.wait()

    asyncio.run(run())


def test_whoever_cancels_the_answer_cancels_the_work():
    async def run():
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def work():
            begun.set()
            try:
                await asyncio.sleep(20)
            finally:
                cancelled.set()

        answer = asyncio.ensure_future(unless_gone(request_of(asyncio.Event()), work()))
        await begun.wait()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        async with asyncio.timeout(5):
            await cancelled.wait()

    asyncio.run(run())
