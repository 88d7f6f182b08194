"""The jobs of a service: submitted, looked at, cancelled and resumed.

What routes and commands call. Decisions are those of :mod:`ntk_dist.jobs.lifecycle`, records are
kept by :mod:`ntk_dist.database`, and what drivers report is read from the workspace. Nothing is
started here: that is the matter of the supervisor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ntk_dist.database import JobRecord
from ntk_dist.errors import IdempotencyError, OverloadedError, RequestError, ServiceError
from ntk_dist.events import Event
from ntk_dist.jobs import lifecycle
from ntk_dist.jobs.gram_map import GramMaps
from ntk_dist.jobs.parts import parts_of
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.jobs.standings import Standings
from ntk_dist.jobs.view import view_job
from ntk_dist.jobs.watch import Position, read_part
from ntk_dist.settings import ServiceSettings
from ntk_dist.standing import Standing
from ntk_dist.store.location import Location, open_place
from ntk_dist.store.place import AbstractPlace
from ntk_dist.wire import IDEMPOTENCY_KEY, KEY_PATTERN, Blocks, Job, JobPage, JobState

if TYPE_CHECKING:
    from ntk_dist.database.opened import Database

__all__ = ["MAX_PAGE", "HasLogs", "JobQueue", "News", "utc_now"]

MAX_PAGE = 200
RETRY_AFTER_S = 30.0
"""A full queue empties by whole jobs, which take minutes."""
_JOB_ID = re.compile(r"[0-9a-f]{24}")
_EVENT_ID = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,12})")


class HasLogs(Protocol):
    """A launcher, as far as it is needed here."""

    def logs(self, record: JobRecord, start: int) -> bytes:
        """What the driver printed, from byte ``start`` on."""
        ...


class News(NamedTuple):
    """Events of a job that somebody has not seen."""

    events: list[tuple[str, float, Event]]
    """Each with its id and the seconds since 1970 it came at."""
    after: str
    """Where to go on."""
    is_over: bool
    """Whether no more can come unless the job is resumed."""


def utc_now() -> datetime:
    """The moment of asking."""
    return datetime.now(UTC)


class JobQueue:
    """Jobs of one workspace; threads may share one.

    Parameters
    ----------
    workspace
        Where all of them keep what they compute.
    launchers
        Who keeps what drivers print, by the name in :attr:`JobRecord.launcher`.
    usual_executor
        That of jobs that name none: others hear what they do without.
    clock
        This moment in UTC; a test may bring its own.

    Raises
    ------
    StoreUnreachableError
        From every method: the database or the workspace does not answer.
    JobNotFoundError
        From every method that takes an id: there is no such job.
    """

    def __init__(
        self,
        database: Database,
        workspace: Location,
        settings: ServiceSettings,
        launchers: Mapping[str, HasLogs] | None = None,
        usual_executor: str = "local",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._jobs = database.jobs
        self._place = open_place(workspace)
        self._settings = settings
        self._launchers = dict(launchers or {})
        self._usual_executor = usual_executor
        self._clock = clock
        self._standings = Standings()
        self._maps = GramMaps(self._place)

    def submit(
        self,
        spec: JobSpec,
        *,
        owner: str = "",
        key: str | None = None,
        body_sha256: str = "",
        launcher: str | None = None,
    ) -> tuple[Job, bool]:
        """The job, and whether it is a new one: under a key used before it is that of before.

        Parameters
        ----------
        spec
            Its workspace is replaced by that of the queue.
        owner, key
            An idempotency key; one of another owner has nothing to do with it.
        body_sha256
            Of the request: what tells a repeated one from another.
        launcher
            In place of that of the settings.

        Raises
        ------
        RequestError
            The key is none.
        IdempotencyError
            The key was used for another job.
        OverloadedError
            As many jobs wait as may.
        """
        if key is not None and not re.fullmatch(KEY_PATTERN, key):
            raise RequestError(
                f"{IDEMPOTENCY_KEY}: expected 1 to 200 visible ASCII characters, got {key[:200]!r}"
            )
        if before := self.submitted_before(owner=owner, key=key, body_sha256=body_sha256):
            return before, False
        record = lifecycle.new_job(
            name=spec.name,
            spec=spec.model_copy(update={"workspace": self._place.location}).model_dump(
                mode="json"
            ),
            launcher=launcher or ("ray" if self._settings.ray_jobs_url else "process"),
            now=self._clock(),
            owner=owner,
            key=key,
            body_sha256=body_sha256,
        )
        try:
            is_new = self._jobs.insert(record, max_queued=self._settings.max_queued_jobs)
        except OverloadedError as error:
            error.retry_after_s = RETRY_AFTER_S
            raise
        if not is_new:
            assert key is not None
            known = self._jobs.by_key(owner, key)
            assert known is not None, "jobs are never removed"
            return self._replayed(known, body_sha256), False
        return self._view(record), True

    def submitted_before(self, *, owner: str, key: str | None, body_sha256: str) -> Job | None:
        """The job that a request under the same key has made before, if any.

        Raises
        ------
        IdempotencyError
            The key was used for another job.
        """
        known = None if key is None else self._jobs.by_key(owner, key)
        return None if known is None else self._replayed(known, body_sha256)

    def get(self, job_id: str) -> Job:
        """One job, with the progress of its last run."""
        return self._view(self._jobs.get(job_id))

    def page(
        self,
        state: JobState | None = None,
        name: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Jobs, the newest first; those that run with their progress.

        Raises
        ------
        RequestError
            ``after`` is not the ``next`` of a page, or ``limit`` is not from 1 to 200.
        """
        if after is not None and not _JOB_ID.fullmatch(after):
            raise RequestError(f"after: expected the 'next' of an earlier page, got {after[:64]!r}")
        if not 1 <= limit <= MAX_PAGE:
            raise RequestError(f"limit: expected 1 to {MAX_PAGE} jobs, got {limit}")
        found = self._jobs.page(state=state, name=name, after=after, limit=limit + 1)
        shown = found[:limit]
        return JobPage(
            items=tuple(self._view(one, only_running=True) for one in shown),
            next=shown[-1].id if len(found) > limit else None,
        )

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in every state."""
        return self._jobs.counts()

    def owner_of(self, job_id: str) -> str:
        """Name of the token that submitted a job; empty if none was asked for."""
        return self._jobs.get(job_id).owner

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """The job, which ends soon or has ended, and whether that is new.

        Raises
        ------
        ConflictError
            It has ended by itself.
        """
        return self._change(job_id, lambda record: lifecycle.cancel(record, self._clock()))

    def resume(self, job_id: str) -> tuple[Job, bool]:
        """The job, which waits for its turn to go on where it was, and whether that is new.

        Raises
        ------
        ConflictError
            It runs, or has succeeded.
        """
        return self._change(job_id, lambda record: lifecycle.resume(record, self._clock()))

    def logs(self, job_id: str, start: int = 0) -> bytes:
        """What the driver of the last attempt printed, from byte ``start`` on.

        Raises
        ------
        RequestError
            ``start`` is negative.
        """
        if start < 0:
            raise RequestError(f"start: expected a byte from 0 on, got {start}")
        record = self._jobs.get(job_id)
        if record.attempt == 0:
            return b""
        launcher = self._launchers.get(record.launcher)
        if launcher is None:
            raise ServiceError(
                f"job {job_id}: expected a launcher among {sorted(self._launchers)}, which keeps "
                f"the log, got {record.launcher!r}; ask the service that runs it"
            )
        return launcher.logs(record, start)

    @property
    def poll_s(self) -> float:
        """Seconds after which :meth:`news` may have some: so often drivers write them down."""
        return parts_of(self._place).flush_every_s

    def news(self, job_id: str, after: str | None = None) -> News:
        """Events of a job behind the one of id ``after``, as far as they are there; waits for none.

        Events of an attempt before the last one are passed over.

        Raises
        ------
        RequestError
            ``after`` is no id of an event.
        """
        # Read before the journal: once a job is over, nothing is written to it any more.
        record = self._jobs.get(job_id)
        attempt, position = _event_place(after)
        if attempt != record.attempt:
            position = Position(0, 0)
        if record.run is None:
            return News([], f"{record.attempt}.0.0", record.state.is_over)
        found, position = read_part(parts_of(self._run(record, record.run)), position)
        prefix = f"{record.attempt}."
        events = [(f"{prefix}{where}", moment, event) for where, moment, event in found]
        return News(events, f"{prefix}{position}", record.state.is_over and not events)

    def blocks(self, job_id: str) -> Blocks | None:
        """Which blocks of the job's Gram matrix are stored; None while it is not known which.

        Raises
        ------
        StoreError
            What is stored cannot be read.
        """
        record = self._jobs.get(job_id)
        standing = self._standing(record)
        key = standing.gram if standing else None
        if key is None and record.report:
            key = record.report.get("gram", {}).get("key")
        ended = f"{job_id} {record.attempt}" if record.state.is_over else None
        return None if key is None else self._maps.of(key, ended)

    def _replayed(self, known: JobRecord, body_sha256: str) -> Job:
        if known.body_sha256 != body_sha256:
            raise IdempotencyError(
                f"{IDEMPOTENCY_KEY} {known.idempotency_key}: expected the request that made job "
                f"{known.id}, got another one; use a new key for a new job"
            )
        return self._view(known)

    def _change(self, job_id: str, step: Callable[[JobRecord], JobRecord]) -> tuple[Job, bool]:
        before: list[JobRecord] = []

        def noted(record: JobRecord) -> JobRecord:
            before[:] = [record]
            return step(record)

        after = self._jobs.change(job_id, noted)
        return self._view(after), after is not before[0]

    def _view(self, record: JobRecord, *, only_running: bool = False) -> Job:
        shown = record.state is JobState.RUNNING or not only_running
        standing = self._standing(record) if shown else None
        return view_job(record, standing, self._clock(), self._usual_executor)

    def _standing(self, record: JobRecord) -> Standing | None:
        return None if record.run is None else self._standings.of(self._run(record, record.run))

    def _run(self, record: JobRecord, run: str) -> AbstractPlace:
        return self._place / "jobs" / record.name / run


def _event_place(after: str | None) -> tuple[int, Position]:
    if after is None:
        return 0, Position(0, 0)
    found = _EVENT_ID.fullmatch(after)
    if found is None:
        raise RequestError(f"expected the id of an event, got {after[:64]!r}")
    attempt, number, offset = map(int, found.groups())
    return attempt, Position(number, offset)
