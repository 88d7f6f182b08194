"""Drivers as real processes: started, found again, stopped, and killed at bad moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ntk_dist import stax
from ntk_dist.database import JobRecord, database_url, open_database
from ntk_dist.errors import StoreUnreachableError
from ntk_dist.jobs import launch, lifecycle
from ntk_dist.jobs.desk import state_folder
from ntk_dist.jobs.launch import ProcessLauncher
from ntk_dist.jobs.queue import JobQueue
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.jobs.supervisor import Supervisor
from ntk_dist.settings import ServiceSettings
from ntk_dist.wire import Job, JobState

CONV = stax.Conv(1, (3, 3), padding="SAME")
NET = stax.serial(CONV, stax.Relu(), CONV, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
N_BLOCKS = 10 * 11 // 2
ENOUGH_S = 120.0


def until(condition: Callable[[], Any], pause_s: float = 0.02) -> Any:
    """What ``condition`` comes to, once it comes to something."""
    deadline = time.monotonic() + ENOUGH_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(pause_s)
    return found


def job_file(folder: Path) -> dict[str, Any]:
    images = np.random.default_rng(1).normal(size=(150, 8, 8, 1))
    np.savez(folder / "data.npz", x=images, y=images.sum(axis=(1, 2, 3)))
    return {
        "name": "slow",
        "task": "regression",
        "data": {"x": f"{folder}/data.npz:x", "y": f"{folder}/data.npz:y"},
        "architecture": json.loads(NET.to_json()),
        "gram": {"block_rows": 15},
        "resources": {"driver_cpus": 1},
        "workspace": f"{folder}/ws",
    }


def blocks(folder: Path) -> int:
    return len(list(folder.glob("ws/grams/*/ntk/c/*/*[0-9]")))


class Service:
    """What a service is to a job: a queue, a supervisor, and drivers in processes."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "ws"
        self.database = open_database(database_url(self.workspace))
        self.launcher = ProcessLauncher(state_folder(self.workspace) / "drivers")
        launchers = {"process": self.launcher}
        self.queue = JobQueue(self.database, self.workspace, ServiceSettings(), launchers)
        self.supervisor = Supervisor(self.database, self.workspace, launchers)

    def record(self, job: Job) -> JobRecord:
        return self.database.jobs.get(job.id)

    def wait(self, job: Job) -> Job:
        def over() -> Job | None:
            self.supervisor.tick()
            found = self.queue.get(job.id)
            return found if found.state.is_over else None

        return until(over, 0.2)

    def close(self) -> None:
        for record in self.database.jobs.page():
            if record.handle and self.launcher.look(record) == "alive":
                if record.state is JobState.RUNNING:  # the test has failed
                    os.killpg(record.handle["pid"], signal.SIGKILL)
                until(lambda record=record: self.launcher.look(record) == "gone")
        self.database.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.close()


def test_a_killed_driver_is_replaced_and_no_block_is_computed_again(
    service: Service, tmp_path: Path
) -> None:
    job, _ = service.queue.submit(JobSpec.model_validate(job_file(tmp_path)))
    service.supervisor.tick()
    first = service.record(job)
    until(lambda: blocks(tmp_path) >= 3)
    os.kill(first.handle["pid"], signal.SIGKILL)
    until(lambda: service.launcher.look(first) == "gone")
    kept = blocks(tmp_path)
    assert 3 <= kept < N_BLOCKS
    ended = service.wait(job)
    assert ended.state is JobState.SUCCEEDED, ended
    assert ended.report is not None
    assert ended.report["gram"]["n_computed"] == N_BLOCKS - kept
    assert (ended.attempt, service.record(job).resumes, ended.model_version) == (2, 1, 1)
    # A log is read on from where it was read to before, and belongs to the last attempt.
    log = service.queue.logs(job.id)
    assert b"computing Gram blocks: done" in log
    assert service.queue.logs(job.id, 10) == log[10:]
    assert service.launcher.logs(replace(first, attempt=9)) == b""


SUPERVISOR = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_launch import Service, JobSpec, job_file
folder = Path(sys.argv[2])
service = Service(folder)
service.queue.submit(JobSpec.model_validate(job_file(folder)))
with service.supervisor.run_in_thread():
    time.sleep(600)
"""


def test_a_driver_outlives_whoever_started_it(service: Service, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True) as first:
        until(lambda: blocks(tmp_path) >= 1 or first.poll() is not None)
        os.killpg(first.pid, signal.SIGKILL)
    (record,) = service.database.jobs.in_state(JobState.RUNNING)
    assert record.lease_holder is not None
    assert service.launcher.look(record) == "alive"
    ended = service.wait(service.queue.get(record.id))
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1), ended
    until(lambda: service.launcher.look(record) == "gone")


def record_of(tmp_path: Path, **changes: Any) -> JobRecord:
    now = datetime.now(UTC)
    record = lifecycle.new_job(name="a", spec={}, launcher="process", now=now)
    return replace(lifecycle.claim(record, "me", now, 60.0), **changes)


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have another program run in the place of drivers."""

    def put(program: str) -> None:
        command = [sys.executable, "-c", program]
        monkeypatch.setattr(launch, "driver_command", lambda *arguments: command)

    return put


def test_one_that_does_not_listen_is_killed_with_all_it_started(
    tmp_path: Path, stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(STUBBORN)
    launcher = ProcessLauncher(tmp_path)
    record = record_of(tmp_path)
    record = replace(record, handle=launcher.launch(record))
    child = int(until(lambda: launcher.logs(record)))
    launcher.stop(record)
    launcher.stop(record)
    time.sleep(0.2)
    assert launcher.look(record) == "alive"
    monkeypatch.setattr(launch, "STOP_S", 0.1)
    launcher.stop(record)
    until(lambda: launcher.look(record) == "gone")
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")
    launcher.stop(record)


SAYS_ITS_ENVIRONMENT = """
import json, os
print(json.dumps(dict(os.environ)))
"""


def test_a_driver_gets_its_cpus_and_no_secret_of_the_service(
    tmp_path: Path, stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(SAYS_ITS_ENVIRONMENT)
    monkeypatch.setenv("NTK_DIST_SERVICE__DATABASE_URL", "postgresql://somebody:hush@host/name")
    monkeypatch.setenv("NTK_DIST_SERVICE", '{"database_url": "postgresql://me:hush@host/name"}')
    monkeypatch.setenv("ntk_dist_service__database_url", "postgresql://them:hush@host/name")
    monkeypatch.setenv("NTK_DIST_TOKEN", "ntkd_1_hush")
    monkeypatch.setenv("NTK_DIST_BLOCK_MAX_BYTES", "12345")
    launcher = ProcessLauncher(tmp_path)
    record = record_of(tmp_path, spec={"resources": {"driver_cpus": 3}})
    record = replace(record, handle=launcher.launch(record))
    until(lambda: launcher.look(record) == "gone")
    told = json.loads(launcher.logs(record))
    assert all(launcher.logs(record, far) == b"" for far in (10**6, 2**62, 2**63 - 1))
    assert "hush" not in str(told)
    assert (told["NTK_DIST_THREADS"], told["NTK_DIST_BLOCK_MAX_BYTES"]) == ("3", "12345")
    assert int(told["NTK_DIST_SHARD_MAX_BYTES"]) == 2**31, "it may not be the only one here"


def test_a_driver_has_the_memory_for_blocks_that_the_settings_give(
    tmp_path: Path, stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(SAYS_ITS_ENVIRONMENT)
    (tmp_path / "settings.yaml").write_text("shard_max_bytes: 777\n")
    monkeypatch.setenv("NTK_DIST_SETTINGS_FILE", str(tmp_path / "settings.yaml"))
    launcher = ProcessLauncher(tmp_path)
    record = record_of(tmp_path)
    record = replace(record, handle=launcher.launch(record))
    until(lambda: launcher.look(record) == "gone")
    assert json.loads(launcher.logs(record))["NTK_DIST_SHARD_MAX_BYTES"] == "777"


def test_who_has_the_pid_of_a_driver_now_is_left_alone(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path)
    me = psutil.Process()
    handle = {"pid": me.pid, "created": me.create_time(), "host": os.uname().nodename}
    assert launcher.look(record_of(tmp_path, handle=handle)) == "alive"
    earlier = record_of(tmp_path, handle={**handle, "created": me.create_time() - 60})
    assert launcher.look(earlier) == "gone"
    launcher.stop(earlier)  # which would end this test
    elsewhere = record_of(tmp_path, handle={**handle, "host": "another"})
    assert launcher.look(elsewhere) == "unknown"
    launcher.stop(elsewhere)
    assert launcher.look(record_of(tmp_path)) == "unknown", "launched by somebody who was killed"


SLEEPS = """
import time
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="times of creation are all it has")
def test_a_step_of_the_clock_ends_no_driver(
    tmp_path: Path, stand_in: Callable[[str], None]
) -> None:
    stand_in(SLEEPS)
    launcher = ProcessLauncher(tmp_path)
    record = record_of(tmp_path)
    handle = launcher.launch(record)
    try:
        # What a clock that was set back or forth since makes of the time of creation.
        for step_s in (-5.0, 5.0, 86_400.0):
            stepped = {**handle, "created": handle["created"] + step_s}
            assert launcher.look(replace(record, handle=stepped)) == "alive", step_s
        for other in ({"ticks": handle["ticks"] + 1}, {"boot": "another"}):
            assert launcher.look(replace(record, handle={**handle, **other})) == "gone", other
        kept_by_an_older_version = {key: handle[key] for key in ("pid", "created", "host")}
        assert launcher.look(replace(record, handle=kept_by_an_older_version)) == "alive"
    finally:
        os.killpg(handle["pid"], signal.SIGKILL)
    until(lambda: launcher.look(replace(record, handle=handle)) == "gone")


def test_a_state_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnreachableError, match="file"):
        ProcessLauncher(tmp_path / "file").launch(record_of(tmp_path))
