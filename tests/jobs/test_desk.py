"""Jobs of a workspace without a service, where whoever asks has them started and looked at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntk_dist.database import JobRecord, database_url, open_database
from ntk_dist.errors import ExecutorUnreachableError, MissingDependencyError
from ntk_dist.jobs import launch, lifecycle
from ntk_dist.jobs.desk import JobDesk
from ntk_dist.jobs.launch import ProcessLauncher
from ntk_dist.jobs.queue import utc_now
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.wire import JobState


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    return JobSpec(
        name="waves",
        task="regression",
        data={"x": "/data/x.npy", "y": "/data/y.npy"},
        architecture=["Dense"],
        workspace=str(tmp_path),
    )


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobDesk]:
    """One whose drivers do nothing, and end when the test does."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    drivers: dict[int, subprocess.Popen[bytes]] = {}
    monkeypatch.setattr(launch, "driver_command", lambda *arguments: command)
    monkeypatch.setattr(launch, "_children", drivers)
    with JobDesk(tmp_path) as made:
        yield made
    for driver in drivers.values():
        driver.kill()
        driver.wait()


def put(tmp_path: Path, **about: str) -> JobRecord:
    record = lifecycle.new_job(
        **{"name": "a", "launcher": "process", **about}, spec={}, now=utc_now()
    )
    with open_database(database_url(tmp_path)) as database:
        database.jobs.insert(record)
    return record


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_job_is_started_by_who_looks_if_submitting_was_interrupted(
    desk: JobDesk, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(desk._supervisor, "start", interrupted)
        for key in ("first", "second"):
            with pytest.raises(KeyboardInterrupt):
                desk.submit(spec, key=key)
    second, is_new = desk.submit(spec, key="second")
    assert (second.attempt, is_new) == (1, False)
    assert [job.attempt for job in desk.jobs()] == [1, 1]


def test_a_job_that_could_not_be_launched_waits_and_is_started_later(
    desk: JobDesk, spec: JobSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: ProcessLauncher, record: JobRecord) -> None:
        raise ExecutorUnreachableError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(ProcessLauncher, "launch", away)
        job, is_new = desk.submit(spec)
    assert (job.state, is_new) == (JobState.QUEUED, True)
    assert "nobody answers" in caplog.text
    assert desk.job(job.id).attempt > job.attempt


def test_jobs_of_a_service_wait_for_their_turn_unless_somebody_resumes_them(
    desk: JobDesk, tmp_path: Path
) -> None:
    record = put(tmp_path, owner="")
    assert [job.state for job in desk.jobs()] == [JobState.QUEUED]
    assert desk.job(record.id).attempt == 0
    assert desk.resume(record.id).attempt == 1


def test_a_job_whose_launcher_is_missing_hides_no_other(
    desk: JobDesk,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delitem(sys.modules, "ntk_dist.jobs.ray_jobs", raising=False)
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    far = put(tmp_path, launcher="ray", owner="")
    with open_database(database_url(tmp_path)) as database:
        database.jobs.change(far.id, lambda job: lifecycle.claim(job, "me", utc_now(), 0.0))
    near, _ = desk.submit(spec)
    assert [job.id for job in desk.jobs()] == [near.id, far.id]
    assert desk.job(far.id).state is JobState.RUNNING
    assert f"job {far.id}: jobs of a Ray cluster need Ray" in caplog.text
    with pytest.raises(MissingDependencyError):
        desk.cancel(far.id)
    assert not desk.job(far.id).is_cancelling
