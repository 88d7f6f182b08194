"""What can be done with a job of the service: watch it, wait for it, end it, begin it again."""

from __future__ import annotations

from codecs import getincrementaldecoder
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ntk_dist import wire
from ntk_dist.client.events import TimedEvent, follow
from ntk_dist.client.exchange import Terms, ask, exchange, path_of
from ntk_dist.client.flow import Bound, Driver, Flow, Pause, Request, Stream, flow, stream
from ntk_dist.client.models import ModelHandle, found_model
from ntk_dist.errors import (
    ConflictError,
    JobCancelledError,
    JobError,
    JobFailedError,
    JobLostError,
    ServiceTimeoutError,
)
from ntk_dist.wire import Job, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["JobHandle", "error_of_job", "poll_s"]

FIRST_POLL_S = 0.1
LAST_POLL_S = 2.0
"""A job is asked after ever less often, from a small one to one of hours, in seconds."""
SHOWN_POLL_S = 0.5
"""Drivers write twice a second, so a bar that asked more often would show nothing new."""


class JobHandle(Bound[Driver]):
    """A job of the service.

    Methods answer at once on a :class:`Client`'s job, and are awaited on an
    :class:`AsyncClient`'s.
    """

    def __init__(self, driver: Driver, terms: Terms, job: Job) -> None:
        super().__init__(driver)
        self._terms = terms
        self._job = job

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.name}, {self.state}>"

    @property
    def info(self) -> Job:
        """All that was known of it when it was last asked after; :meth:`refresh` asks again."""
        return self._job

    @property
    def id(self) -> str:
        """What the service knows it by."""
        return self._job.id

    @property
    def name(self) -> str:
        """Its model is published under it."""
        return self._job.name

    @property
    def state(self) -> JobState:
        """When it was last asked after."""
        return self._job.state

    @flow
    def refresh(self) -> Flow[Job]:
        """How it stands now."""
        return (yield from self._refreshed(self._terms))

    @flow
    def wait(self, *, progress: bool = False, timeout_s: float | None = None) -> Flow[Job]:
        """How it stands when it has succeeded.

        A service that goes away and comes back within two minutes is waited for.

        Parameters
        ----------
        progress
            Show how far it is on standard error: a bar on a terminal, lines elsewhere.
        timeout_s
            Longest to wait, in seconds; None: as long as it takes.

        Raises
        ------
        JobFailedError, JobCancelledError, JobLostError
            It came to no model; the message is the job's own.
        ServiceTimeoutError
            It is still at work after ``timeout_s``, and goes on.
        """
        terms = self._terms.while_waiting()
        started, looks = terms.clock(), 0
        with _display(progress) as show:
            job = yield from self._refreshed(terms)
            show(job)
            while not job.state.is_over:
                pause_s, looks = poll_s(looks, is_shown=progress), looks + 1
                if timeout_s is not None:
                    left_s = started + timeout_s - terms.clock()
                    if left_s <= 0:
                        raise ServiceTimeoutError(
                            f"job {self.id} ({self.name}): expected its end within {timeout_s:g} "
                            f"s, got state {job.state}; it goes on: wait again, or cancel it"
                        )
                    pause_s = min(pause_s, left_s)
                yield Pause(pause_s)
                job = yield from self._refreshed(terms)
                show(job)
        if error := error_of_job(job):
            raise error
        return job

    @flow
    def cancel(self) -> Flow[Job]:
        """How it stands after it was asked to end; what it has computed is kept.

        Raises
        ------
        ConflictError
            It has succeeded, or failed, already.
        ForbiddenError
            It was submitted with a token of another name, and this one has not the scope ``admin``.
        """
        return (yield from self._told("cancel", is_repeatable=True))

    @flow
    def resume(self) -> Flow[Job]:
        """How it stands after it was queued again, to go on where it was.

        Raises
        ------
        ConflictError
            It is queued, at work, or has succeeded.
        ForbiddenError
            It was submitted with a token of another name, and this one has not the scope ``admin``.
        """
        # A second one may find it at work already, and be refused although all went well.
        return (yield from self._told("resume", is_repeatable=False))

    @flow
    def logs(self, start: int = 0) -> Flow[str]:
        """What its driver has written to standard output and error, from byte ``start`` on."""
        piece, start = yield from self._log_piece(start)
        found = [piece]
        while piece:
            piece, start = yield from self._log_piece(start)
            found.append(piece)
        # A character whose last bytes are not written yet is left for the next call.
        return getincrementaldecoder("utf-8")(errors="replace").decode(b"".join(found))

    @flow
    def log_piece(self, start: int = 0) -> Flow[tuple[bytes, int]]:
        """Some of what :meth:`logs` reads, as it was written, and the byte to go on from.

        A service sends 4 MiB at a time; nothing, if nothing more was written yet.
        """
        return (yield from self._log_piece(start))

    @stream
    def events(self, after: str | None = None) -> Stream[TimedEvent]:
        """Everything that happened in it, then what happens, until its end.

        Kinds of events that this version does not know are left out.

        Parameters
        ----------
        after
            ``id`` of the last event that is known; None for all of them.
        """
        request = Request(method="GET", path=f"{self._path}/events")
        yield from follow(self._terms.while_waiting(), request, after)

    @flow
    def model(self) -> Flow[ModelHandle[Driver]]:
        """The model that it left behind.

        Raises
        ------
        ConflictError
            It has not succeeded when it was last asked after.
        """
        version = self._job.model_version
        if version is None:
            raise ConflictError(
                f"job {self.id} ({self.name}): expected a job that has succeeded, got state "
                f"{self.state}; wait for it"
            )
        model = yield from found_model(self._terms, self.name, version)
        return ModelHandle(self._driver, self._terms, model)

    @property
    def _path(self) -> str:
        return path_of("v1", "jobs", self.id)

    def _refreshed(self, terms: Terms) -> Flow[Job]:
        self._job = yield from ask(terms, Job, Request(method="GET", path=self._path))
        return self._job

    def _told(self, verb: str, *, is_repeatable: bool) -> Flow[Job]:
        path = f"{self._path}:{verb}"
        request = Request(method="POST", path=path, is_repeatable=is_repeatable)
        self._job = yield from ask(self._terms, Job, request)
        return self._job

    def _log_piece(self, start: int) -> Flow[tuple[bytes, int]]:
        params = {"start": str(start)}
        request = Request(method="GET", path=f"{self._path}/logs", params=params)
        answer = yield from exchange(self._terms, request)
        told = answer.headers.get(wire.NEXT_START.lower(), "")
        return answer.body, int(told) if told.isdecimal() else start + len(answer.body)


def poll_s(looks: int, *, is_shown: bool) -> float:
    """Seconds until a job is looked at again after it was looked at ``looks`` times more."""
    longest_s = SHOWN_POLL_S if is_shown else LAST_POLL_S
    return min(longest_s, FIRST_POLL_S * 1.3 ** min(looks, 64))


def error_of_job(job: Job) -> JobError | None:
    """Why a job that is over left no model; None if it did, or is not over."""
    kinds = {
        JobState.FAILED: (JobFailedError, "it failed without a word"),
        JobState.CANCELLED: (JobCancelledError, "it was cancelled; what it computed is kept"),
        JobState.LOST: (JobLostError, "its driver is gone; resume it, and it goes on"),
    }
    if job.state not in kinds:
        return None
    kind, words = kinds[job.state]
    if job.failure is None:
        return kind(f"job {job.id} ({job.name}): {words}")
    error = kind(f"job {job.id} ({job.name}): {job.failure.message}")
    told = {"error": {"code": job.failure.code, "message": job.failure.message}}
    error.__cause__ = wire.error_of(JobFailedError.http_status, told)
    return error


def _display(wanted: bool) -> AbstractContextManager[Callable[[Job], None]]:
    if not wanted:
        return nullcontext(lambda job: None)
    from ntk_dist.client.display import JobDisplay

    return JobDisplay.on_screen()
