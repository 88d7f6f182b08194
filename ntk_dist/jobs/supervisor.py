"""Looks after jobs: starts the drivers of those that wait, sees what became of those that run.

A service has one of these. Several on one database share the work by leases: whoever claims a job
looks after it, and renews the claim while it lives; a claim that was not renewed may be taken over.
What is decided is decided by :mod:`ntk_dist.jobs.lifecycle`, and every change is a swap of records
that fails if anybody else was faster, so no job is ever started twice.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ntk_dist.database import JobRecord
from ntk_dist.errors import ConflictError, ExecutorError, ExecutorUnreachableError, NTKDistError
from ntk_dist.jobs import lifecycle
from ntk_dist.jobs.journal import run_place
from ntk_dist.jobs.launch import AbstractLauncher
from ntk_dist.jobs.lifecycle import Observation
from ntk_dist.jobs.outcome import failure_of, read_outcome
from ntk_dist.jobs.queue import utc_now
from ntk_dist.jobs.standings import Standings
from ntk_dist.store.location import Location, open_place
from ntk_dist.wire import JobState

if TYPE_CHECKING:
    from ntk_dist.database.opened import Database

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

TICK_S = 1.0
LEASE_S = 15.0
"""A replica that was killed is missed after this while, in seconds; its drivers go on meanwhile."""
QUEUED_AT_A_TIME = 64


class Supervisor:
    """Looks after the jobs of one workspace.

    Parameters
    ----------
    launchers
        Who starts drivers, by the name in :attr:`JobRecord.launcher`.
    max_running
        Drivers at work at a time that this supervisor looks after.
    max_resumes
        How often in a row a job whose driver is gone is queued again without being asked to.
    lease_s
        Seconds for which a claim holds unless it is renewed, far below
        :data:`~ntk_dist.jobs.lifecycle.LONGEST_LEASE_S`; 0 for one who looks only now and then
        and leaves jobs to whoever asks next.
    clock
        This moment in UTC; a test may bring its own.
    """

    def __init__(
        self,
        database: Database,
        workspace: Location,
        launchers: Mapping[str, AbstractLauncher],
        *,
        max_running: int = 1,
        max_resumes: int = 3,
        lease_s: float = LEASE_S,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        """What this supervisor is called in leases."""
        self.last_pass: datetime | None = None
        """When all jobs were looked at last, which is once a second unless something hangs."""
        self._jobs = database.jobs
        self._place = open_place(workspace)
        self._launchers = launchers
        self._max_running = max_running
        self._max_resumes = max_resumes
        self._lease_s = lease_s
        self._clock = clock
        self._standings = Standings()
        self._awake = threading.Event()
        self._said: dict[str, str] = {}
        """Last trouble by what it is about: said once, not once a second."""
        self._seen: dict[tuple[str, int], datetime] = {}
        """When a driver was seen last, by job and attempt: one that waits in a cluster writes
        nothing, and is not lost because one question was not answered."""

    @contextmanager
    def run_in_thread(self, every_s: float = TICK_S) -> Iterator[None]:
        """Look after jobs, in a thread, as long as the body runs; drivers outlive it."""
        stopping = threading.Event()

        def go_on() -> None:
            while not stopping.is_set():
                try:
                    self.tick()
                except Exception as error:
                    # A database that does not answer, or a defect: jobs need somebody all the same.
                    self._say("all jobs", error)
                self._awake.wait(every_s)
                self._awake.clear()

        thread = threading.Thread(target=go_on, name="ntk_dist-supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            self._awake.set()
            thread.join()
            with suppress(NTKDistError):  # then the leases run out by themselves
                self.release()

    def wake(self) -> None:
        """Have the thread look now: a job came in, or somebody cancelled one."""
        self._awake.set()

    def tick(self) -> None:
        """One pass: look at the jobs that run, then start as many of those that wait as may be.

        Raises
        ------
        StoreUnreachableError
            The database does not answer. Trouble with one job is logged, and the others go on.
        """
        at_work = 0
        running = self._jobs.in_state(JobState.RUNNING)
        for record in running:
            if self.is_ours(record):
                with self.apart(f"job {record.id}"):
                    record = self.look_after(record)
                is_held = record.lease_holder == self.holder
                at_work += is_held and record.state is JobState.RUNNING
        attempts = {(record.id, record.attempt) for record in running}
        self._seen = {which: when for which, when in self._seen.items() if which in attempts}
        if at_work < self._max_running:
            self._start_some(self._max_running - at_work)
        self.last_pass = self._clock()

    def is_ours(self, record: JobRecord) -> bool:
        """Whether this supervisor looks after a job, or may: no other has a claim that holds."""
        is_held = lifecycle.is_held(record, self._clock())
        return not is_held or record.lease_holder == self.holder

    def look_after(self, record: JobRecord) -> JobRecord:
        """A job after what can be seen of its driver; unchanged where somebody was faster.

        One whose driver cannot be seen from here is not taken over: whoever holds it may see it,
        and stop it, and be only late.
        """
        now, seen = self._clock(), self._see(record)
        new = lifecycle.observe(record, seen, now)
        if record.state is JobState.RUNNING:
            new = lifecycle.requeue(new, now, self._max_resumes)
        is_out_of_sight = seen.driver == "unknown" and record.lease_holder != self.holder
        if new is record and self._is_due(record, now) and not is_out_of_sight:
            new = lifecycle.renew(record, self.holder, now, self._lease_s)
        if new is not record and not self._jobs.swap(record, new):
            return record
        if new.state is not record.state:
            log.info("job %s (%s): %s, %s", new.id, new.name, record.state, new.state)
        launcher = self._launchers.get(new.launcher)
        if new.state is JobState.RUNNING and new.is_cancelling and launcher:
            launcher.stop(new)
        return new

    def start(self, record: JobRecord) -> JobRecord | None:
        """A queued job with a driver that was started just now.

        None if somebody was faster, or a driver of an earlier attempt has still to end. A job
        whose driver cannot be started has failed, or waits again if that may change.

        Raises
        ------
        ExecutorUnreachableError
            Nobody answers who could start it; it waits again.
        """
        launcher = self._launchers[record.launcher]
        if record.attempt > 0 and not self._is_stopped(record, launcher):
            return None
        claimed = lifecycle.claim(record, self.holder, self._clock(), self._lease_s)
        if not self._jobs.swap(record, claimed):
            return None
        self._seen[claimed.id, claimed.attempt] = self._clock()
        try:
            handle = launcher.launch(claimed)
        except ExecutorUnreachableError:
            self._advance(claimed, lambda now_: lifecycle.give_back(now_, self._clock()))
            raise
        except NTKDistError as error:
            failure = failure_of(error)
            return self._advance(
                claimed, lambda now_: lifecycle.not_launched(now_, failure, self._clock())
            )
        try:
            return self._advance(
                claimed, lambda now_: lifecycle.launched(now_, handle, self._clock())
            )
        except ConflictError:
            # It took so long that somebody else gave it up, and may have started another one.
            launcher.stop(replace(claimed, handle=handle))
            return None

    def _is_stopped(self, record: JobRecord, launcher: AbstractLauncher) -> bool:
        """Whether no driver of the last attempt is at work; one that is there is told to end.

        It was taken for lost when it could not be seen, and may be seen again.
        """
        try:
            launcher.stop(record)
            return launcher.look(record) not in {"alive", "pending"}
        except ExecutorError as error:  # there is none, or its cluster is gone
            log.info("job %s, attempt %d: %s", record.id, record.attempt, error)
            return True

    def release(self) -> None:
        """Let others look after our jobs from now on."""
        now = self._clock()
        for record in self._jobs.in_state(JobState.RUNNING):
            if record.lease_holder == self.holder:
                self._jobs.swap(record, lifecycle.renew(record, self.holder, now, 0.0))

    def _start_some(self, room: int) -> None:
        queued = self._jobs.in_state(JobState.QUEUED, limit=QUEUED_AT_A_TIME)
        ready = self._ready({record.launcher for record in queued})
        for record in queued:
            if record.launcher in ready and room > 0:
                with self.apart(f"job {record.id}"):
                    room -= self.start(record) is not None

    def _ready(self, wanted: Collection[str]) -> set[str]:
        """Launchers that answer, asked before a job is claimed, so that it keeps its place."""
        ready = set()
        for who in wanted:
            with self.apart(f"launcher {who}"):
                if who not in self._launchers:
                    raise ConflictError(
                        f"jobs wait for launcher {who!r}, and there is {sorted(self._launchers)}: "
                        "set NTK_DIST_SERVICE__RAY_JOBS_URL, or cancel them"
                    )
                self._launchers[who].check()
                ready.add(who)
        return ready

    def _see(self, record: JobRecord) -> Observation:
        """What can be seen of a driver: of the process first, for it writes before it ends."""
        launcher = self._launchers.get(record.launcher)
        driver = launcher.look(record) if launcher else "unknown"
        which = record.id, record.attempt
        if driver in {"alive", "pending"}:
            self._seen[which] = self._clock()
        elif self._lease_s > 0:
            # Not looked at before by a service that has just started: it may have been seen a
            # moment ago by the one before.
            self._seen.setdefault(which, self._clock())
        if driver in {"alive", "pending"} or record.run is None:
            return Observation(driver=driver)
        run = run_place(self._place, record.name, record.run)
        outcome = read_outcome(run)
        if outcome is not None or driver == "gone":
            return Observation(driver=driver, outcome=outcome)
        standing = self._standings.of(run)
        moments = [self._seen[which]] if which in self._seen else []
        if standing is not None and standing.updated is not None:
            moments.append(datetime.fromtimestamp(standing.updated, UTC))
        return Observation(driver=driver, heard=max(moments, default=None))

    def _is_due(self, record: JobRecord, now: datetime) -> bool:
        """Whether half of the lease is over."""
        half = timedelta(seconds=self._lease_s / 2)
        is_running = record.state is JobState.RUNNING and self._lease_s > 0
        if not is_running or record.lease_until is None:
            return is_running
        return record.lease_until - now < half or not lifecycle.is_held(record, now)

    def _advance(self, claimed: JobRecord, step: Callable[[JobRecord], JobRecord]) -> JobRecord:
        """The job after a step of the attempt that was claimed.

        Raises
        ------
        ConflictError
            Another attempt has begun.
        """

        def of_this_attempt(record: JobRecord) -> JobRecord:
            if record.attempt != claimed.attempt:
                raise ConflictError(
                    f"job {record.id}: expected attempt {claimed.attempt}, got {record.attempt}"
                )
            return step(record)

        return self._jobs.change(claimed.id, of_this_attempt)

    @contextmanager
    def apart(self, what: str) -> Iterator[None]:
        """Keep trouble with one thing from the others: it is said once, and the body ends."""
        try:
            yield
        except NTKDistError as error:
            self._say(what, error)
        else:
            self._said.pop(what, None)

    def _say(self, what: str, error: Exception) -> None:
        if self._said.get(what) != str(error):
            self._said[what] = str(error)
            is_ours = isinstance(error, NTKDistError)
            log.warning("%s: %s", what, error, exc_info=None if is_ours else error)
