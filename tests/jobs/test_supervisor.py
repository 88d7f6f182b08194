"""What a supervisor does about every job, with drivers that do as a test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ntk_dist.database import JobRecord, database_url, open_database
from ntk_dist.errors import (
    DataError,
    ExecutorError,
    ExecutorUnreachableError,
    StoreUnreachableError,
)
from ntk_dist.events import JobEvent, ignore
from ntk_dist.jobs import lifecycle
from ntk_dist.jobs.journal import journaled, run_place
from ntk_dist.jobs.launch import AbstractLauncher, DriverState
from ntk_dist.jobs.lifecycle import Outcome
from ntk_dist.jobs.outcome import write_outcome
from ntk_dist.jobs.supervisor import LEASE_S, Supervisor
from ntk_dist.standing import SILENT_S
from ntk_dist.store.location import open_place
from ntk_dist.wire import Failure, JobState

SUCCEEDED = Outcome(state="succeeded", version=3, score=0.9, report={"n_rows": 7})
FAILED = Outcome(state="failed", failure=Failure(code="invalid_data", message="NaN in row 3"))
INTERRUPTED = Outcome(state="interrupted", failure=Failure(code="interrupted", message="stopped"))


class Script(AbstractLauncher):
    """Drivers that are in whatever state a test puts them in."""

    def __init__(self) -> None:
        self.launched: list[tuple[str, int]] = []
        self.stopped: list[str] = []
        self.calls: list[tuple[str, int]] = []
        """What was told to drivers, with the number of the attempt."""
        self.states: dict[str, DriverState] = {}
        self.unreachable = False
        self.refusal: Exception | None = None
        self.meanwhile: Any = lambda record: None
        """Called while a driver is launched."""

    def check(self) -> None:
        if self.unreachable:
            raise ExecutorUnreachableError("nobody answers")

    def launch(self, record: JobRecord) -> dict[str, Any]:
        if self.refusal:
            raise self.refusal
        self.meanwhile(record)
        self.launched.append((record.name, record.attempt))
        self.calls.append(("launch", record.attempt))
        self.states[record.name] = "alive"
        return {"number": len(self.launched)}

    def look(self, record: JobRecord) -> DriverState:
        return self.states.get(record.name, "unknown")

    def stop(self, record: JobRecord) -> None:
        self.stopped.append(record.name)
        self.calls.append(("stop", record.attempt))

    def logs(self, record: JobRecord, start: int = 0) -> bytes:
        return b""


class Scene:
    """A database, a clock, drivers, and supervisors of them."""

    def __init__(self, folder: Any) -> None:
        self.now = datetime(2026, 1, 31, 12, tzinfo=UTC)
        self.folder = folder
        self.database = open_database(database_url(folder))
        self.jobs = self.database.jobs
        self.drivers = Script()

    def supervisor(self, **options: Any) -> Supervisor:
        options = {"launchers": {"process": self.drivers}, **options}
        return Supervisor(self.database, self.folder, clock=lambda: self.now, **options)

    def submit(self, *names: str, launcher: str = "process") -> None:
        for name in names:
            self.now += timedelta(milliseconds=1)
            self.jobs.insert(lifecycle.new_job(name=name, spec={}, launcher=launcher, now=self.now))

    def job(self, name: str) -> JobRecord:
        (found,) = self.jobs.page(name=name)
        return found

    def comes_to(self, name: str, outcome: Outcome) -> None:
        """The driver of a job writes down its end, and ends."""
        run = self.job(name).run
        assert run is not None
        write_outcome(run_place(open_place(self.folder), name, run), outcome)
        self.drivers.states[name] = "gone"

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def scene(tmp_path: Any) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.database.close()


def test_as_many_run_as_may_the_oldest_first(scene: Scene) -> None:
    supervisor = scene.supervisor(max_running=2)
    scene.submit("a", "b", "c")
    supervisor.tick()
    supervisor.tick()
    assert scene.drivers.launched == [("a", 1), ("b", 1)]
    job = scene.job("a")
    assert (job.state, job.handle, job.lease_holder) == (
        JobState.RUNNING,
        {"number": 1},
        supervisor.holder,
    )
    scene.comes_to("a", SUCCEEDED)
    supervisor.tick()
    assert scene.drivers.launched[2:] == [("c", 1)]
    job = scene.job("a")
    assert (job.state, job.model_version, job.score) == (JobState.SUCCEEDED, 3, 0.9)
    assert (job.report, job.lease_holder) == ({"n_rows": 7}, None)
    assert supervisor.last_pass == scene.now


def test_a_failure_is_told_as_the_driver_wrote_it(scene: Scene) -> None:
    supervisor = scene.supervisor()
    scene.submit("a")
    supervisor.tick()
    scene.comes_to("a", FAILED)
    supervisor.tick()
    supervisor.tick()
    assert (scene.job("a").state, scene.job("a").failure) == (JobState.FAILED, FAILED.failure)
    assert scene.drivers.launched == [("a", 1)]


@pytest.mark.parametrize("outcome", [None, INTERRUPTED])
def test_a_driver_that_is_gone_is_replaced_as_often_as_may_be(
    scene: Scene, outcome: Outcome | None
) -> None:
    supervisor = scene.supervisor(max_resumes=2)
    scene.submit("a")
    supervisor.tick()
    runs = {scene.job("a").run}
    for attempt in (2, 3):
        scene.later(1)
        if outcome:
            scene.comes_to("a", outcome)
        scene.drivers.states["a"] = "gone"
        supervisor.tick()
        runs.add(scene.job("a").run)
        assert scene.drivers.launched[-1] == ("a", attempt)
    assert len(runs) == 3
    scene.drivers.states["a"] = "gone"
    supervisor.tick()
    supervisor.tick()
    job = scene.job("a")
    assert (job.state, job.attempt, job.resumes) == (JobState.LOST, 3, 2)
    assert job.failure is not None
    assert "resume" in job.failure.message


def test_one_that_cannot_be_seen_is_believed_while_its_journal_speaks(scene: Scene) -> None:
    supervisor = scene.supervisor(max_resumes=0)
    scene.now = datetime.now(UTC)  # journals have the time of the machine
    scene.submit("a")
    supervisor.tick()
    scene.drivers.states["a"] = "unknown"
    scene.later(SILENT_S - 1)
    supervisor.tick()
    assert scene.job("a").state is JobState.RUNNING
    with journaled(scene.folder, "a", ignore, scene.job("a").run) as events:
        events(JobEvent(state="started", job="a"))
    scene.now = datetime.now(UTC) + timedelta(seconds=SILENT_S - 1)
    scene.supervisor(max_resumes=0, lease_s=0).tick()  # its lease has run out: anybody may look
    assert scene.job("a").state is JobState.RUNNING
    scene.later(3)
    supervisor.tick()
    assert scene.job("a").state is JobState.LOST


def test_one_that_a_cluster_has_not_started_yet_is_waited_for(scene: Scene) -> None:
    supervisor = scene.supervisor()
    scene.submit("a")
    supervisor.tick()
    scene.drivers.states["a"] = "pending"
    scene.later(10 * SILENT_S)
    supervisor.tick()
    assert scene.job("a").state is JobState.RUNNING


def test_one_that_waits_in_a_cluster_is_not_lost_by_one_question_without_an_answer(
    scene: Scene,
) -> None:
    supervisor = scene.supervisor()
    scene.submit("a")
    supervisor.tick()
    scene.drivers.states["a"] = "pending"
    scene.later(20 * SILENT_S)
    supervisor.tick()
    scene.drivers.states["a"] = "unknown"
    for seconds in (1, SILENT_S - 1):
        scene.later(seconds)
        supervisor.tick()
        assert scene.job("a").state is JobState.RUNNING
    supervisor.release()
    after_a_restart = scene.supervisor()
    for _ in range(2):
        after_a_restart.tick()
        assert scene.job("a").state is JobState.RUNNING
        scene.later(SILENT_S)
    scene.later(1)
    after_a_restart.tick()
    assert scene.drivers.calls == [("launch", 1), ("stop", 1), ("launch", 2)]


def test_a_driver_that_comes_into_sight_again_ends_before_the_next_one_is_started(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = scene.supervisor(max_running=2)
    scene.submit("a")
    supervisor.tick()
    scene.drivers.states["a"] = "unknown"
    scene.later(SILENT_S + 1)
    asked = iter(["unknown", "alive", "alive", "gone"])
    monkeypatch.setattr(scene.drivers, "look", lambda record: next(asked))
    for state in (JobState.QUEUED, JobState.QUEUED, JobState.RUNNING):
        supervisor.tick()
        assert scene.job("a").state is state
    assert scene.drivers.calls == [
        ("launch", 1),
        ("stop", 1),
        ("stop", 1),
        ("stop", 1),
        ("launch", 2),
    ]


def test_a_driver_on_another_host_is_left_to_who_sees_it_until_it_is_silent(scene: Scene) -> None:
    here, there = Script(), Script()
    owner = scene.supervisor(launchers={"process": there})
    other = scene.supervisor(launchers={"process": here})
    scene.submit("a", "b")
    owner.tick()
    here.states["a"] = "unknown"
    scene.later(LEASE_S + 1)
    other.tick()
    assert scene.job("a").lease_holder == owner.holder
    assert here.launched == [("b", 1)], "the job of somebody else takes no place of its own"
    scene.jobs.change(scene.job("a").id, lambda job: lifecycle.cancel(job, scene.now))
    owner.tick()
    assert there.stopped == ["a"]
    # The host is gone.
    scene.later(LEASE_S + 1)
    other.tick()
    assert scene.job("a").state is JobState.RUNNING
    scene.later(SILENT_S + 1)
    other.tick()
    assert scene.job("a").state is JobState.CANCELLED


def test_a_job_that_is_cancelled_is_told_until_it_has_ended(scene: Scene) -> None:
    supervisor = scene.supervisor()
    scene.submit("a")
    supervisor.tick()
    scene.jobs.change(scene.job("a").id, lambda job: lifecycle.cancel(job, scene.now))
    supervisor.tick()
    supervisor.tick()
    assert scene.drivers.stopped == ["a", "a"]
    assert scene.job("a").state is JobState.RUNNING
    scene.comes_to("a", INTERRUPTED)
    supervisor.tick()
    assert scene.job("a").state is JobState.CANCELLED
    supervisor.tick()
    assert (scene.drivers.stopped, scene.drivers.launched) == (["a", "a"], [("a", 1)])


def test_jobs_wait_for_a_launcher_that_does_not_answer_and_others_do_not(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    away = Script()
    away.unreachable = True
    supervisor = scene.supervisor(launchers={"process": scene.drivers, "ray": away}, max_running=9)
    scene.submit("far", launcher="ray")
    scene.submit("near")
    scene.submit("lost", launcher="rocket")
    supervisor.tick()
    supervisor.tick()
    assert (scene.job("far").state, scene.job("far").attempt) == (JobState.QUEUED, 0)
    assert scene.job("near").state is JobState.RUNNING
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, "said once, not at every pass"
    assert "launcher ray: nobody answers" in told
    assert any("jobs wait for launcher 'rocket'" in line for line in told)
    away.unreachable = False
    supervisor.tick()
    assert away.launched == [("far", 1)]


@pytest.mark.parametrize(
    ("refusal", "state", "code"),
    [
        (StoreUnreachableError("cannot write"), JobState.FAILED, "store_unreachable"),
        (DataError("no"), JobState.FAILED, "invalid_data"),
        (ExecutorUnreachableError("gone since"), JobState.QUEUED, None),
        (ExecutorError("no such resource"), JobState.FAILED, "executor_error"),
    ],
)
def test_a_driver_that_cannot_be_started(
    scene: Scene, refusal: Exception, state: JobState, code: str | None
) -> None:
    supervisor = scene.supervisor()
    scene.submit("a")
    scene.drivers.refusal = refusal
    supervisor.tick()
    job = scene.job("a")
    assert (job.state, job.failure and job.failure.code) == (state, code)
    assert job.lease_holder is None
    scene.drivers.refusal = None
    supervisor.tick()
    assert scene.drivers.launched == ([("a", 2)] if state is JobState.QUEUED else [])


def test_a_job_cancelled_while_its_driver_is_launched_is_stopped(scene: Scene) -> None:
    scene.submit("a")
    scene.drivers.meanwhile = lambda record: scene.jobs.change(
        record.id, lambda job: lifecycle.cancel(job, scene.now)
    )
    supervisor = scene.supervisor()
    supervisor.tick()
    assert scene.job("a").handle == {"number": 1}
    supervisor.tick()
    assert scene.drivers.stopped == ["a"]


def test_a_launch_that_others_gave_up_is_undone(scene: Scene) -> None:
    other = scene.supervisor(max_resumes=1)

    def give_up(record: JobRecord) -> None:
        scene.drivers.meanwhile = lambda record: None
        scene.drivers.states["a"] = "gone"
        scene.later(LEASE_S + 1)
        other.tick()

    scene.submit("a")
    scene.drivers.meanwhile = give_up
    scene.supervisor().tick()
    assert scene.drivers.calls == [("stop", 1), ("launch", 2), ("launch", 1), ("stop", 1)]
    job = scene.job("a")
    assert (job.attempt, job.handle, job.lease_holder) == (2, {"number": 1}, other.holder)


def test_another_one_takes_over_when_the_lease_has_run_out(scene: Scene) -> None:
    first, second = scene.supervisor(), scene.supervisor()
    scene.submit("a")
    first.tick()
    for _ in range(5):  # renewed in time, so it never runs out
        scene.later(LEASE_S * 0.6)
        first.tick()
        second.tick()
        assert scene.job("a").lease_holder == first.holder
    scene.drivers.states["a"] = "gone"
    second.tick()
    assert scene.job("a").state is JobState.RUNNING, "not its business yet"
    scene.drivers.states["a"] = "alive"
    scene.later(LEASE_S + 1)
    second.tick()
    assert scene.job("a").lease_holder == second.holder
    second.release()
    first.tick()
    assert scene.job("a").lease_holder == first.holder
    assert scene.drivers.launched == [("a", 1)]


def test_a_claim_made_by_a_clock_that_was_wrong_is_not_waited_for(scene: Scene) -> None:
    first, second = scene.supervisor(), scene.supervisor()
    scene.submit("a")
    scene.later(86_400)
    first.tick()
    scene.later(-86_400)  # the clock was set right, and the first one is gone
    second.tick()
    record = scene.job("a")
    assert record.lease_holder == second.holder
    assert record.lease_until == scene.now + timedelta(seconds=LEASE_S)
    # Clocks of two machines that differ by less than a lease take nothing from each other.
    scene.later(-LEASE_S)
    first.tick()
    assert scene.job("a").lease_holder == second.holder
    assert scene.drivers.launched == [("a", 1)]


def test_supervisors_that_share_a_database_start_each_job_once(scene: Scene) -> None:
    names = [f"job{k}" for k in range(12)]
    scene.submit(*names)
    together = threading.Barrier(3)

    def work() -> None:
        supervisor = scene.supervisor(max_running=6)
        together.wait()
        for _ in range(4):
            supervisor.tick()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(scene.drivers.launched) == sorted((name, 1) for name in names)


def test_trouble_with_one_job_leaves_the_others_alone(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = scene.supervisor(max_running=2)
    scene.submit("a", "b")
    supervisor.tick()
    scene.comes_to("a", SUCCEEDED)
    (scene.folder / "jobs" / "a" / str(scene.job("a").run) / "outcome.json").unlink()
    (scene.folder / "jobs" / "a" / str(scene.job("a").run) / "outcome.json").mkdir()
    scene.comes_to("b", SUCCEEDED)
    supervisor.tick()
    assert (scene.job("a").state, scene.job("b").state) == (JobState.RUNNING, JobState.SUCCEEDED)
    assert scene.job("a").id in caplog.text


def test_it_works_in_a_thread_until_it_is_told_to_end(scene: Scene) -> None:
    supervisor = scene.supervisor()
    started = threading.Event()
    scene.drivers.meanwhile = lambda record: started.set()
    with supervisor.run_in_thread(every_s=3600):
        while supervisor.last_pass is None:
            threading.Event().wait(0.001)
        scene.submit("a")
        supervisor.wake()
        assert started.wait(60)
    job = scene.job("a")
    assert job.state is JobState.RUNNING
    assert job.lease_until is not None
    assert job.lease_until <= scene.now, "others need not wait"


def test_a_database_that_is_gone_for_a_while_does_not_end_it(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, tried = scene.supervisor(), threading.Event()
    real = scene.jobs.in_state

    def away(*args: Any, **options: Any) -> Any:
        tried.set()
        raise StoreUnreachableError("the database does not answer")

    monkeypatch.setattr(scene.jobs, "in_state", away)
    scene.submit("a")
    with supervisor.run_in_thread(every_s=0.01):
        assert tried.wait(60)
        monkeypatch.setattr(scene.jobs, "in_state", real)
        while not scene.drivers.launched:
            threading.Event().wait(0.001)
    assert caplog.text.count("the database does not answer") == 1


def test_a_lost_job_whose_driver_was_there_after_all_has_succeeded(scene: Scene) -> None:
    supervisor = scene.supervisor(max_resumes=0)
    scene.submit("a")
    supervisor.tick()
    scene.drivers.states["a"] = "gone"
    supervisor.tick()
    assert scene.job("a").state is JobState.LOST
    scene.comes_to("a", SUCCEEDED)
    assert supervisor.look_after(scene.job("a")).state is JobState.SUCCEEDED
    assert replace(scene.job("a"), failure=None) == scene.job("a")


def test_many_jobs_of_one_name_are_told_what_each_came_to(scene: Scene) -> None:
    supervisor = scene.supervisor(max_running=99, max_resumes=0)
    for _ in range(12):
        scene.later(1)
        scene.submit("a")
    supervisor.tick()
    records = scene.jobs.in_state(JobState.RUNNING)
    for version, record in enumerate(records, 1):
        with journaled(scene.folder, "a", ignore, record.run):
            pass
        run = run_place(open_place(scene.folder), "a", str(record.run))
        write_outcome(run, replace(SUCCEEDED, version=version))
    scene.drivers.states["a"] = "gone"
    supervisor.tick()
    assert [scene.jobs.get(record.id).model_version for record in records] == [*range(1, 13)]
