"""Jobs in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ntk_dist.database.records import JobRecord
from ntk_dist.database.rows import Rows
from ntk_dist.database.tables import JOBS
from ntk_dist.errors import JobNotFoundError, OverloadedError
from ntk_dist.wire import Failure, JobState, to_json

__all__ = ["Jobs"]


QUEUE_LOCK = 0x6E746B5F71756575
"""Held while the jobs that wait are counted and one is added: "ntk_queu" in ASCII."""


class Jobs(Rows[JobRecord]):
    """The table of jobs; ids ascend with the time they were made at."""

    _table, _kind = JOBS, JobRecord

    def insert(self, record: JobRecord, *, max_queued: int | None = None) -> bool:
        """Add a job; False, and nothing is added, if its owner used its idempotency key before.

        Parameters
        ----------
        record
            The job.
        max_queued
            Jobs that may be queued, this one included, however many are added at once; None for
            any number.

        Raises
        ------
        RequestError
            A text is too long, or a number too large.
        OverloadedError
            As many jobs are queued as may be.
        """
        row = self._row(record)
        try:
            if max_queued is None:
                with self._connector.connect() as connection:
                    connection.execute(insert(JOBS).values(row))
                return True
            queued = select(func.count()).where(JOBS.c.state == str(JobState.QUEUED))
            with self._connector.alone(QUEUE_LOCK) as connection:
                if (waiting := connection.scalar(queued) or 0) >= max_queued:
                    raise OverloadedError(
                        f"expected fewer than {max_queued} jobs that wait, got {waiting}; try "
                        "again later, or cancel some"
                    )
                connection.execute(insert(JOBS).values(row))
        except IntegrityError:
            # An id has 48 random bits of one millisecond, so it was the key.
            return False
        return True

    def get(self, job_id: str) -> JobRecord:
        """One job.

        Raises
        ------
        JobNotFoundError
            There is none of that id.
        """
        found = self._one(job_id)
        if found is None:
            raise JobNotFoundError(
                f"expected the id of a job, got {job_id!r}, which is none; list the jobs"
            )
        return found

    def by_key(self, owner: str, key: str) -> JobRecord | None:
        """The job that ``owner`` submitted under an idempotency key, if any."""
        is_it = (JOBS.c.owner == owner) & (JOBS.c.idempotency_key == key)
        found = self._all(select(JOBS).where(is_it))
        return found[0] if found else None

    def page(
        self,
        *,
        state: JobState | None = None,
        name: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> list[JobRecord]:
        """Jobs, the newest first: those older than the one of id ``after``."""
        wanted: list[ColumnElement[bool]] = []
        if state is not None:
            wanted.append(JOBS.c.state == str(state))
        if name is not None:
            wanted.append(JOBS.c.name == name)
        if after is not None:
            wanted.append(JOBS.c.id < after)
        return self._all(select(JOBS).where(*wanted).order_by(JOBS.c.id.desc()).limit(limit))

    def in_state(self, *states: JobState, limit: int | None = None) -> list[JobRecord]:
        """Jobs in one of some states, the oldest first."""
        wanted = JOBS.c.state.in_([str(state) for state in states])
        return self._all(select(JOBS).where(wanted).order_by(JOBS.c.id).limit(limit))

    def alive_since(self, moment: datetime) -> list[JobRecord]:
        """Jobs that are not over, and those that have changed since a moment."""
        is_not_over = JOBS.c.state.in_([str(state) for state in JobState if not state.is_over])
        return self._all(select(JOBS).where(is_not_over | (JOBS.c.updated >= moment)))

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in every state."""
        with self._connector.connect() as connection:
            found = connection.execute(select(JOBS.c.state, func.count()).group_by(JOBS.c.state))
            counted = {JobState(state): count for state, count in found}
        return {state: counted.get(state, 0) for state in JobState}

    def swap(self, old: JobRecord, new: JobRecord) -> bool:
        """Put ``new`` in the place of ``old``; False, and nothing is changed, if it is not there.

        Raises
        ------
        ValueError
            They are not one job, or ``new`` does not count its change: a defect of the caller.
        """
        if new.id != old.id or new.revision <= old.revision:
            raise ValueError(
                f"expected a later revision of job {old.id} than {old.revision}, got revision "
                f"{new.revision} of {new.id}"
            )
        is_it = (JOBS.c.id == old.id) & (JOBS.c.revision == old.revision)
        with self._connector.connect() as connection:
            done = connection.execute(update(JOBS).where(is_it).values(self._row(new)))
            return done.rowcount == 1

    def change(self, job_id: str, step: Callable[[JobRecord], JobRecord]) -> JobRecord:
        """The job after a step of :mod:`ntk_dist.jobs.lifecycle`, taken from what it is now.

        Whoever lost the race against another change reads again and repeats the step, which
        gives the record back as it is where there is nothing to change.

        Raises
        ------
        JobNotFoundError
            There is no such job.
        ConflictError
            As ``step`` does.
        """
        while True:
            old = self.get(job_id)
            new = step(old)
            if new is old or self.swap(old, new):
                return new

    def _row(self, record: JobRecord) -> dict[str, Any]:
        failure = None if record.failure is None else to_json(record.failure)
        return {**super()._row(record), "state": str(record.state), "failure": failure}

    def _record(self, row: Mapping[str, Any]) -> JobRecord:
        failure = None if row["failure"] is None else Failure(**row["failure"])
        return super()._record({**row, "state": JobState(row["state"]), "failure": failure})
