"""What becomes of a job when a Ray head node answers badly: a server that speaks its Jobs API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from required import require

from ntk_dist.database import JobRecord, open_database
from ntk_dist.jobs import lifecycle
from ntk_dist.jobs.supervisor import Supervisor
from ntk_dist.standing import SILENT_S
from ntk_dist.wire import JobState

TRACEBACK = 'Traceback (most recent call last):\n  File "x"\nValueError: no such resource'


class Head(ThreadingHTTPServer):
    """A head node whose answer to a submission is that of the test."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answer: tuple[int, str] | None = None
        """Status and text; None to take the job and hang up."""
        self.taken: list[str] = []
        self.stopped: list[str] = []


class Requests(BaseHTTPRequestHandler):
    server: Head

    def do_GET(self) -> None:
        if self.path == "/api/version":
            version = {"version": "4", "ray_version": "2.50.0", "ray_commit": ""}
            self.tell(200, json.dumps({**version, "session_name": ""}))
        elif (name := self.path.rpartition("/")[2]) in self.server.taken:
            status = "STOPPED" if name in self.server.stopped else "PENDING"
            job = {"type": "SUBMISSION", "submission_id": name, "entrypoint": ""}
            self.tell(200, json.dumps({**job, "status": status}))
        else:
            self.tell(404, f"Job {name} does not exist")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.tell(200, "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/stop"):
            name = self.path.split("/")[-2]
            self.server.stopped.append(name)
            self.tell(200, json.dumps({"stopped": True}))
        elif self.server.answer is None:
            self.server.taken.append(json.loads(body)["submission_id"])
            self.close_connection = True
        else:
            self.tell(*self.server.answer)

    def tell(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def head() -> Iterator[Head]:
    with Head() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Scene:
    """One job for a cluster, its supervisor, and a clock."""

    def __init__(self, folder: Path, url: str) -> None:
        require("ray")
        from ntk_dist.jobs.ray_jobs import RayLauncher

        self.now = datetime.now(UTC)
        self.database = open_database(f"sqlite:///{folder}/state.db")
        self.supervisor = Supervisor(
            self.database, folder, {"ray": RayLauncher(url)}, clock=lambda: self.now
        )
        job = lifecycle.new_job(name="a", spec={}, launcher="ray", now=self.now)
        self.database.jobs.insert(job)
        self.id = job.id

    def after_a_pass(self) -> JobRecord:
        self.supervisor.tick()
        return self.database.jobs.get(self.id)


@pytest.fixture
def scene(tmp_path: Path, head: Head) -> Iterator[Scene]:
    made = Scene(tmp_path, head.url)
    yield made
    made.database.close()


def test_a_driver_that_ray_has_taken_without_a_word_is_found(scene: Scene, head: Head) -> None:
    for _ in range(3):
        job = scene.after_a_pass()
        scene.now += timedelta(seconds=2 * SILENT_S)
    assert (job.state, job.attempt) == (JobState.RUNNING, 1)
    assert head.taken == [f"{scene.id}-1"]


def test_one_that_ray_has_not_taken_is_replaced_once_it_is_silent(scene: Scene, head: Head) -> None:
    assert scene.after_a_pass().state is JobState.RUNNING
    head.taken.clear()
    scene.now += timedelta(seconds=SILENT_S - 1)
    assert scene.after_a_pass().attempt == 1
    scene.now += timedelta(seconds=2)
    job = scene.after_a_pass()
    assert (job.state, job.attempt, job.resumes) == (JobState.RUNNING, 2, 1)
    assert (head.stopped, head.taken) == ([f"{scene.id}-1"], [f"{scene.id}-2"])


def test_a_driver_that_ray_refuses_is_not_submitted_again(scene: Scene, head: Head) -> None:
    head.answer = 500, TRACEBACK
    for _ in range(2):
        job = scene.after_a_pass()
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.failure is not None
    assert "status code 500: ValueError: no such resource" in job.failure.message
    assert head.url in job.failure.message
