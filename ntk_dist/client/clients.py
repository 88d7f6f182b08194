"""The two clients: one that blocks and one that awaits, and all that both can do."""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ntk_dist.client.arguments import (
    checked_key,
    checked_timeout,
    checked_token,
    checked_url,
    headers_of,
    masked,
)
from ntk_dist.client.exchange import Terms, ask, path_of
from ntk_dist.client.flow import (
    Awaiting,
    Blocking,
    Bound,
    Driver,
    Flow,
    Item,
    Request,
    Stream,
    Work,
    flow,
    stream,
)
from ntk_dist.client.jobs import JobHandle
from ntk_dist.client.models import ModelHandle, found_model
from ntk_dist.client.patience import Patience
from ntk_dist.client.submission import JobLike, body_of, read_job, uploaded
from ntk_dist.client.uploads import Content, delivered
from ntk_dist.errors import InvalidInputError
from ntk_dist.wire import (
    IDEMPOTENCY_KEY,
    JSON,
    Job,
    JobPage,
    JobState,
    ModelList,
    Upload,
    Version,
)

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "Client"]

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT_S = 90.0
"""A service gives a prediction up after 60 s unless it is told otherwise, and says so."""
DEFAULT_RETRIES = 5
DEFAULT_PARALLEL = 4
"""Two pieces at work and two on their way keep a service busy; more would only wait there."""


class _AnyClient(Bound[Driver]):
    """What both clients can do.

    Every method raises what the service raised, :class:`ServiceUnreachableError` if there is none,
    and :class:`ServiceTimeoutError` if it is silent for too long.
    """

    def __init__(self, driver: Driver, terms: Terms, token: str | None) -> None:
        super().__init__(driver)
        self._terms = terms
        self._token = token

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._terms.url!r}, token={masked(self._token)})"

    @flow
    def version(self) -> Flow[Version]:
        """Which service answers."""
        return (yield from ask(self._terms, Version, _get("version")))

    @flow
    def submit(
        self, job: JobLike, *, key: str | None = None, upload: bool = False
    ) -> Flow[JobHandle[Driver]]:
        """The job, queued.

        Parameters
        ----------
        job
            A job file, or what would be in it. An architecture in a file of its own is sent along,
            and the workspace of a job file is not: the service has its own.
        key
            A second submission under the same key is the same job, whoever makes it: give one, and
            a script that is run again submits nothing twice. None: one of this call, so that its
            own retries submit nothing twice.
        upload
            Send the data too, which are files here (or arrays, in a mapping), and have the job read
            them there. Every call makes new uploads, which under a key of an earlier one is
            refused as another job: with a key, upload first, and name what :meth:`upload` returns.

        Raises
        ------
        JobSpecError
            It is no job that the service accepts; every problem is named with its place.
        ForbiddenError
            It names data or an executor that jobs of the service may not use.
        IdempotencyError
            Another job was submitted under ``key``.
        UnreadableDataError
            A file to upload cannot be read.
        """
        chosen = checked_key(key) if key is not None else uuid.uuid4().hex
        spec = yield Work(partial(read_job, job))
        if upload:
            spec = yield from uploaded(self._terms, spec)
        request = Request(
            method="POST",
            path=path_of("v1", "jobs"),
            headers={"Content-Type": JSON, IDEMPOTENCY_KEY: chosen},
            body=body_of(spec),
        )
        found = yield from ask(self._terms, Job, request)
        return JobHandle(self._driver, self._terms, found)

    @flow
    def job(self, id: str) -> Flow[JobHandle[Driver]]:
        """The job of that id.

        Raises
        ------
        JobNotFoundError
            There is none.
        """
        found = yield from ask(self._terms, Job, _get("jobs", id))
        return JobHandle(self._driver, self._terms, found)

    @stream
    def jobs(
        self, *, state: JobState | str | None = None, name: str | None = None
    ) -> Stream[JobHandle[Driver]]:
        """All jobs, the newest first, asked for page by page.

        Parameters
        ----------
        state
            Only those in this state.
        name
            Only those of this name.
        """
        wanted = {"state": state and str(state), "name": name}
        params = {key: value for key, value in wanted.items() if value is not None}
        while True:
            page = yield from ask(self._terms, JobPage, _get("jobs", **params))
            for found in page.items:
                yield Item(JobHandle(self._driver, self._terms, found))
            if page.next is None:
                return
            params["after"] = page.next

    @flow
    def models(self) -> Flow[list[ModelHandle[Driver]]]:
        """The latest version of every model, by name."""
        found = yield from ask(self._terms, ModelList, _get("models"))
        return [ModelHandle(self._driver, self._terms, one) for one in found.items]

    @flow
    def model(self, name: str, version: int | None = None) -> Flow[ModelHandle[Driver]]:
        """A version of a model; None for the latest.

        Raises
        ------
        ModelNotFoundError
            There is none.
        """
        found = yield from found_model(self._terms, name, version)
        return ModelHandle(self._driver, self._terms, found)

    @flow
    def upload(
        self, content: Content, *, filename: str | None = None, resume: str | None = None
    ) -> Flow[Upload]:
        """A file or an array, kept by the service for jobs that name its ``place``.

        Parameters
        ----------
        content
            The file, or an array, which becomes an ``.npy`` file.
        filename
            Whose suffix says what it is; None: that of the file, or ``array.npy``.
        resume
            Id of an upload of the same content that was cut off: only what is missing is sent.

        Raises
        ------
        UnreadableDataError
            It is no file that can be read.
        RequestTooLargeError
            It is larger than the service takes.
        ConflictError
            ``resume`` is of other content.
        """
        return (yield from delivered(self._terms, content, filename, resume))


class Client(_AnyClient[Blocking]):
    """A service, for programs that wait for its answers; several threads may use one client.

    Parameters
    ----------
    url
        Of the service.
    token
        As ``ntk-dist token create`` printed it; None for that in ``NTK_DIST_TOKEN``, if any.
    timeout_s
        Longest silence of the service while it answers, in seconds.
    retries
        How often a request is repeated that may be: one that the service has not begun with, or
        that does no harm twice. All tries begin within a minute.
    verify
        Whether certificates are checked, or the file of the authorities to trust.
    transport
        What carries requests instead of the network, as httpx has them.

    Raises
    ------
    InvalidInputError
        An argument makes no sense. Nothing is sent yet.
    MissingDependencyError
        httpx is not installed.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        verify: bool | str | Path = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        from ntk_dist.client.http import BlockingHttp
        from ntk_dist.client.line import Line

        token = checked_token(token)
        terms = Terms(url=checked_url(url), patience=Patience(retries=retries))
        line = Line(terms.url, headers_of(token), checked_timeout(timeout_s), verify)
        self._http = BlockingHttp(line, transport)
        super().__init__(self._http, terms, token)

    def close(self) -> None:
        """Close its connections; it can do nothing more."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_AnyClient[Awaiting]):
    """A service, for programs on an asyncio loop: what :class:`Client` does, awaited.

    Pieces of large arrays and parts of uploads are sent several at a time.

    Parameters
    ----------
    url, token, timeout_s, retries, verify, transport
        As those of :class:`Client`.
    parallel
        Requests at a time that one call makes.

    Raises
    ------
    InvalidInputError
        An argument makes no sense. Nothing is sent yet.
    MissingDependencyError
        httpx is not installed.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        verify: bool | str | Path = True,
        parallel: int = DEFAULT_PARALLEL,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        from ntk_dist.client.http import AwaitingHttp
        from ntk_dist.client.line import Line

        if parallel < 1:
            raise InvalidInputError(f"parallel: expected at least 1 request, got {parallel}")
        token = checked_token(token)
        patience = Patience(retries=retries)
        terms = Terms(url=checked_url(url), patience=patience, parallel=parallel)
        line = Line(terms.url, headers_of(token), checked_timeout(timeout_s), verify)
        self._http = AwaitingHttp(line, transport)
        super().__init__(self._http, terms, token)

    async def aclose(self) -> None:
        """Close its connections; it can do nothing more."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _get(*parts: str, **params: str) -> Request:
    return Request(method="GET", path=path_of("v1", *parts), params=params)
