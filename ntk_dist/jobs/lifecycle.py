"""How a job comes from one state to another: pure functions of records, with no clock of their own.

::

    new_job ----------> QUEUED     give_back, resume, requeue lead back here
    claim               QUEUED  -> RUNNING
    observe             RUNNING -> SUCCEEDED, FAILED, CANCELLED (if asked for) or LOST
    observe, late       LOST    -> SUCCEEDED or FAILED
    cancel              QUEUED or LOST -> CANCELLED; RUNNING is marked, and observed later
    resume              FAILED, CANCELLED or LOST -> QUEUED
    requeue             LOST    -> QUEUED, so often, in the pass that finds it lost

Each function takes the record as it was read and gives back what should be in its place, or the
record itself where nothing changes; ``database.jobs`` swaps the two only if nobody was faster.
What is not allowed is a :class:`~ntk_dist.errors.ConflictError` that says what to do.

A run is named when the job is claimed, before anything is started: whoever finds a job whose
supervisor was killed in the middle of launching looks into the journal of that run, and starts
no second driver beside a first one.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ntk_dist.database.records import JobRecord
from ntk_dist.errors import ConflictError, JobLostError
from ntk_dist.standing import SILENT_S
from ntk_dist.wire import Failure, JobState

__all__ = [
    "Observation",
    "Outcome",
    "cancel",
    "claim",
    "give_back",
    "is_held",
    "launched",
    "new_job",
    "not_launched",
    "observe",
    "renew",
    "requeue",
    "resume",
    "run_name",
]

LONGEST_LEASE_S = 60.0
"""No claim is for longer, so one that seems to be was made by a clock that was wrong: it would hold
for as long as that was ahead. Clocks of two replicas may differ by the rest."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a driver wrote down at its very end."""

    state: Literal["succeeded", "failed", "interrupted"]
    version: int | None = None
    """Of the model it published."""
    score: float | None = None
    report: dict[str, Any] | None = None
    failure: Failure | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Outcome:
        """The outcome in the JSON of ``outcome.json``; keys of later versions are passed over.

        Raises
        ------
        ValueError
            It is none.
        """
        try:
            state = record["state"]
            if state == "succeeded":
                score = record.get("score")
                return cls(
                    state=state,
                    version=int(record["version"]),
                    score=float(score) if score is not None and math.isfinite(score) else None,
                    report=dict(record.get("report") or {}),
                )
            failure = Failure(code=str(record["code"]), message=str(record["message"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected the outcome of a driver, got {error!r}") from error
        if state not in {"failed", "interrupted"}:
            raise ValueError(f"expected succeeded, failed or interrupted, got {state!r}")
        return cls(state=state, failure=failure)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What can be seen of the driver of a job."""

    driver: Literal["pending", "alive", "gone", "unknown"]
    """``pending``: a cluster has not started it yet; ``unknown``: it is on another host, or the
    cluster does not answer."""
    outcome: Outcome | None = None
    heard: datetime | None = None
    """When its journal was written to last, or the driver was seen last."""


def new_job(
    *,
    name: str,
    spec: dict[str, Any],
    launcher: str,
    now: datetime,
    owner: str = "",
    key: str | None = None,
    body_sha256: str = "",
) -> JobRecord:
    """A job that waits for its turn.

    Its id has the millisecond first, so ids ascend, and 48 random bits.
    """
    return JobRecord(
        id=f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(6)}",
        name=name,
        spec=spec,
        launcher=launcher,
        owner=owner,
        idempotency_key=key,
        body_sha256=body_sha256,
        created=now,
        updated=now,
    )


def run_name(now: datetime, job_id: str) -> str:
    """What :mod:`ntk_dist.jobs.journal` calls a run that begins now."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{job_id[-4:]}"


def claim(record: JobRecord, holder: str, now: datetime, lease_s: float) -> JobRecord:
    """A queued job as that of replica ``holder``, which is to start its driver.

    Raises
    ------
    ConflictError
        It is not queued any more.
    """
    _require(record, {JobState.QUEUED}, "claimed")
    return _changed(
        record,
        now,
        state=JobState.RUNNING,
        attempt=record.attempt + 1,
        run=run_name(now, record.id),
        handle={},
        lease_holder=holder,
        lease_until=now + timedelta(seconds=lease_s),
        started=now,
        finished=None,
        failure=None,
    )


def launched(record: JobRecord, handle: Mapping[str, Any], now: datetime) -> JobRecord:
    """A claimed job whose driver was started and is found again by ``handle``.

    Raises
    ------
    ConflictError
        It does not run any more; the driver that was started has to be stopped.
    """
    _require(record, {JobState.RUNNING}, "launched")
    return _changed(record, now, handle=dict(handle))


def not_launched(record: JobRecord, failure: Failure, now: datetime) -> JobRecord:
    """A claimed job whose driver cannot be started, whoever tries.

    Raises
    ------
    ConflictError
        It does not run any more.
    """
    _require(record, {JobState.RUNNING}, "told to have failed")
    return _over(record, JobState.FAILED, now, failure=failure)


def give_back(record: JobRecord, now: datetime) -> JobRecord:
    """A claimed job whose driver was not started this time, in the queue again.

    One that somebody cancelled meanwhile is cancelled.

    Raises
    ------
    ConflictError
        It does not run any more.
    """
    _require(record, {JobState.RUNNING}, "given back")
    if record.is_cancelling:
        return _over(record, JobState.CANCELLED, now)
    return _queued(record, now)


def is_held(record: JobRecord, now: datetime) -> bool:
    """Whether somebody has a claim on a job that holds now."""
    if record.lease_until is None:
        return False
    return now < record.lease_until <= now + timedelta(seconds=LONGEST_LEASE_S)


def renew(record: JobRecord, holder: str, now: datetime, lease_s: float) -> JobRecord:
    """A running job that replica ``holder`` goes on looking after, or takes over.

    Raises
    ------
    ConflictError
        It does not run any more, or another replica looks after it.
    """
    _require(record, {JobState.RUNNING}, "looked after")
    if is_held(record, now) and record.lease_holder != holder:
        raise ConflictError(
            f"job {record.id}: expected nobody else to look after it, got {record.lease_holder} "
            f"until {record.lease_until}; leave it alone until then"
        )
    until = now + timedelta(seconds=lease_s)
    return _changed(record, record.updated, lease_holder=holder, lease_until=until)


def observe(record: JobRecord, seen: Observation, now: datetime) -> JobRecord:
    """What a job has come to, by what can be seen of its driver.

    What the driver wrote down counts most, also when it was taken for lost before. One that is
    gone without a word was cancelled, if somebody asked for that, or is lost. One that cannot be
    seen is gone when nothing has been heard of it for ``SILENT_S`` seconds.
    """
    if record.state not in {JobState.RUNNING, JobState.LOST}:
        return record
    outcome = seen.outcome
    if outcome is not None and outcome.state == "succeeded":
        return _over(
            record,
            JobState.SUCCEEDED,
            now,
            model_version=outcome.version,
            score=outcome.score,
            report=outcome.report,
        )
    if outcome is not None and outcome.state == "failed":
        return _over(record, JobState.FAILED, now, failure=outcome.failure)
    if record.state is JobState.LOST or (outcome is None and not _is_gone(record, seen, now)):
        return record
    if record.is_cancelling:
        return _over(record, JobState.CANCELLED, now)
    why = "its driver was interrupted" if outcome else "its driver is gone without a word"
    message = (
        f"{why}; its log may say more (ntk-dist jobs {record.id} --logs): resume the job, and it "
        "goes on from what is in the workspace"
    )
    return _over(
        record, JobState.LOST, now, failure=Failure(code=JobLostError.code, message=message)
    )


def cancel(record: JobRecord, now: datetime) -> JobRecord:
    """A job that is to end; at once if no driver works for it. Once more changes nothing.

    Raises
    ------
    ConflictError
        It has ended by itself.
    """
    if record.state is JobState.CANCELLED or record.is_cancelling:
        return record
    if record.state is JobState.RUNNING:
        return _changed(record, now, is_cancelling=True)
    _require(record, {JobState.QUEUED, JobState.LOST}, "cancelled")
    return _over(record, JobState.CANCELLED, now)


def resume(record: JobRecord, now: datetime) -> JobRecord:
    """A job that somebody wants to go on, in the queue again. Once more changes nothing.

    Raises
    ------
    ConflictError
        It runs, or has succeeded.
    """
    if record.state is JobState.QUEUED:
        return record
    _require(record, {state for state in JobState if state.is_resumable}, "resumed")
    return _queued(record, now, resumes=0)


def requeue(record: JobRecord, now: datetime, max_resumes: int) -> JobRecord:
    """A lost job in the queue again by itself; as it is after ``max_resumes`` times in a row."""
    if record.state is not JobState.LOST or record.resumes >= max_resumes:
        return record
    return _queued(record, now, resumes=record.resumes + 1)


def _is_gone(record: JobRecord, seen: Observation, now: datetime) -> bool:
    if seen.driver != "unknown":
        return seen.driver == "gone"
    last = max(moment for moment in (record.started, seen.heard) if moment is not None)
    return (now - last).total_seconds() > SILENT_S


def _require(record: JobRecord, states: set[JobState], verb: str) -> None:
    if record.state not in states:
        expected = " or ".join(sorted(states))
        raise ConflictError(
            f"job {record.id} cannot be {verb}: expected it {expected}, got {record.state}"
            + ("; wait for it, or cancel it first" if record.state is JobState.RUNNING else "")
        )


def _over(record: JobRecord, state: JobState, now: datetime, **changes: Any) -> JobRecord:
    ended: dict[str, Any] = {"is_cancelling": False, "lease_holder": None, "lease_until": None}
    found: dict[str, Any] = {"failure": None, **changes}
    return _changed(record, now, state=state, finished=now, **ended, **found)


def _queued(record: JobRecord, now: datetime, **changes: Any) -> JobRecord:
    return _changed(
        record,
        now,
        state=JobState.QUEUED,
        finished=None,
        failure=None,
        is_cancelling=False,
        lease_holder=None,
        lease_until=None,
        **changes,
    )


def _changed(record: JobRecord, now: datetime, **changes: Any) -> JobRecord:
    return replace(record, revision=record.revision + 1, updated=now, **changes)
