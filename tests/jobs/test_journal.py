"""Events on disk: written, bounded, read while they are written and after a crash."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ntk_dist.errors import DataError, StoreError, StoreFullError, StoreUnreachableError
from ntk_dist.events import FanOut, JobEvent, MemoryEvent, PhaseEvent, StepEvent, TaskEvent, ignore
from ntk_dist.jobs import journal as journal_module
from ntk_dist.jobs.journal import (
    KEPT_PARTS,
    KEPT_RUNS,
    Journal,
    journaled,
    new_run,
    runs_of,
)
from ntk_dist.jobs.lifecycle import Outcome
from ntk_dist.jobs.outcome import write_outcome
from ntk_dist.jobs.parts import FolderParts, ObjectParts, parts_of
from ntk_dist.jobs.watch import Follower, latest
from ntk_dist.standing import Standing
from ntk_dist.store.location import open_place

STARTED = JobEvent(state="started", job="waves")
FINISHED = JobEvent(state="finished", job="waves")


def done(k):
    return TaskEvent(state="done", item=f"({k}, {k})", attempt=1, seconds=0.25)


def write(parts, events, **kwargs):
    with Journal(parts, **kwargs) as journal:
        for event in events:
            journal(event)
    return journal


def text(parts):
    return b"".join(parts.read(number, 0) for number in parts.numbers())


def test_one_event_is_one_line_with_time_and_version(tmp_path):
    parts = new_run(open_place(tmp_path), "waves")
    events = [STARTED, PhaseEvent(phase="gram", state="started", total=1), done(0), FINISHED]
    write(parts, events, clock=lambda: 1769860800.25)
    lines = text(parts).splitlines()
    assert len(lines) == len(events)
    assert json.loads(lines[0]) == {
        "schema": 1,
        "time": "2026-01-31T12:00:00.250Z",
        "kind": "job",
        "state": "started",
        "job": "waves",
        "text": "",
    }
    follower = Follower(parts)
    assert follower.read() == [(1769860800.25, event) for event in events]
    assert follower.read() == []
    assert follower.standing.state == "finished"
    assert follower.skipped == 0


def test_a_reader_sees_lines_only_when_they_are_whole(tmp_path):
    parts = FolderParts(tmp_path)
    follower = Follower(parts)
    assert follower.read() == []
    write(parts, [STARTED, done(0), done(1)])
    whole = text(parts)
    (tmp_path / "events.0000.jsonl").unlink()
    found = []
    for k in range(len(whole)):  # byte by byte, as a slow disk might
        parts.append(0, whole[k : k + 1])
        found += follower.read()
    assert [event for _, event in found] == [STARTED, done(0), done(1)]


def test_a_folder_that_is_called_like_a_part_is_none(tmp_path):
    parts = FolderParts(tmp_path)
    write(parts, [STARTED, done(0)])
    (tmp_path / "events.0001.jsonl").mkdir()
    follower = Follower(parts)
    assert [event for _, event in follower.read()] == [STARTED, done(0)]


def test_a_torn_last_line_is_left_and_damaged_ones_are_counted(tmp_path):
    parts = FolderParts(tmp_path)
    write(parts, [STARTED, done(0)])
    good = text(parts)
    parts.append(0, b"\xff\x00 not a line\n[1]\n" + good.replace(b'"schema": 1', b'"schema": 9'))
    parts.append(0, b'{"schema": 1, "time": "2026-01-31T12:00:00Z", "kind": "step", "step": "x"}\n')
    parts.append(0, b'{"schema": 1, "time": 5, "kind": "memory", "n_bytes": 5}\n')
    parts.append(0, good[: len(good) - 20])
    follower = Follower(parts)
    assert [event for _, event in follower.read()] == [STARTED, done(0), STARTED]
    assert follower.skipped == 6


def test_a_million_blocks_do_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderParts, "flush_every_s", 0.001)
    parts, n = FolderParts(tmp_path), 3000
    live, heard, stop = Follower(parts), [], threading.Event()

    def listen():
        while not stop.is_set():
            heard.extend(live.read())

    listener = threading.Thread(target=listen)
    listener.start()
    with Journal(parts, part_bytes=4000) as journal:
        journal(STARTED)
        journal(PhaseEvent(phase="gram", state="started", total=n))
        for k in range(n):
            journal(done(k))
            if k % 20 == 0:
                time.sleep(0.003)
    stop.set()
    listener.join()
    heard.extend(live.read())
    # Whoever reads along misses nothing.
    assert [event for _, event in heard][2:] == [done(k) for k in range(n)]
    assert live.standing.done == n
    numbers = parts.numbers()
    assert len(numbers) <= KEPT_PARTS
    assert numbers[0] > 0
    # Whoever comes late has the sum of what is gone.
    late = Follower(parts)
    assert len(late.read()) < n
    assert (late.standing.done, late.standing.total, late.skipped) == (n, n, 0)
    assert late.standing.job == "waves"


def test_lines_wait_for_the_next_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderParts, "flush_every_s", 3600.0)
    journal = write(FolderParts(tmp_path), [done(k) for k in range(10_000)])
    assert journal.flushes == 1


def test_a_job_that_has_nothing_to_say_is_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderParts, "flush_every_s", 0.01)
    monkeypatch.setattr(journal_module, "HEARTBEAT_S", 0.02)
    parts = FolderParts(tmp_path)
    follower, deadline = Follower(parts), time.monotonic() + 60
    with Journal(parts) as journal:
        journal(STARTED)
        heard = []
        while not (heard and isinstance(heard[-1][1], MemoryEvent)):
            assert time.monotonic() < deadline
            heard += follower.read()
    event = heard[-1][1]
    assert event.holder == "driver"
    assert event.n_bytes > 2**20


class FullParts(FolderParts):
    """Takes one flush, then no more."""

    def append(self, number, lines):
        if self.numbers():
            raise StoreFullError("no space is left")
        super().append(number, lines)


def test_a_disk_that_fills_stops_the_journal_and_not_the_work(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(FolderParts, "flush_every_s", 0.005)
    heard = []
    with Journal(FullParts(tmp_path)) as journal:
        stream = FanOut(heard.append, journal)
        deadline = time.monotonic() + 30
        while "StoreFullError" not in caplog.text:
            assert time.monotonic() < deadline
            stream(done(len(heard)))
            time.sleep(0.001)
        stream(FINISHED)
    assert heard[-1] == FINISHED
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_disk_that_fills_at_the_end_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(FolderParts, "flush_every_s", 3600.0)
    parts = FullParts(tmp_path)
    parts.append(0, b"\n")
    write(parts, [FINISHED])
    assert "not kept: no space is left" in caplog.text


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (KeyboardInterrupt(), "interrupted", ""),
        (DataError("NaN in row 3"), "failed", "invalid_data: NaN in row 3"),
        (RuntimeError("a defect"), "failed", "RuntimeError: a defect"),
    ],
)
def test_the_last_event_says_how_it_ended(tmp_path, error, state, words):
    with journaled(tmp_path, "waves", ignore):
        pass
    assert latest(open_place(tmp_path))["waves"].state == "finished"

    def work():
        with journaled(tmp_path, "waves", ignore) as events:
            events(StepEvent(step=1, residuals=(0.5,), tol=1e-6))
            raise error

    with pytest.raises(type(error)):
        work()
    standing = latest(open_place(tmp_path))["waves"]
    assert (standing.state, standing.text, standing.step) == (state, words, 1)
    assert len(runs_of(open_place(tmp_path))["waves"]) == 2


def test_events_of_long_ago_are_removed_and_what_runs_came_to_stays(tmp_path):
    place = open_place(tmp_path)
    stranger = tmp_path / "jobs/waves/notes"
    stranger.mkdir(parents=True)
    long_ago = time.time() - 2 * 3600
    over, silent, at_work, *newer = (new_run(place, "waves") for _ in range(KEPT_RUNS + 2))
    write(over, [STARTED, FINISHED])
    write_outcome(
        place / "jobs" / "waves" / over.folder.name, Outcome(state="succeeded", version=1)
    )
    write(silent, [STARTED], clock=lambda: long_ago)
    silent.append(0, b'{"schema": 1, "torn')
    write(at_work, [STARTED])
    new_run(place, "waves")
    assert [path.name for path in over.folder.iterdir()] == ["outcome.json"]
    assert not silent.folder.exists()
    assert len(runs_of(place)["waves"]) == len([over, at_work, *newer]) + 1
    new_run(place, "waves")
    assert text(at_work), "its driver may be at work still"
    assert stranger.is_dir()


def test_no_jobs_are_no_trouble(tmp_path):
    assert latest(open_place(tmp_path)) == {}
    began = time.time()
    new_run(open_place(tmp_path), "waves")
    (standing,) = latest(open_place(tmp_path)).values()
    assert replace(standing, updated=None) == Standing()
    assert began - 0.001 <= standing.updated <= time.time()


def test_a_driver_killed_before_its_first_line_is_silent_and_goes_in_the_end(tmp_path):
    place, hours = open_place(tmp_path), [3, 2, 1.5]
    began = [datetime.now(UTC) - timedelta(hours=h) for h in hours]
    first, *_ = (new_run(place, "waves", f"{at:%Y%m%dT%H%M%S.%fZ}-00ff") for at in began)
    assert latest(place)["waves"].is_silent(time.time())
    for _ in range(KEPT_RUNS):
        new_run(place, "waves")
    assert not first.folder.exists()


def test_object_storage_keeps_the_parts_whole(bucket, monkeypatch):
    monkeypatch.setattr(ObjectParts, "flush_every_s", 0.01)
    monkeypatch.setattr(ObjectParts, "part_bytes", 1000)
    heard, place = [], open_place(f"{bucket}/ws")
    with journaled(f"{bucket}/ws", "waves", heard.append) as events:
        sent = last = 0
        while last < 5:  # parts are longer where the machine has other things to do
            events(done(sent))
            sent += 1
            time.sleep(0.002)
            runs = runs_of(place).get("waves", ())
            last = max((number for run in runs for number in parts_of(run).numbers()), default=0)
    told = [event for event in heard if isinstance(event, TaskEvent)]
    assert told == list(map(done, range(sent)))
    (run,) = runs_of(place)["waves"]
    assert 2 <= len(parts_of(run).numbers()) <= 4
    standing = latest(place)["waves"]
    assert standing.state == "finished"


def test_a_workspace_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreUnreachableError, match="file"),
        journaled(tmp_path / "file", "waves", ignore),
    ):
        pass
    with pytest.raises(StoreError):
        FolderParts(tmp_path / "file").append(0, b"x")


KILLED = """
import sys, time
from pathlib import Path
from ntk_dist.events import PhaseEvent, TaskEvent, ignore
from ntk_dist.jobs.journal import journaled
with journaled(Path(sys.argv[1]), "waves", ignore) as events:
    events(PhaseEvent(phase="gram", state="started", total=10**9))
    k = 0
    while True:
        events(TaskEvent(state="done", item=str(k), attempt=1))
        k += 1
        time.sleep(0.001)
"""


def test_a_job_that_was_killed_is_read_to_its_last_line(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("jobs/waves/*/events.0000.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    standing = latest(open_place(tmp_path))["waves"]
    assert standing.state == "running"
    assert standing.done > 0
    assert standing.is_silent(standing.updated + 31)
    # The same job, run again, writes beside it.
    with journaled(tmp_path, "waves", ignore):
        assert len(runs_of(open_place(tmp_path))["waves"]) == 2
    assert latest(open_place(tmp_path))["waves"].state == "finished"
