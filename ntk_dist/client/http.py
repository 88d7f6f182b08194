"""Flows driven over httpx, on the caller's thread or event loop: the only I/O of a client."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
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
    Outcome,
    Pause,
    Request,
    Send,
    Step,
    Stream,
    Together,
    Unanswered,
    Work,
    proceed,
)
from ntk_dist.errors import (
    InvalidInputError,
    MissingDependencyError,
    ServiceTimeoutError,
    ServiceUnreachableError,
)

try:
    import httpx
except ImportError as error:
    raise MissingDependencyError(
        "the client needs httpx, which is not installed; pip install 'ntk_dist[client]'"
    ) from error

__all__ = ["AwaitingHttp", "BlockingHttp"]

CONNECT_S = 10.0
"""Longest that a connection may take to be made, in seconds: a network is quick or away."""
LISTEN_S = 60.0
"""A stream of events says something every 15 s; silence of four times that is a lost connection."""
KEEP_S = 3.0
"""An idle connection is used again within this, in seconds: many a proxy hangs up after 5 s, and a
request that is sent just then is lost."""

T = TypeVar("T")


class BlockingHttp(Blocking):
    """Flows on the thread of the caller.

    Parameters
    ----------
    url
        Of the service, without a slash at the end.
    headers
        Of every request.
    timeout_s
        Longest silence of the service that is borne, in seconds.
    verify
        Whether certificates are checked, or the file of the authorities to trust.
    transport
        What carries requests instead of the network.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        verify: bool | str | Path,
        transport: httpx.BaseTransport | None,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._listen_s = max(timeout_s, LISTEN_S)
        self._http = httpx.Client(
            headers=headers,
            timeout=_timeout(timeout_s),
            verify=_trust(url, verify),
            transport=transport,
            limits=httpx.Limits(keepalive_expiry=KEEP_S),
        )

    def run(self, steps: Flow[T]) -> T:
        """The result of a flow."""
        outcome = Outcome()
        with closing(steps), _Ear() as ear:
            while not isinstance(step := proceed(steps, outcome), Done):
                outcome = self._attempt(step, ear)
        result: T = step.value
        return result

    def iterate(self, steps: Stream[T]) -> Iterator[T]:
        """The values of a flow, each as soon as it is there."""
        outcome = Outcome()
        with closing(steps), _Ear() as ear:
            while not isinstance(step := proceed(steps, outcome), Done):
                if isinstance(step, Item):
                    yield step.value
                    outcome = Outcome()
                else:
                    outcome = self._attempt(step, ear)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _attempt(self, step: Step, ear: _Ear) -> Outcome:
        try:
            return Outcome(self._perform(step, ear))
        except Exception as error:
            return Outcome(error=error)

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
            return _answer(self._http.send(_built(self._http, self._url, request)))
        except httpx.HTTPError as error:
            return _unanswered(error, self._url, request, self._timeout_s)

    def _listen(self, request: Request, ear: _Ear) -> Answer | Unanswered:
        ear.close()
        built = _built(self._http, self._url, request, _timeout(self._listen_s))
        try:
            response = self._http.send(built, stream=True)
            ear.callback(response.close)
            if not response.is_success:
                response.read()
                return _answer(response)
        except httpx.HTTPError as error:
            return _unanswered(error, self._url, request, self._timeout_s)
        ear.request, ear.chunks = request, response.iter_bytes()
        return Answer(status=response.status_code, headers=response.headers)

    def _hear(self, ear: _Ear) -> bytes | Unanswered | None:
        assert ear.request is not None
        try:
            return next(ear.chunks, None)
        except httpx.HTTPError as error:
            return _unanswered(error, self._url, ear.request, self._listen_s, is_heard=True)


class AwaitingHttp(Awaiting):
    """Flows on the asyncio loop of the caller; takes what :class:`BlockingHttp` takes."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        verify: bool | str | Path,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._listen_s = max(timeout_s, LISTEN_S)
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=_timeout(timeout_s),
            verify=_trust(url, verify),
            transport=transport,
            limits=httpx.Limits(keepalive_expiry=KEEP_S),
        )

    async def run(self, steps: Flow[T]) -> T:
        """The result of a flow."""
        outcome = Outcome()
        with closing(steps):
            async with _AsyncEar() as ear:
                while not isinstance(step := proceed(steps, outcome), Done):
                    outcome = await self._attempt(step, ear)
        result: T = step.value
        return result

    async def iterate(self, steps: Stream[T]) -> AsyncIterator[T]:
        """The values of a flow, each as soon as it is there."""
        outcome = Outcome()
        with closing(steps):
            async with _AsyncEar() as ear:
                while not isinstance(step := proceed(steps, outcome), Done):
                    if isinstance(step, Item):
                        yield step.value
                        outcome = Outcome()
                    else:
                        outcome = await self._attempt(step, ear)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _attempt(self, step: Step, ear: _AsyncEar) -> Outcome:
        try:
            return Outcome(await self._perform(step, ear))
        except Exception as error:
            return Outcome(error=error)

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
            return _answer(await self._http.send(_built(self._http, self._url, request)))
        except httpx.HTTPError as error:
            return _unanswered(error, self._url, request, self._timeout_s)

    async def _listen(self, request: Request, ear: _AsyncEar) -> Answer | Unanswered:
        await ear.aclose()
        built = _built(self._http, self._url, request, _timeout(self._listen_s))
        try:
            response = await self._http.send(built, stream=True)
            ear.push_async_callback(response.aclose)
            if not response.is_success:
                await response.aread()
                return _answer(response)
        except httpx.HTTPError as error:
            return _unanswered(error, self._url, request, self._timeout_s)
        ear.request, ear.chunks = request, response.aiter_bytes()
        return Answer(status=response.status_code, headers=response.headers)

    async def _hear(self, ear: _AsyncEar) -> bytes | Unanswered | None:
        assert ear.request is not None
        try:
            return await anext(ear.chunks, None)
        except httpx.HTTPError as error:
            return _unanswered(error, self._url, ear.request, self._listen_s, is_heard=True)


class _Ear(ExitStack):
    """The one answer that a flow listens to."""

    request: Request | None = None
    chunks: Iterator[bytes] = iter(())


class _AsyncEar(AsyncExitStack):
    """The one answer that a flow listens to."""

    request: Request | None = None
    chunks: AsyncIterator[bytes]


def _timeout(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))


def _trust(url: str, verify: bool | str | Path) -> ssl.SSLContext | bool:
    if not url.startswith("https:"):
        return False  # reading the authorities takes 20 ms
    if isinstance(verify, bool):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise InvalidInputError(
            f"verify: expected True, False or a file of certificates, got {str(verify)!r}: {error}"
        ) from error


def _built(
    http: httpx.Client | httpx.AsyncClient,
    url: str,
    request: Request,
    timeout: httpx.Timeout | None = None,
) -> httpx.Request:
    return http.build_request(
        request.method,
        url + request.path,
        params=request.params or None,
        headers=dict(request.headers),
        content=request.body,
        timeout=timeout or http.timeout,
    )


def _answer(response: httpx.Response) -> Answer:
    return Answer(status=response.status_code, headers=response.headers, body=response.content)


def _unanswered(
    error: httpx.HTTPError, url: str, request: Request, timeout_s: float, is_heard: bool = False
) -> Unanswered:
    """Why there is no answer, in words of ours."""
    what = f"{request.method} {url}{request.path}"
    reason = str(error) or type(error).__name__
    was_sent, may_pass = True, True
    told: ServiceTimeoutError | ServiceUnreachableError
    match error:
        case (
            httpx.ConnectError()
            | httpx.ConnectTimeout()
            | httpx.ProxyError()
            | httpx.UnsupportedProtocol()
        ):
            was_sent, may_pass = False, not _is_distrust(error)
            hint = (
                "check the address, and that 'ntk-dist serve' runs there"
                if may_pass
                else "give the client, as verify, the file of the authority that signed it"
            )
            told = ServiceUnreachableError(
                f"expected a service at {url}, got no connection ({reason}); {hint}"
            )
        case httpx.TimeoutException():
            may_pass = is_heard
            told = ServiceTimeoutError(
                f"{what}: expected an answer within {timeout_s:g} s, got none ({reason}); ask for "
                "less at a time, or give the client a larger timeout_s"
            )
        case _:
            told = ServiceUnreachableError(
                f"{what}: the connection broke before all of the answer was there ({reason}); "
                "check that the service runs, and ask again"
            )
    told.__cause__ = error
    return Unanswered(error=told, was_sent=was_sent, may_pass=may_pass)


def _is_distrust(error: BaseException | None) -> bool:
    """Whether it is a certificate that is not trusted, now or later."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
