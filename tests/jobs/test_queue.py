"""What callers do with jobs: submit, look, cancel, resume, follow; against a real database."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ntk_dist.database import open_database
from ntk_dist.errors import (
    ConflictError,
    IdempotencyError,
    JobNotFoundError,
    OverloadedError,
    RequestError,
    ServiceError,
)
from ntk_dist.events import JobEvent, PhaseEvent, StepEvent, TaskEvent
from ntk_dist.gram.grid import BlockGrid
from ntk_dist.jobs import JobSpec, lifecycle
from ntk_dist.jobs.gram_map import GramMaps, positions
from ntk_dist.jobs.journal import Journal
from ntk_dist.jobs.lifecycle import Observation, Outcome
from ntk_dist.jobs.parts import parts_of
from ntk_dist.jobs.queue import JobQueue, utc_now
from ntk_dist.jobs.standings import Standings
from ntk_dist.jobs.watch import POLL_S
from ntk_dist.settings import ServiceSettings
from ntk_dist.store.location import open_place
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.workspace import Workspace
from ntk_dist.wire import Job, JobState, of_json, to_json

N_THREADS = 8
STARTED = JobEvent(state="started", job="waves")
LOST = Observation(driver="gone")


def spec(name="waves"):
    return JobSpec(
        name=name,
        task="regression",
        data={"x": "/data/x.npy", "y": "/data/y.npy"},
        architecture=[["Dense", 1]],
        executor="dask://host:8786",
    )


class Service:
    """A queue, and what its supervisor and drivers would do."""

    def __init__(self, url, workspace, **settings):
        self.database = open_database(url)
        self.workspace = open_place(workspace)
        self.queue = JobQueue(self.database, workspace, ServiceSettings(**settings))

    def change(self, job_id, step, *args):
        return self.database.jobs.change(job_id, lambda record: step(record, *args))

    def start(self, job_id):
        return self.change(job_id, lifecycle.claim, "here", utc_now(), 60.0)

    def run_of(self, job_id):
        record = self.database.jobs.get(job_id)
        return self.workspace / "jobs" / record.name / record.run

    def report(self, job_id, *events, **kwargs):
        with Journal(parts_of(self.run_of(job_id)), **kwargs) as journal:
            for event in events:
                journal(event)


@pytest.fixture
def service(tmp_path):
    made = Service(f"sqlite:///{tmp_path / 'state.db'}", tmp_path / "ws", max_queued_jobs=4)
    yield made
    made.database.close()


def done(k):
    return TaskEvent(state="done", item=f"({k}, {k})", attempt=1, seconds=0.25)


def test_a_new_job_waits_with_all_that_was_asked_for(service):
    job, created = service.queue.submit(spec())
    assert created
    assert (job.state, job.attempt, job.launcher) == (JobState.QUEUED, 0, "process")
    assert (job.executor, job.progress) == ("dask://host:8786", None)
    assert job.spec == {
        **spec().model_dump(mode="json"),
        "workspace": service.workspace.location,
    }
    assert JobSpec.model_validate(job.spec).data == spec().data
    assert service.queue.get(job.id) == job
    assert of_json(Job, to_json(job)) == job


def test_drivers_are_jobs_of_ray_where_the_settings_name_a_cluster(tmp_path):
    url = f"sqlite:///{tmp_path / 'state.db'}"
    ray = Service(url, tmp_path, ray_jobs_url="http://head:8265")
    assert ray.queue.submit(spec())[0].launcher == "ray"
    assert ray.queue.submit(spec(), launcher="process")[0].launcher == "process"
    ray.database.close()


def test_a_key_finds_the_job_of_before_and_refuses_another(service):
    asked = {"owner": "anna", "key": "k", "body_sha256": "1"}
    job, _ = service.queue.submit(spec(), **asked)
    service.start(job.id)
    again, created = service.queue.submit(spec(), **asked)
    assert not created
    assert (again.id, again.state) == (job.id, JobState.RUNNING)
    with pytest.raises(IdempotencyError, match=f"the request that made job {job.id}, got another"):
        service.queue.submit(spec(), **{**asked, "body_sha256": "2"})
    assert service.queue.submit(spec(), **{**asked, "owner": "berta"})[1]


@pytest.mark.parametrize("key", ["", "two words", "k" * 201, "naïve", "k\0"])
def test_keys_that_are_none_are_refused(service, key):
    with pytest.raises(RequestError, match="Idempotency-Key: expected 1 to 200 visible ASCII"):
        service.queue.submit(spec(), key=key)


def test_a_full_queue_says_when_to_come_again_and_still_knows_its_keys(service):
    for k in range(4):
        service.queue.submit(spec(), key=f"{k}")
    with pytest.raises(
        OverloadedError, match="expected fewer than 4 jobs that wait, got 4"
    ) as full:
        service.queue.submit(spec())
    assert full.value.retry_after_s > 1
    assert service.queue.submit(spec(), key="0")[1] is False


def test_of_many_requests_with_one_key_one_makes_a_job(database_url, tmp_path):
    replicas = [Service(database_url, tmp_path / "ws") for _ in range(2)]
    barrier = threading.Barrier(N_THREADS)

    def submit(k):
        barrier.wait(30)
        return replicas[k % 2].queue.submit(spec(), owner="anna", key="k", body_sha256="1")

    with ThreadPoolExecutor(N_THREADS) as pool:
        found = list(pool.map(submit, range(N_THREADS)))
    assert sum(created for _, created in found) == 1
    assert len({job.id for job, _ in found}) == 1
    assert replicas[0].queue.counts()[JobState.QUEUED] == 1
    for replica in replicas:
        replica.database.close()


def test_of_many_that_claim_one_job_one_wins(database_url, tmp_path):
    replicas = [Service(database_url, tmp_path / "ws") for _ in range(2)]
    job, _ = replicas[0].queue.submit(spec())
    barrier = threading.Barrier(N_THREADS)

    def claim(k):
        jobs = replicas[k % 2].database.jobs
        (record,) = jobs.in_state(JobState.QUEUED)
        barrier.wait(30)
        return jobs.swap(record, lifecycle.claim(record, f"{k}", utc_now(), 60.0))

    with ThreadPoolExecutor(N_THREADS) as pool:
        won = list(pool.map(claim, range(N_THREADS)))
    assert sum(won) == 1
    record = replicas[1].database.jobs.get(job.id)
    assert (record.attempt, record.lease_holder) == (1, str(won.index(True)))
    for replica in replicas:
        replica.database.close()


def test_pages_go_on_where_they_ended(service):
    start, ids = utc_now(), []
    for k in range(3):
        service.queue._clock = lambda k=k: start + timedelta(seconds=k)
        ids.insert(0, service.queue.submit(spec("odd" if k % 2 else "even"))[0].id)
    page = service.queue.page(limit=2)
    assert ([job.id for job in page.items], page.next) == (ids[:2], ids[1])
    page = service.queue.page(limit=2, after=page.next)
    assert ([job.id for job in page.items], page.next) == (ids[2:], None)
    assert [job.id for job in service.queue.page(name="odd").items] == [ids[1]]
    service.queue.cancel(ids[1])
    assert [job.id for job in service.queue.page(JobState.CANCELLED).items] == [ids[1]]


@pytest.mark.parametrize("wanted", [{"limit": 0}, {"limit": 201}, {"after": "../x"}, {"after": ""}])
def test_pages_that_are_none_are_refused(service, wanted):
    with pytest.raises(RequestError, match=rf"{next(iter(wanted))}: expected .*, got "):
        service.queue.page(**wanted)


def test_a_job_is_cancelled_and_resumed(service):
    job, _ = service.queue.submit(spec())
    cancelled, changed = service.queue.cancel(job.id)
    assert (cancelled.state, cancelled.is_resumable, changed) == (JobState.CANCELLED, True, True)
    assert service.queue.cancel(job.id) == (cancelled, False)
    resumed, changed = service.queue.resume(job.id)
    assert (resumed.state, changed) == (JobState.QUEUED, True)
    service.start(job.id)
    with pytest.raises(ConflictError, match=r"got running; wait for it, or cancel it first"):
        service.queue.resume(job.id)
    assert service.queue.cancel(job.id)[0].is_cancelling
    assert service.change(job.id, lifecycle.observe, LOST, utc_now()).state is JobState.CANCELLED


def test_unknown_jobs_are_told_whatever_is_asked_of_them(service):
    queue = service.queue
    for ask in (queue.get, queue.cancel, queue.resume, queue.logs, queue.news, queue.blocks):
        with pytest.raises(JobNotFoundError, match="got 'none'"):
            ask("none")


def test_progress_is_what_the_driver_wrote_down(service):
    job, _ = service.queue.submit(spec())
    service.start(job.id)
    assert service.queue.get(job.id).progress is None
    service.queue._standings = Standings()  # as if POLL_S were over
    service.report(job.id, STARTED, PhaseEvent(phase="gram", state="started", total=3), done(0))
    progress = service.queue.get(job.id).progress
    assert (progress.phase, progress.done, progress.total) == ("gram", 1, 3)
    assert progress.note.startswith("1 of 3")
    assert service.queue.page().items[0].progress.done == 1
    outcome = Outcome(state="succeeded", version=3, score=0.5, report={"gram": {"key": "none"}})
    seen = Observation(driver="gone", outcome=outcome)
    service.change(job.id, lifecycle.observe, seen, utc_now())
    job = service.queue.get(job.id)
    assert (job.state, job.model_version, job.score) == (JobState.SUCCEEDED, 3, 0.5)
    assert job.progress.done == 1
    assert service.queue.page().items[0].progress is None  # one journal less to read for each


def test_a_journal_is_read_on_from_where_it_was_read_to(service, monkeypatch):
    job, _ = service.queue.submit(spec())
    service.start(job.id)
    now = [100.0]
    standings = Standings(clock=lambda: now[0])
    run = service.run_of(job.id)
    service.report(job.id, STARTED, PhaseEvent(phase="gram", state="started", total=3))
    assert standings.of(run).done == 0
    parts = parts_of(run)
    line = b'{"schema": 1, "time": "2026-01-31T12:00:00Z", "kind": "task", "state": "done", '
    parts.append(0, line + b'"item": "", "attempt": 1}\n')
    assert standings.of(run).done == 0  # half a second has not gone by
    now[0] += POLL_S
    monkeypatch.setattr("ntk_dist.jobs.standings.KEPT", 1)
    assert standings.of(run).done == 1
    assert standings.of(service.workspace / "jobs" / "waves" / "another") is None
    assert list(standings._readers) == [service.workspace / "jobs" / "waves" / "another"]


def told(service, job_id, after=None):
    """All events behind ``after``, as somebody who follows the job asks for them."""
    found, news = [], service.queue.news(job_id, after)
    while news.events:
        found += news.events
        news = service.queue.news(job_id, news.after)
    assert news.is_over
    return found


def test_events_are_followed_from_any_of_them_over_parts_and_attempts(service):
    job, _ = service.queue.submit(spec())
    assert service.queue.news(job.id) == ([], "0.0.0", False)
    service.start(job.id)
    first = [STARTED, PhaseEvent(phase="gram", state="started", total=6), *map(done, range(6))]
    # One event a part: each is written at once, and the part is full.
    parts = parts_of(service.run_of(job.id))
    with Journal(parts, part_bytes=1) as journal:
        for event in first[:4]:
            journal(event)
            journal._flush()
    assert len(parts.numbers()) == 4
    service.change(job.id, lifecycle.observe, LOST, utc_now())

    found = told(service, job.id)
    assert [event for _, _, event in found] == first[:4]
    assert len({place for place, _, _ in found}) == 4
    for k, (place, moment, _) in enumerate(found):
        rest = [event for _, _, event in told(service, job.id, place)]
        assert rest == first[k + 1 : 4]
        assert abs(moment - datetime.now(UTC).timestamp()) < 60

    service.queue.resume(job.id)
    service.start(job.id)
    second = [STARTED, StepEvent(step=1, residuals=(0.5,), tol=1e-6)]
    service.report(job.id, *second)
    news = service.queue.news(job.id, found[1][0])  # an id of the attempt before
    assert ([event for _, _, event in news.events], news.is_over) == (second, False)
    parts_of(service.run_of(job.id)).append(0, b'{"schema": 1, "torn')
    assert service.queue.news(job.id, news.after) == ([], news.after, False)
    service.change(job.id, lifecycle.observe, LOST, utc_now())
    assert service.queue.news(job.id, news.after) == ([], news.after, True)


@pytest.mark.parametrize(
    "after",
    ["", "1", "1.2", "1.-1.0", "1.0.x", "9" * 10 + ".0.0", "1.0." + "9" * 13, "1.0.٣", "1.0.0\n"],
)
def test_ids_of_no_event_are_refused(service, after):
    job, _ = service.queue.submit(spec())
    with pytest.raises(RequestError, match="expected the id of an event"):
        service.queue.news(job.id, after)


def test_ids_in_the_middle_of_nowhere_lead_to_whole_events_only(service):
    job, _ = service.queue.submit(spec())
    service.start(job.id)
    service.report(job.id, STARTED, done(0))
    known = service.queue.news(job.id).events
    assert service.queue.news(job.id, "1.0.7").events == known
    for k, (where, _, _) in enumerate(known):
        before, _, offset = where.rpartition(".")
        assert service.queue.news(job.id, f"{before}.{int(offset) - 1}").events == known[k:]
    for after in ("1.0.999999999999", "1.999999999.0"):
        assert service.queue.news(job.id, after).events == []


def test_logs_are_those_of_whoever_runs_the_driver(tmp_path):
    class Launcher:
        def logs(self, record, start):
            return f"{record.id}: attempt {record.attempt}".encode()[start:]

    service = Service(f"sqlite:///{tmp_path / 'state.db'}", tmp_path)
    queue = JobQueue(service.database, tmp_path, ServiceSettings(), {"process": Launcher()})
    job, _ = queue.submit(spec())
    assert queue.logs(job.id) == b""
    service.start(job.id)
    assert queue.logs(job.id, 24) == b": attempt 1"
    with pytest.raises(RequestError, match="start: expected a byte from 0 on, got -1"):
        queue.logs(job.id, -1)
    with pytest.raises(ServiceError, match=r"expected a launcher among \[\]"):
        service.queue.logs(job.id)
    service.database.close()


def unpacked(blocks):
    bits = np.frombuffer(base64.b64decode(blocks.packed), np.uint8)
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")[: blocks.n_blocks]).tolist())


def test_stored_blocks_are_told_one_bit_each(service):
    job, _ = service.queue.submit(spec())
    assert service.queue.blocks(job.id) is None
    service.start(job.id)
    manifest = Manifest(
        architecture="a",
        data_rows="d",
        data_cols="d",
        n_rows=10,
        n_cols=10,
        block_rows=3,
        symmetric=True,
        kernels=("ntk",),
        dtype="float32",
        device_kind="cpu",
    )
    phase = PhaseEvent(phase="gram", state="started", total=10, gram=manifest.key)
    service.report(job.id, STARTED, phase, PhaseEvent(phase="gram", state="finished", seconds=1.0))
    assert service.queue.blocks(job.id) is None  # it is not there yet
    store = Workspace(service.workspace).gram(manifest)
    order = list(store.grid)
    for k in (0, 4, 9):
        store.write(order[k], {"ntk": np.zeros(store.grid.block_shape(order[k]), "float32")})
    blocks = service.queue.blocks(job.id)
    assert (blocks.n_rows, blocks.block_rows, blocks.side) == (10, 3, 4)
    assert (blocks.n_blocks, blocks.n_stored) == (10, 3)
    assert unpacked(blocks) == {0, 4, 9}

    now = [100.0]
    maps = GramMaps(service.workspace, clock=lambda: now[0])
    assert unpacked(maps.of(manifest.key)) == {0, 4, 9}
    store.delete(order[4])
    assert unpacked(maps.of(manifest.key)) == {0, 4, 9}  # a map is good for a second
    now[0] += 1.5
    assert unpacked(maps.of(manifest.key)) == {0, 9}


@pytest.mark.parametrize("side", [1, 2, 7])
def test_positions_are_those_of_the_grid(side):
    grid = BlockGrid(side * 3, side * 3, 3, symmetric=True)
    assert sorted(positions(grid, frozenset(grid))) == list(range(grid.n_blocks))
    for k, index in enumerate(grid):
        assert positions(grid, frozenset([index])).tolist() == [k]
    assert positions(grid, frozenset()).tolist() == []
