"""Jobs from the command line, without a service: by exit code and by words."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from ntk_dist import Client, cli, stax
from ntk_dist.cli import jobs as cli_jobs
from ntk_dist.database import database_url, open_database
from ntk_dist.jobs import lifecycle
from ntk_dist.jobs.queue import utc_now
from ntk_dist.jobs.spec import JobSpec, job_schema
from ntk_dist.wire import NEXT_START, Failure, Job, JobState, to_json

CONV = stax.Conv(1, (3, 3), padding="SAME")
NET = stax.serial(CONV, stax.Relu(), CONV, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
N_BLOCKS = 10 * 11 // 2
JOB = """
name: slow
task: regression
data: {x: data.npz:x, y: data.npz:y}
architecture: arch.json
gram: {block_rows: 15}
workspace: ./ws
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; starting one for each would cost seconds of imports."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        told = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    return run


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Path]:
    images = np.random.default_rng(1).normal(size=(150, 8, 8, 1))
    np.savez(tmp_path / "data.npz", x=images, y=images.sum(axis=(1, 2, 3)))
    (tmp_path / "arch.json").write_text(NET.to_json())
    (tmp_path / "job.yaml").write_text(JOB)
    yield tmp_path / "job.yaml"
    for child in psutil.Process().children():
        if str(tmp_path) in " ".join(child.cmdline()):  # the test has failed
            child.kill()
            child.wait()


def test_a_job_is_submitted_cancelled_and_resumed(
    job: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = run("submit", "job.yaml", "--key", "one", "--json")  # a relative path
    assert told.returncode == 0, told.stderr
    submitted = json.loads(told.stdout)
    assert (submitted["state"], submitted["attempt"]) == ("running", 1)
    again = run("submit", "job.yaml", "--key", "one", "--json")
    assert json.loads(again.stdout)["id"] == submitted["id"]
    assert "key one was used before" in again.stderr
    other = run("submit", "job.yaml", "--key", "one", "--executor", "local:2", "--json")
    assert other.returncode == 2
    assert json.loads(other.stdout)["error"]["code"] == "idempotency_key_reused"

    def blocks() -> int:
        return len(list(tmp_path.glob("ws/grams/*/ntk/c/*/*[0-9]")))

    deadline = time.monotonic() + 120
    while blocks() < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    listed = run("jobs")
    assert submitted["id"] in listed.stdout
    assert "running    slow" in listed.stdout
    cancelled = run("jobs", submitted["id"], "--cancel")
    assert cancelled.returncode == 0, cancelled.stderr
    assert "slow, cancelled" in cancelled.stdout
    assert f"ntk-dist jobs {submitted['id']} --resume" in cancelled.stdout
    (outcome,) = tmp_path.glob("ws/jobs/slow/*/outcome.json")
    assert json.loads(outcome.read_text())["state"] == "interrupted", "it was asked, not killed"
    kept = blocks()
    assert 3 <= kept < N_BLOCKS
    ended = run("jobs", submitted["id"], "--resume", "--follow", "--json")
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    assert record["report"]["gram"]["n_computed"] == N_BLOCKS - kept
    assert (record["state"], record["attempt"], record["model_version"]) == ("succeeded", 2, 1)
    assert f"{kept} already there" in ended.stderr
    logs = run("jobs", submitted["id"], "--logs", "--follow")
    assert "computing Gram blocks: done" in logs.stdout
    (again_listed,) = json.loads(run("jobs", "--state", "succeeded", "--json").stdout)
    assert again_listed == {**record, "progress": None}
    assert run("jobs", "--state", "lost").stdout == "no jobs\n"
    refused = run("jobs", submitted["id"], "--resume")
    assert (refused.returncode, "succeeded" in refused.stderr) == (2, True)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a service in a process of its own."""
    monkeypatch.setenv("NTK_DIST_SERVICE__EXECUTORS", '["local:1", "local"]')
    command = [sys.executable, "-m", "ntk_dist", "serve", "--insecure", "--port", "0"]
    with subprocess.Popen(
        [*command, "--workspace", str(tmp_path / "service")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().rpartition(" ")[2].strip()
        process.terminate()


def test_a_service_does_the_same_with_a_job(service: str, tmp_path: Path, run: Run) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "data.npz", x=x, y=np.sin(x[:, 0]))
    net = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
    (tmp_path / "arch.json").write_text(net.to_json())
    (tmp_path / "job.yaml").write_text(JOB + "executor: local\n")
    here = ("--service", service)
    refused = run("submit", tmp_path / "job.yaml", *here)
    assert (refused.returncode, "upload://" in refused.stderr) == (2, True)
    ended = run("submit", tmp_path / "job.yaml", *here, "--upload", "--follow", "--json")
    assert ended.returncode == 0, ended.stderr
    job = json.loads(ended.stdout)
    assert (job["state"], job["name"], job["model_version"]) == ("succeeded", "slow", 1)
    assert job["executor"] == "local", "as the file says, though it is not the first of the service"
    assert job["id"] in run("jobs", *here, "--state", "succeeded").stdout
    assert "model slow version 1" in run("jobs", job["id"], *here, "--logs").stdout
    assert run("jobs", job["id"], *here, "--cancel").returncode == 2
    assert run("jobs", "0" * 24, *here).returncode == 2
    # Who looks into its workspace sees the same.
    assert job["id"] in run("jobs", "--workspace", tmp_path / "service").stdout


def test_what_a_caller_may_not_have_meant_is_shown() -> None:
    now = utc_now()
    spec = {"id": "j1", "name": "a", "attempt": 0, "launcher": "p", "executor": "local"}
    job = Job(**spec, state=JobState.QUEUED, created=now, updated=now, warnings=("idle workers",))
    assert cli_jobs._words(job).endswith("tasks on local\n  warning: idle workers")


def test_a_log_that_is_no_text_is_followed_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(cli_jobs, "LOG_EVERY_S", 0.0)
    now = utc_now()
    times = {"created": now, "updated": now}
    running = Job(
        id="j1", name="a", state=JobState.RUNNING, attempt=1, launcher="p", executor="e", **times
    )
    written = [b"caf\xe9 \xff\n"]

    def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/logs"):
            return httpx.Response(200, json=to_json(running))
        log, start = b"".join(written), int(request.url.params["start"])
        headers = {NEXT_START: str(len(log))}
        if start == len(log) and len(written) == 1:
            written.append(b"and on\n")
            ended["state"] = JobState.SUCCEEDED
        return httpx.Response(200, content=log[start:], headers=headers)

    ended: dict[str, Any] = {}
    with Client(transport=httpx.MockTransport(answer)) as client:
        office = cli_jobs._There(client)
        monkeypatch.setattr(office, "job", lambda job_id: replace(running, **ended))
        assert cli_jobs._print_logs(office, running, follow=True) == 0
    assert capfdbinary.readouterr().out == b"".join(written)


def put(tmp_path: Path, **changes: Any) -> str:
    """A job that is over, in the database of the workspace, by its id."""
    now = utc_now()
    record = lifecycle.new_job(name="a", spec={}, launcher="process", now=now)
    record = lifecycle.claim(record, "somebody", now, 0.0)
    for name, value in changes.items():
        object.__setattr__(record, name, value)
    with open_database(database_url(tmp_path)) as database:
        database.jobs.insert(record)
    return record.id


@pytest.mark.parametrize(
    ("state", "failure", "code", "words"),
    [
        (JobState.FAILED, Failure(code="invalid_data", message="NaN in row 3"), 2, "NaN in row 3"),
        (JobState.FAILED, Failure(code="solve_failed", message="no"), 3, "no"),
        (JobState.LOST, Failure(code="job_lost", message="its driver is gone"), 1, "gone"),
        (JobState.CANCELLED, None, 1, "cancelled"),
    ],
)
def test_following_a_job_ends_as_fit_would_have(
    tmp_path: Path, run: Run, state: JobState, failure: Failure | None, code: int, words: str
) -> None:
    job_id = put(tmp_path, state=state, failure=failure)
    shown = run("jobs", job_id, "--workspace", tmp_path)
    assert (shown.returncode, str(state) in shown.stdout) == (0, True)
    told = run("jobs", job_id, "--workspace", tmp_path, "--follow")
    assert told.returncode == code, told.stderr
    (line,) = told.stderr.strip().splitlines()
    assert words in line
    unknown = run("jobs", "0" * 24, "--workspace", tmp_path, "--json")
    assert (unknown.returncode, json.loads(unknown.stdout)["error"]["code"]) == (2, "job_not_found")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["submit", "none.yaml"], 2, "none.yaml"),
        (["submit", "job.yaml", "--address", "head:8265"], 2, "http://HEAD:8265, got 'head:8265'"),
        (["submit", "job.yaml", "--upload"], 2, "--upload: expected --service"),
        (["submit", "job.yaml", "--service", "http://h:1", "--workspace", "w"], 2, "--workspace"),
        (["submit", "job.yaml", "--service", "http://h:1", "--address", "http://h"], 2, "--addr"),
        (["submit", "job.yaml", "--key", "a b"], 2, "visible ASCII"),
        (["submit", "job.yaml", "--workspace", "s3://bucket/x"], 2, "DATABASE_URL"),
        (["jobs", "--follow", "--workspace", "."], 2, "expected the ID of a job"),
        (["jobs"], 2, "--workspace: expected a workspace, got ./ws, where there is none"),
        (["jobs", "x", "--cancel", "--resume"], 2, "--cancel or --resume"),
        (["jobs", "x", "--state", "failed"], 2, "--state: expected no ID with it"),
        (["jobs", "x", "--address", "http://h"], 2, "--resume with it"),
        (["jobs", "--service", "http://h:1", "--database", "sqlite://"], 2, "--database"),
        (["jobs", "--state", "asleep"], 2, "asleep"),
    ],
)
def test_bad_input_gets_one_line(
    job: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(job.parent)
    told = run(*arguments)
    assert told.returncode == code, told.stderr
    (line,) = told.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not list(job.parent.glob("ws/service/drivers/*")), "nothing was started"


def test_the_schema_of_job_files_is_published(run: Run) -> None:
    told = run("job-schema")
    assert told.returncode == 0
    schema = json.loads(told.stdout)
    assert schema == job_schema()
    assert schema["required"] == ["name", "task", "data", "architecture"]
    assert schema["additionalProperties"] is False
    assert "published under it" in schema["properties"]["name"]["description"]
    assert set(schema["properties"]) == set(JobSpec.model_fields)
