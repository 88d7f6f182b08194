"""Events of a job as they come, as server-sent events.

::

    id: 1.0.4711
    event: step
    data: {"time": "2026-01-31T12:00:00.250Z", "kind": "step", "step": 7, ...}

The kinds are those of :mod:`ntk_dist.events`; the last one is ``end``, with the state that the
job has come to. After that nothing follows, and a caller need not ask again. A stream that broke
off goes on where it was if its last id comes back as ``Last-Event-ID``.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ntk_dist.errors import AuthenticationError, ForbiddenError, OverloadedError
from ntk_dist.jobs.queue import JobQueue, News
from ntk_dist.jobs.watch import POLL_S
from ntk_dist.wire import to_json

__all__ = ["EventStreams"]

MAX_STREAMS = 100
"""Each asks the database as often as drivers write: twice a second where there are folders."""
HEARTBEAT_S = 15.0
"""Proxies cut connections on which nothing came for a minute, or half of one."""

ADMIT_S = 5.0
"""A stream may last for days: whoever reads it is asked for again in so many seconds."""


class EventStreams:
    """Streams of one replica.

    Parameters
    ----------
    queue
        Where the events are.
    is_stopping
        Whether streams are to end now, so that the service can.
    as_json
        JSON types of an event, as a caller may see it.
    """

    def __init__(
        self,
        queue: JobQueue,
        is_stopping: Callable[[], bool],
        *,
        as_json: Callable[[object], Any] = to_json,
        max_streams: int = MAX_STREAMS,
        heartbeat_s: float = HEARTBEAT_S,
        admit_s: float = ADMIT_S,
    ) -> None:
        self._queue = queue
        self._is_stopping = is_stopping
        self._as_json = as_json
        self._max_streams = max_streams
        self._heartbeat_s = heartbeat_s
        self._admit_s = admit_s
        self._open = 0

    async def respond(
        self, job_id: str, after: str | None, admit: Callable[[], Awaitable[object]]
    ) -> StreamingResponse:
        """The events of a job behind the one of id ``after``.

        Parameters
        ----------
        job_id, after
            Which ones.
        admit
            Raises what whoever asked is refused by; the stream then ends without a word, and who
            opens it again hears why.

        Raises
        ------
        JobNotFoundError
            There is no such job.
        RequestError
            ``after`` is no id of an event.
        OverloadedError
            As many streams are open as may be.
        """
        if self._open >= self._max_streams:
            raise OverloadedError(
                f"expected fewer than {self._max_streams} open streams of events; ask for the job "
                "itself now and then"
            )
        self._open += 1  # before anything is waited for, or any number would pass
        try:
            first = await run_in_threadpool(self._queue.news, job_id, after)
        except BaseException:
            self._open -= 1
            raise
        return _Stream(self._stream(job_id, first, admit), self._end)

    def _end(self) -> None:
        self._open -= 1

    async def _stream(
        self, job_id: str, news: News, admit: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[bytes]:
        try:
            yield b"retry: 2000\n\n"
            told = admitted = time.monotonic()
            while True:
                if time.monotonic() - admitted >= self._admit_s:
                    await admit()
                    admitted = time.monotonic()
                for event_id, moment, event in news.events:
                    at = datetime.fromtimestamp(moment, UTC)
                    yield self._told(event_id, event.kind, {"time": at, **event.to_dict()})
                    told = time.monotonic()
                if news.is_over:
                    job = await run_in_threadpool(self._queue.get, job_id)
                    yield self._told(news.after, "end", {"kind": "end", "state": job.state})
                    return
                if self._is_stopping():
                    return
                if not news.events:
                    if time.monotonic() - told >= self._heartbeat_s:
                        yield b": nothing new\n\n"
                        told = time.monotonic()
                    await self._wait()
                news = await run_in_threadpool(self._queue.news, job_id, news.after)
        except (AuthenticationError, ForbiddenError):
            return

    async def _wait(self) -> None:
        """Until drivers may have written more, or the service is to end."""
        for _ in range(math.ceil(self._queue.poll_s / POLL_S)):
            if self._is_stopping():
                return
            await asyncio.sleep(POLL_S)

    def _told(self, event_id: str, kind: str, data: Mapping[str, Any]) -> bytes:
        text = json.dumps(self._as_json(data), allow_nan=False)
        return f"id: {event_id}\nevent: {kind}\ndata: {text}\n\n".encode()


class _Stream(StreamingResponse):
    """A stream that says when it is over, also if nobody was there any more to read it."""

    def __init__(self, content: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream")
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
