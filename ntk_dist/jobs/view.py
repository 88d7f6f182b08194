"""What a caller is shown of a job: its record, and where its run stands, in words of the wire."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from ntk_dist.database.records import JobRecord
from ntk_dist.standing import Standing
from ntk_dist.wire import Job, Progress

__all__ = ["view_job"]


def view_job(
    record: JobRecord, standing: Standing | None, now: datetime, usual_executor: str = "local"
) -> Job:
    """A job as a caller sees it.

    Parameters
    ----------
    record, standing
        What is kept of it, and what the journal of its run adds up to.
    now
        This moment.
    usual_executor
        That of jobs that name none.
    """
    executor = str(record.spec.get("executor", "local"))
    return Job(
        id=record.id,
        name=record.name,
        state=record.state,
        attempt=record.attempt,
        created=record.created,
        updated=record.updated,
        started=record.started,
        finished=record.finished,
        launcher=record.launcher,
        executor=executor,
        warnings=_executor_warnings(executor, usual_executor),
        is_cancelling=record.is_cancelling,
        is_resumable=record.state.is_resumable,
        progress=None if standing is None else _progress(standing, now),
        failure=record.failure,
        model_version=record.model_version,
        score=record.score,
        report=record.report,
        spec=record.spec,
    )


def _executor_warnings(executor: str, usual: str) -> tuple[str, ...]:
    if not _is_local(executor) or _is_local(usual):
        return ()
    return (
        f"executor {executor}: all blocks are computed where the driver is, and the workers of "
        f"{usual} have nothing to do: leave executor out of the job to use them",
    )


def _is_local(executor: str) -> bool:
    return executor.partition(":")[0] == "local"


def _progress(standing: Standing, now: datetime) -> Progress:
    seconds = now.timestamp()
    residual = standing.residual
    updated = standing.updated
    return Progress(
        phase=standing.phase,
        label=standing.label,
        note=standing.note(seconds),
        done=standing.done,
        total=standing.total,
        step=standing.step,
        residual=residual if residual is not None and math.isfinite(residual) else None,
        tol=standing.tol,
        fraction=standing.fraction,
        rate=standing.rate,
        eta_s=standing.eta_s(seconds),
        driver_bytes=standing.driver_bytes,
        resident_bytes=standing.resident_bytes,
        retries=standing.retries,
        lost=standing.lost,
        duplicates=standing.duplicates,
        failures=standing.failures,
        repairs=standing.repairs,
        seconds=dict(standing.seconds),
        updated=None if updated is None else datetime.fromtimestamp(updated, UTC),
    )
