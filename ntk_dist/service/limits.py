"""How much callers may send, how slowly, and how many at once."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ntk_dist.errors import OverloadedError, RequestError, RequestTooLargeError
from ntk_dist.units import format_bytes

__all__ = ["MAX_REQUESTS", "Limits"]

IDLE_S = 30.0
"""Longest that nothing of a body may come, in seconds."""
BODIES_HELD = 8
"""Bodies of the largest size that all requests together may hold in memory."""
MAX_REQUESTS = 1000
"""At a time: each has a connection, and a process has some thousand files by default."""
LIVE = "/v2/health/live"
"""Answered even then: a busy service must not be taken for a dead one."""


class Limits:
    """Middleware that counts the bytes of every body while they are read.

    A length that is announced is refused before a byte is read; one that is not (chunks) once it
    is passed. All bodies together are bounded too, so that a thousand callers cannot fill the
    memory with what each of them may send.

    Parameters
    ----------
    app
        What reads the bodies.
    max_body_bytes
        Of one request.
    idle_s
        Longest that nothing of a body may come, in seconds.
    max_requests
        That are answered at a time.

    Raises
    ------
    RequestTooLargeError
        A body is longer than that.
    OverloadedError
        There is no memory for it now, or as many requests are answered already as may be.
    RequestError
        It stopped coming.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        idle_s: float = IDLE_S,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._idle_s = idle_s
        self._max_requests = max_requests
        self._held = 0
        """Bytes of bodies."""
        self._running = 0
        """Requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._running >= self._max_requests and scope["path"] != LIVE:
            raise OverloadedError(f"the service answers {self._running} requests already")
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal():
            self._require_fits(int(announced[:20]), "announced")
        read, is_whole = 0, False

        async def counted() -> Message:
            nonlocal read, is_whole
            if is_whole:  # what comes now is only that the caller is gone
                return await receive()
            try:
                async with asyncio.timeout(self._idle_s):
                    message = await receive()
            except TimeoutError as error:
                raise RequestError(
                    f"expected the rest of the body within {self._idle_s:g} s, got {read} bytes "
                    "of it and then nothing"
                ) from error
            n_bytes = len(message.get("body", b""))
            read += n_bytes
            self._held += n_bytes
            is_whole = not message.get("more_body", False)
            self._require_fits(read, "and more of it came")
            if self._held > BODIES_HELD * self._max_body_bytes:
                raise OverloadedError("the service reads as many bodies as it has memory for")
            return message

        self._running += 1
        try:
            await self._app(scope, counted, send)
        finally:
            self._running -= 1
            self._held -= read

    def _require_fits(self, n_bytes: int, how: str) -> None:
        if n_bytes > self._max_body_bytes:
            raise RequestTooLargeError(
                f"expected a body of at most {format_bytes(self._max_body_bytes)}, got "
                f"{format_bytes(n_bytes)} {how}; send it in parts"
            )
