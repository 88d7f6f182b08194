"""Flows driven over httpx, on the caller's thread or event loop: the only I/O of a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from typing import Any, TypeVar

from ntk_dist.client.flow import (
    Answer,
    Awaiting,
    Blocking,
    Done,
    Flow,
    Item,
    Listen,
    NextChunk,
    Pause,
    Request,
    Send,
    Step,
    StepResult,
    Stream,
    Together,
    Unanswered,
    Work,
    proceed,
)
from ntk_dist.client.line import Line, answer_of, httpx

__all__ = ["AwaitingHttp", "BlockingHttp"]

T = TypeVar("T")


class BlockingHttp(Blocking):
    """Flows on the thread of the caller.

    Parameters
    ----------
    line
        The way to the service.
    transport
        What carries requests instead of the network.
    """

    def __init__(self, line: Line, transport: httpx.BaseTransport | None) -> None:
        self._line = line
        self._http = httpx.Client(transport=transport, **line.options())

    def run(self, steps: Flow[T]) -> T:
        """The result of a flow."""
        last = StepResult()
        with closing(steps), _Ear() as ear:
            while not isinstance(step := proceed(steps, last), Done):
                last = self._attempt(step, ear)
        result: T = step.value
        return result

    def iterate(self, steps: Stream[T]) -> Iterator[T]:
        """The values of a flow, each as soon as it is there."""
        last = StepResult()
        with closing(steps), _Ear() as ear:
            while not isinstance(step := proceed(steps, last), Done):
                if isinstance(step, Item):
                    yield step.value
                    last = StepResult()
                else:
                    last = self._attempt(step, ear)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _attempt(self, step: Step, ear: _Ear) -> StepResult:
        try:
            return StepResult(self._perform(step, ear))
        except Exception as error:
            return StepResult(error=error)

    def _perform(self, step: Step, ear: _Ear) -> Any:
        match step:
            case Send(request):
                return self._send(request)
            case Listen(request):
                return self._listen(request, ear)
            case NextChunk():
                return self._hear(ear)
            case Pause(seconds):
                return time.sleep(seconds)
            case Work(function):
                return function()
            case Together(flows):
                return [self.run(one) for one in flows]

    def _send(self, request: Request) -> Answer | Unanswered:
        try:
            return answer_of(self._http.send(self._line.built(self._http, request)))
        except httpx.HTTPError as error:
            return self._line.unanswered(error, request)

    def _listen(self, request: Request, ear: _Ear) -> Answer | Unanswered:
        ear.close()
        built = self._line.built(self._http, request, is_listening=True)
        try:
            response = self._http.send(built, stream=True)
            ear.callback(response.close)
            if not response.is_success:
                response.read()
                return answer_of(response)
        except httpx.HTTPError as error:
            return self._line.unanswered(error, request)
        ear.request, ear.chunks = request, response.iter_bytes()
        return Answer(status=response.status_code, headers=response.headers)

    def _hear(self, ear: _Ear) -> bytes | Unanswered | None:
        assert ear.request is not None
        try:
            return next(ear.chunks, None)
        except httpx.HTTPError as error:
            return self._line.unanswered(error, ear.request, is_heard=True)


class AwaitingHttp(Awaiting):
    """Flows on the asyncio loop of the caller; takes what :class:`BlockingHttp` takes."""

    def __init__(self, line: Line, transport: httpx.AsyncBaseTransport | None) -> None:
        self._line = line
        self._http = httpx.AsyncClient(transport=transport, **line.options())

    async def run(self, steps: Flow[T]) -> T:
        """The result of a flow."""
        last = StepResult()
        with closing(steps):
            async with _AsyncEar() as ear:
                while not isinstance(step := proceed(steps, last), Done):
                    last = await self._attempt(step, ear)
        result: T = step.value
        return result

    async def iterate(self, steps: Stream[T]) -> AsyncIterator[T]:
        """The values of a flow, each as soon as it is there."""
        last = StepResult()
        with closing(steps):
            async with _AsyncEar() as ear:
                while not isinstance(step := proceed(steps, last), Done):
                    if isinstance(step, Item):
                        yield step.value
                        last = StepResult()
                    else:
                        last = await self._attempt(step, ear)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _attempt(self, step: Step, ear: _AsyncEar) -> StepResult:
        try:
            return StepResult(await self._perform(step, ear))
        except Exception as error:
            return StepResult(error=error)

    async def _perform(self, step: Step, ear: _AsyncEar) -> Any:
        match step:
            case Send(request):
                return await self._send(request)
            case Listen(request):
                return await self._listen(request, ear)
            case NextChunk():
                return await self._hear(ear)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Work(function):
                return await asyncio.to_thread(function)
            case Together():
                return await self._together(step)

    async def _together(self, step: Together) -> list[Any]:
        gate = asyncio.Semaphore(step.limit)

        async def one(steps: Flow[Any]) -> Any:
            async with gate:
                return await self.run(steps)

        tasks = [asyncio.ensure_future(one(steps)) for steps in step.flows]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # After the first failure the others would go on in the background.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, request: Request) -> Answer | Unanswered:
        try:
            return answer_of(await self._http.send(self._line.built(self._http, request)))
        except httpx.HTTPError as error:
            return self._line.unanswered(error, request)

    async def _listen(self, request: Request, ear: _AsyncEar) -> Answer | Unanswered:
        await ear.aclose()
        built = self._line.built(self._http, request, is_listening=True)
        try:
            response = await self._http.send(built, stream=True)
            ear.push_async_callback(response.aclose)
            if not response.is_success:
                await response.aread()
                return answer_of(response)
        except httpx.HTTPError as error:
            return self._line.unanswered(error, request)
        ear.request, ear.chunks = request, response.aiter_bytes()
        return Answer(status=response.status_code, headers=response.headers)

    async def _hear(self, ear: _AsyncEar) -> bytes | Unanswered | None:
        assert ear.request is not None
        try:
            return await anext(ear.chunks, None)
        except httpx.HTTPError as error:
            return self._line.unanswered(error, ear.request, is_heard=True)


class _Ear(ExitStack):
    """The one answer that a flow listens to."""

    request: Request | None = None
    chunks: Iterator[bytes] = iter(())


class _AsyncEar(AsyncExitStack):
    """The one answer that a flow listens to."""

    request: Request | None = None
    chunks: AsyncIterator[bytes]
