"""Jobs of a workspace where no service runs: looked after whenever somebody asks for them.

Drivers run by themselves, as processes of this machine or as jobs of a Ray cluster, and what they
do is in the workspace, so nothing has to stay beside them. Whoever asks has the drivers looked at
and the records brought up to date, and a driver started for each job that was submitted here and
has none yet. A job whose driver is gone stays lost until somebody resumes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from ntk_dist.database import JobRecord, database_url, open_database
from ntk_dist.errors import ServiceTimeoutError
from ntk_dist.events import EventSink, ignore
from ntk_dist.jobs.launch import STOP_S, AbstractLauncher, ProcessLauncher
from ntk_dist.jobs.queue import JobQueue
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.jobs.supervisor import Supervisor
from ntk_dist.jobs.watch import POLL_S
from ntk_dist.kernels.cache import user_cache
from ntk_dist.settings import get_settings
from ntk_dist.store.location import Location, open_place
from ntk_dist.wire import Job, JobState

__all__ = ["JobDesk", "state_folder"]

OWNER = "@desk"
"""Of jobs that were submitted here: those that wait are started by whoever looks at them, while
jobs of a service wait for their turn there."""
LOOK_EVERY_S = 2.0
"""How often a driver is looked at while somebody waits; for Ray it is a request to its head."""


def state_folder(workspace: Location) -> Path:
    """Where this machine keeps what belongs to the jobs of a workspace and to no model."""
    folder = open_place(workspace).folder
    return (user_cache() if folder is None else folder) / "service"


class JobDesk:
    """Submits, shows, cancels and resumes jobs; use it as a context manager.

    Parameters
    ----------
    workspace
        Whose jobs.
    database
        URL of their records; None for that of the settings, or for the file in the workspace.
    address
        ``http://HEAD:8265`` of the Ray cluster that drivers started from now on are to run on.
        Those that run on one are found without.

    Raises
    ------
    SettingsError
        The workspace is in object storage, and no database is given.
    StoreUnreachableError
        The workspace or the database cannot be opened.
    """

    def __init__(
        self, workspace: Location, *, database: str | None = None, address: str | None = None
    ) -> None:
        settings = get_settings().service
        self._address = address
        self._launchers: dict[str, AbstractLauncher] = {
            "process": ProcessLauncher(state_folder(workspace) / "drivers")
        }
        self._clusters: dict[str | None, AbstractLauncher] = {}
        self._database = open_database(database_url(workspace, database or settings.database_url))
        self._jobs = self._database.jobs
        self._queue = JobQueue(self._database, workspace, settings)
        self._supervisor = Supervisor(
            self._database, workspace, self._launchers, max_resumes=0, lease_s=0.0
        )

    def submit(self, spec: JobSpec, *, key: str | None = None) -> tuple[Job, bool]:
        """The job, its driver started, and whether it is new: a key used before finds its job.

        If its driver cannot be started now, it is started when somebody next looks at the job.

        Raises
        ------
        IdempotencyError
            The key was used for another job.
        ExecutorUnreachableError
            The Ray cluster does not answer; nothing was submitted.
        """
        who = "process" if self._address is None else "ray"
        self._launcher(who, self._address).check()
        said = json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()
        job, is_new = self._queue.submit(
            spec,
            owner=OWNER,
            key=key,
            body_sha256=hashlib.sha256(said).hexdigest(),
            launcher=who,
        )
        self._start(job.id)
        return self.job(job.id), is_new

    def jobs(self, state: JobState | None = None) -> Iterable[Job]:
        """All jobs, the newest first; trouble with one of them is logged, and the others shown."""
        for record in self._jobs.in_state(JobState.QUEUED, JobState.RUNNING):
            self._look_after(record)
        after = None
        while True:
            page = self._queue.page(state=state, after=after)
            yield from page.items
            if (after := page.next) is None:
                return

    def job(self, job_id: str) -> Job:
        """One job as it stands now.

        Raises
        ------
        JobNotFoundError
            There is none of that id.
        """
        self._look_after(self._jobs.get(job_id))
        return self._queue.get(job_id)

    def cancel(self, job_id: str) -> Job:
        """The job, ended; what it computed is kept.

        Raises
        ------
        ConflictError
            It has ended by itself.
        ServiceTimeoutError
            Its driver does not end.
        MissingDependencyError
            It runs on a Ray cluster, and Ray is not installed here.
        """
        self._launcher_of(self._jobs.get(job_id))
        self._queue.cancel(job_id)
        until = time.monotonic() + 2 * STOP_S
        while not (job := self.job(job_id)).state.is_over:
            if time.monotonic() > until:
                raise ServiceTimeoutError(
                    f"job {job_id}: expected its driver to end within {2 * STOP_S:g} s, got none; "
                    "its host may be another one, or not answer: look at the job again later"
                )
            time.sleep(POLL_S)
        return job

    def resume(self, job_id: str) -> Job:
        """The job with a new driver, which goes on from what is in the workspace.

        Raises
        ------
        ConflictError
            It runs, or has succeeded.
        ExecutorUnreachableError
            The Ray cluster does not answer; nothing has changed.
        """
        record = self._jobs.get(job_id)
        if record.state is not JobState.QUEUED:
            self._look_after(record)
        self._launcher_of(record).check()
        self._queue.resume(job_id)
        self._start(job_id)
        return self.job(job_id)

    def logs(self, job_id: str, start: int = 0) -> bytes:
        """What the last driver printed, from byte ``start`` on."""
        record = self._jobs.get(job_id)
        return self._launcher_of(record).logs(record, start)

    def follow(self, job_id: str, on_event: EventSink = ignore) -> Job:
        """The job when it is over; ``on_event`` hears what happens in its last run, as it comes.

        Raises
        ------
        StoreUnreachableError
            The workspace or the database does not answer any more.
        """
        looked, after = -math.inf, None
        while True:
            if time.monotonic() - looked >= LOOK_EVERY_S:
                self._look_after(self._jobs.get(job_id))
                looked = time.monotonic()
            news = self._queue.news(job_id, after)
            for _, _, event in news.events:
                on_event(event)
            after = news.after
            if news.is_over:
                return self._queue.get(job_id)
            if not news.events:
                time.sleep(min(self._queue.poll_s, LOOK_EVERY_S))

    def _look_after(self, record: JobRecord) -> None:
        """Bring a record up to date; one that cannot be is left as it is, and that is said."""
        with self._supervisor.apart(f"job {record.id}"):
            if record.state is JobState.QUEUED and record.owner == OWNER:
                self._launcher_of(record).check()
                self._supervisor.start(record)
            is_open = record.state in {JobState.RUNNING, JobState.LOST}
            if is_open and self._supervisor.is_ours(record):
                self._launcher_of(record)
                self._supervisor.look_after(record)

    def _start(self, job_id: str) -> None:
        """Start a job that waits, once a driver of an earlier attempt has ended."""
        until = time.monotonic() + 2 * STOP_S
        with self._supervisor.apart(f"job {job_id}"):
            while (record := self._jobs.get(job_id)).state is JobState.QUEUED:
                self._launcher_of(record)
                if self._supervisor.start(record) or time.monotonic() > until:
                    return
                time.sleep(POLL_S)

    def _launcher_of(self, record: JobRecord) -> AbstractLauncher:
        return self._launcher(record.launcher, self._address or record.handle.get("url"))

    def _launcher(self, who: str, url: str | None) -> AbstractLauncher:
        """Who starts drivers; that of Ray, which takes a second to import, when it is needed."""
        if who == "ray":
            if url not in self._clusters:
                from ntk_dist.jobs.ray_jobs import RayLauncher

                self._clusters[url] = RayLauncher(url)
            self._launchers[who] = self._clusters[url]
        return self._launchers[who]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
