"""The chart's pods as processes of this machine: a worker dies half way, and nobody notices."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from required import require
from sklearn.datasets import load_digits

from ntk_dist import Client, stax
from ntk_dist.errors import AuthenticationError
from ntk_dist.events import PhaseEvent, TaskEvent
from ntk_dist.store.location import open_place
from ntk_dist.wire import JobState

SCRIPT = Path(__file__).parents[2] / "deploy" / "one_machine_cluster.py"
CONV = stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1)
NET = stax.serial(CONV, stax.Relu(), CONV, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
# A journal in a bucket is 10 s behind: the blocks must take longer than that.
N_TRAIN, BLOCK_ROWS = 1400, 40
N_BLOCKS = 35 * 36 // 2


@dataclass(frozen=True)
class Running:
    """What the script says when everything runs."""

    url: str
    token: str
    pids: dict[str, int]
    first_address: str


@dataclass(frozen=True)
class Place:
    """A workspace, and the data of a job as it may name them there."""

    workspace: str
    data: dict[str, Any]
    test: dict[str, Any]
    roots: str = "[]"


@contextmanager
def one_machine(engine: str, place: Place, database: str) -> Iterator[Running]:
    """The script, which leaves no process behind."""
    # Other runs on this machine have other addresses.
    address = f"127.{random.SystemRandom().randrange(1, 255)}.{os.getpid() % 255}.2"
    command = [sys.executable, str(SCRIPT), "--engine", engine, "--workspace", place.workspace]
    command += ["--port", "0", "--first-address", address, "--json"]
    # By the environment: other users of a machine see the arguments.
    variables = {
        **os.environ,
        "NTK_DIST_SERVICE__DATABASE_URL": database,
        "NTK_DIST_SERVICE__DATA_ROOTS": place.roots,
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as script:
        tree: list[psutil.Process] = []
        try:
            assert script.stdout is not None
            line = script.stdout.readline()
            assert line, "it has said why on standard error"
            tree = psutil.Process(script.pid).children(recursive=True)
            yield Running(**json.loads(line), first_address=address)
        finally:
            tree += psutil.Process(script.pid).children(recursive=True)
            script.terminate()
            code = script.wait(120)
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert (code, alive) == (0, [])


def probes(engine: str, running: Running) -> list[str]:
    """What Kubernetes asks the pods of the chart; those of Ray have KubeRay's."""
    found = [f"{running.url}/v2/health/{what}" for what in ("live", "ready")]
    if engine == "dask":
        first = IPv4Address(running.first_address)
        found += [f"http://{first}:8787/health", f"http://{first + 1}:8788/health"]
    return found


def is_busy(pid: int) -> bool:
    """Whether a worker of the Ray node with that pid runs a task: Ray writes it into its title."""
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if each.cmdline()[:1] == ["ray::_run_task"]:
                return True
    return False


def kill_tree(pid: int) -> None:
    """A machine that loses its power."""
    process = psutil.Process(pid)
    for each in [*process.children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


@pytest.fixture
def digits() -> tuple[np.ndarray, ...]:
    found = load_digits()
    x, y = (found.images[..., None] / 16).astype(np.float32), found.target
    n = N_TRAIN + 200
    return x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:n], y[N_TRAIN:n]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, digits: tuple[np.ndarray, ...]) -> Place:
    """A folder that all share for Ray, with uploads; a bucket for Dask, which has the data."""
    x, y, x_test, y_test = digits
    if request.node.callspec.params["engine"] == "ray":
        return Place(str(tmp_path / "ws"), {"x": x, "y": y}, {"x": x_test, "y": y_test})
    bucket = request.getfixturevalue("bucket")
    file = io.BytesIO()
    np.savez(file, x=x, y=y, x_test=x_test, y_test=y_test)
    (open_place(bucket) / "data" / "digits.npz").write_bytes(file.getvalue())
    at = f"{bucket}/data/digits.npz"
    return Place(
        f"{bucket}/ws",
        {"x": f"{at}:x", "y": f"{at}:y"},
        {"x": f"{at}:x_test", "y": f"{at}:y_test"},
        json.dumps([f"{bucket}/data"]),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # where no engine is compiled yet, two workers at once take minutes
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("ray", marks=pytest.mark.ray, id="Ray and a folder"),
        pytest.param("dask", marks=pytest.mark.dask, id="Dask and a bucket"),
    ],
)
def test_a_worker_that_is_killed_half_way_costs_nothing_but_time(
    engine: str, place: Place, postgresql: Any, digits: tuple[np.ndarray, ...]
) -> None:
    require(engine)
    job = {
        "name": "digits",
        "task": "classification",
        "data": place.data,
        "test": place.test,
        "architecture": NET,
        "gram": {"block_rows": BLOCK_ROWS},
        "solver": {"tol": 1e-4},
    }
    with (
        one_machine(engine, place, postgresql.new_database()) as running,
        Client(running.url, token=running.token) as client,
        Client(running.url, token="nobody") as stranger,
    ):
        for probe in probes(engine, running):
            with urllib.request.urlopen(probe) as answer:
                assert answer.status == 200
        with pytest.raises(AuthenticationError):
            list(stranger.jobs())
        submitted = client.submit(job, upload=engine == "ray")
        phase, done, done_later, lost = "", 0, 0, 0
        killed = None
        for told in submitted.events():
            if isinstance(told.event, PhaseEvent) and told.event.state == "started":
                phase = told.event.phase
            if not isinstance(told.event, TaskEvent):
                continue
            lost += told.event.worker_lost
            if phase == "gram" and told.event.state == "done":
                done += 1
                done_later += killed is not None and told.time > killed
            # Early, because what is heard here has happened up to a second ago; and not before it
            # has something in its hands: the first worker of Ray may be through with half of the
            # blocks before the second one is up.
            victim = running.pids["worker-1"]
            if killed is None and done >= N_BLOCKS // 8 and (engine == "dask" or is_busy(victim)):
                kill_tree(victim)
                killed = datetime.now(UTC)
        ended = submitted.wait(timeout_s=60)
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
        assert ended.launcher == {"ray": "ray", "dask": "process"}[engine]
        assert ended.report["gram"]["n_computed"] == N_BLOCKS
        assert 0 < done_later < N_BLOCKS, "it was killed half way"
        assert lost >= 1, "it died with work in its hands"
        assert not psutil.pid_exists(running.pids["worker-1"])
        x_test, y_test = digits[2:]
        accuracy = np.mean(client.model("digits").predict(x_test) == y_test)
        assert accuracy == pytest.approx(ended.score)
        assert accuracy > 0.9
