"""Jobs on a real Ray cluster, which asks for a token and whose head node is killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from required import require
from sklearn.datasets import load_digits

import ntk_dist
from ntk_dist import cli, stax
from ntk_dist.errors import ExecutorError, ExecutorUnreachableError, InvalidInputError
from ntk_dist.jobs import lifecycle

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONV = stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1)
NET = stax.serial(CONV, stax.Relu(), CONV, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
N_BLOCKS = 10 * 11 // 2
JOB = """
name: digits
task: classification
data: {x: data.npz:x, y: data.npz:y}
test: {x: data.npz:x_test, y: data.npz:y_test}
architecture: arch.json
gram: {block_rows: 30}
solver: {tol: 1.0e-4}
executor: EXECUTOR
workspace: ./ws
"""
TOKEN = secrets.token_hex(16)


@dataclass
class Head:
    """A head node that is a cluster of its own."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """It and all that runs on it, as a machine that loses its power."""
        with suppress(psutil.NoSuchProcess):
            for each in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def ray_head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="ntk-ray-")  # short: sockets are in it
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    names += ("metrics-export-port", "runtime-env-agent-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    binaries = Path(sys.executable).parent
    command = [str(binaries / "ray"), "start", "--head", "--block", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--disable-usage-stats"]
    command += [f"--object-store-memory={80 * 2**20}", "--include-dashboard=true"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(ntk_dist.__file__).parents[1]),
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    head = Head(f"http://127.0.0.1:{ports['dashboard-port']}", process)
    try:
        assert process.stdout is not None
        assert any("Ray runtime started" in line for line in process.stdout), "Ray did not start"
        yield head
    finally:
        head.kill()
        process.wait(30)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    require("ray")
    with ray_head() as started:
        yield started


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    digits = load_digits()
    x = (digits.images[:360, :, :, None] / 16).astype(np.float32)
    y = digits.target[:360]
    np.savez(tmp_path / "data.npz", x=x[:300], y=y[:300], x_test=x[300:], y_test=y[300:])
    (tmp_path / "arch.json").write_text(NET.to_json())
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        told = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    return run


def until(condition: Callable[[], Any], enough_s: float = 200.0) -> Any:
    deadline = time.monotonic() + enough_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def blocks(folder: Path) -> int:
    return len(list(folder.glob("ws/grams/*/ntk/c/*/*[0-9]")))


def job_file(folder: Path, executor: str, more: str = "") -> Path:
    path = folder / "job.yaml"
    path.write_text(JOB.replace("EXECUTOR", executor) + more)
    return path


def test_a_job_runs_on_the_cluster_it_was_submitted_to(
    head: Head, folder: Path, run: Callable[..., Any]
) -> None:
    told = run("submit", job_file(folder, "ray"), "--address", head.url, "--follow", "--json")
    assert told.returncode == 0, told.stderr
    job = json.loads(told.stdout)
    assert (job["state"], job["launcher"], job["executor"]) == ("succeeded", "ray", "ray")
    assert job["score"] > 0.8
    assert job["report"]["gram"]["n_computed"] == N_BLOCKS
    assert "computing Gram blocks: done" in told.stderr
    workspace = ("--workspace", folder / "ws")
    logs = run("jobs", job["id"], "--logs", *workspace)
    assert "Running entrypoint" in logs.stdout
    assert "computing Gram blocks: done" in logs.stdout

    (folder / "ws").rename(folder / "before")
    told = run("submit", job_file(folder, "local"), "--address", head.url, "--json")
    job_id = json.loads(told.stdout)["id"]
    until(lambda: blocks(folder) >= 1)
    cancelled = run("jobs", job_id, "--cancel", "--json", *workspace)
    assert cancelled.returncode == 0, cancelled.stderr
    assert json.loads(cancelled.stdout)["state"] == "cancelled"
    (outcome,) = folder.glob("ws/jobs/digits/*/outcome.json")
    assert json.loads(outcome.read_text())["state"] == "interrupted", "it was asked, not killed"


def test_a_driver_that_ray_refuses_is_told_and_one_that_ends_is_seen(head: Head) -> None:
    from ntk_dist.jobs.ray_jobs import RayLauncher

    now = datetime.now(UTC)
    spec = {"resources": {"driver_cpus": 1, "driver_memory_bytes": 2**20}, "executor": "ray"}
    record = lifecycle.new_job(name="a", spec=spec, launcher="ray", now=now)
    record = lifecycle.claim(record, "me", now, 60.0)
    launcher = RayLauncher(head.url)
    assert launcher.look(record) == "unknown", "Ray has never heard of it"
    with pytest.raises(ExecutorError, match="does not exist"):
        launcher.stop(record)
    handle = launcher.launch(record)
    with pytest.raises(ExecutorError, match=r"refuses .* already exists") as refused:
        launcher.launch(record)  # nobody asks twice; Ray refuses other things the same way
    assert not isinstance(refused.value, ExecutorUnreachableError)
    # What it was sent is no job, so that it ends soon.
    until(lambda: launcher.look(replace(record, handle=handle)) == "gone")
    assert b"expected a mapping" in launcher.logs(record) or b"missing" in launcher.logs(record)


@pytest.mark.parametrize(("executor", "most"), [("ray", 1), ("local", 2)])
def test_a_driver_that_would_wait_for_ever_is_refused(
    head: Head, folder: Path, run: Callable[..., Any], executor: str, most: int
) -> None:
    from ntk_dist.jobs.ray_jobs import RayLauncher

    launcher = RayLauncher(head.url)
    until(lambda: launcher._jobs(head.url).unmanaged_cpus() == 2)
    file = job_file(folder, executor, f"resources: {{driver_cpus: {most + 1}}}\n")
    told = run("submit", file, "--address", head.url, "--json")
    job = json.loads(told.stdout)
    assert (job["state"], job["failure"]["code"]) == ("failed", "invalid_input")
    expected = f"driver_cpus: expected at most {most} on the Ray cluster at {head.url}, which has 2"
    assert expected in job["failure"]["message"]


def test_a_head_that_cannot_be_asked_is_told_and_nothing_is_submitted(
    head: Head, folder: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntk_dist.jobs.ray_jobs import RayLauncher

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # as in a process that a cluster started
    RayLauncher(head.url).check()
    with pytest.raises(InvalidInputError, match="--address"):
        RayLauncher().check()
    (port,) = free_ports(1)
    told = run("submit", job_file(folder, "local"), "--address", f"http://127.0.0.1:{port}")
    assert told.returncode == 4
    assert f"http://127.0.0.1:{port}" in told.stderr
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    with pytest.raises(ExecutorUnreachableError, match="same RAY_AUTH_TOKEN"):
        RayLauncher(head.url).check()
    assert run("jobs", "--workspace", folder / "ws").stdout == "no jobs\n"


def test_a_job_whose_head_is_killed_is_lost_and_goes_on_on_another(
    head: Head, folder: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "SILENT_S", 12.0)  # a driver that lives writes every 10 s
    file = job_file(folder, "local", "resources: {driver_cpus: 1}\n")
    told = run("submit", file, "--address", head.url, "--json")
    job_id = json.loads(told.stdout)["id"]
    until(lambda: blocks(folder) >= 3)
    head.kill()
    kept = blocks(folder)
    assert 3 <= kept < N_BLOCKS
    workspace = ("--workspace", folder / "ws")
    followed = run("jobs", job_id, "--follow", *workspace)
    assert followed.returncode == 1
    assert "is lost" in followed.stderr
    assert "--resume" in run("jobs", job_id, *workspace).stdout
    with ray_head() as second:
        ended = run(
            *("jobs", job_id, "--resume", "--follow", "--json"),
            *("--address", second.url, *workspace),
        )
        assert ended.returncode == 0, ended.stderr
        job = json.loads(ended.stdout)
        assert (job["attempt"], job["model_version"]) == (2, 1)
        assert job["report"]["gram"]["n_computed"] == N_BLOCKS - kept
