# ruff: noqa: E402 - without Ray, imports below the first of it fail
from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from required import require

require("ray")

import ray

from ntk_dist.errors import InvalidInputError
from ntk_dist.events import Event, TaskEvent
from ntk_dist.executors import make_executor
from ntk_dist.executors import ray as ray_module
from ntk_dist.executors.ray import RayExecutor
from ntk_dist.executors.ray_shards import share_out

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayExecutor]:
    """Two workers, started here."""
    # Workers cannot import this file; what it defines travels whole.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with RayExecutor(n_workers=2, env={"JAX_COMPILATION_CACHE_DIR": "/somewhere"}) as executor:
        yield executor
    assert not ray.is_initialized()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class EnvironmentReader:
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def read(self) -> dict[str, str | None]:
        return {name: os.environ.get(name) for name in self.names}


@pytest.mark.parametrize("kind", ["task", "shard"])
def test_workers_get_their_share_of_the_machine(cluster: RayExecutor, kind: str) -> None:
    names = ["NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "JAX_COMPILATION_CACHE_DIR"]
    if kind == "task":
        seen = dict(cluster.map_unordered(lambda name: os.environ.get(name), names))
    else:
        with cluster.shards(EnvironmentReader, [names]) as shards:
            [seen] = shards.call("read")
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert [seen[name] for name in names] == [share, share, share, "/somewhere"]


def test_a_ray_that_was_there_before_is_used_and_left_alone(cluster: RayExecutor) -> None:
    with make_executor("ray") as guest:
        assert guest.n_workers == 2
        assert list(guest.map_unordered(abs, [-1])) == [(-1, 1)]
    assert list(cluster.map_unordered(abs, [-3])) == [(-3, 3)]


HALFWAY = """
import time
from pathlib import Path
import halfway.inner
folder = Path(__file__).parents[1]
(folder / "begun").touch()
while not (folder / "go_on").exists():
    time.sleep(0.01)
value = halfway.inner.value
"""


class Importing:
    """A task that needs a library which takes long to import."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return import_and_open, (self.folder,)


def import_and_open(folder: str) -> Callable[[int], int]:
    sys.path.insert(0, folder)
    value: int = importlib.import_module("halfway").value

    def task(item: int) -> int:
        time.sleep(0.05)  # so that one worker does not answer for all
        return value + item

    return task


def test_a_worker_cut_off_in_an_import_is_replaced(cluster: RayExecutor, tmp_path: Path) -> None:
    (tmp_path / "halfway").mkdir()
    (tmp_path / "halfway" / "__init__.py").write_text(HALFWAY)
    (tmp_path / "halfway" / "inner.py").write_text("value = 40")
    straggler = cluster._submit(cluster._ship(Importing(str(tmp_path))), 2)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    cluster.cancel([straggler], by_force=False)
    assert cluster.wait([straggler], 60.0)
    (tmp_path / "go_on").touch()
    events: list[Event] = []
    task = Importing(str(tmp_path))
    answers = dict(cluster.map_unordered(task, range(8), on_event=events.append))
    assert answers == {item: 40 + item for item in range(8)}
    assert not [e for e in events if isinstance(e, TaskEvent) and e.state == "retried"]


def test_workers_heed_interrupts_that_their_shell_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ray_module._heed_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("n", "rooms", "expected"),
    [
        (2, {"a": 1, "b": 1}, ["a", "b"]),
        (4, {"a": 2, "b": 2}, ["a", "b", "a", "b"]),
        (6, {"a": 1, "b": 4, "c": 1}, ["b", "b", "b", "a", "b", "c"]),
        (3, {"a": 1}, ["a", "a", "a"]),
        (3, {}, []),
    ],
)
def test_shards_are_shared_out_evenly(n: int, rooms: dict[str, float], expected: list[str]) -> None:
    assert share_out(n, rooms) == expected


def test_nodes_that_are_gone_take_no_share(
    cluster: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [*ray.nodes(), {"Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: known)
    with RayExecutor(n_workers=1) as guest:
        assert list(guest.map_unordered(lambda name: os.environ[name], ["NPROC"])) == [
            ("NPROC", "2")
        ]


def test_no_workers_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        RayExecutor(n_workers=0)


def test_no_cluster_at_the_address() -> None:
    # In a process of its own: here Ray may already be running, and would be used instead.
    code = (
        "import sys\n"
        "from ntk_dist.errors import ExecutorUnreachableError\n"
        "from ntk_dist.executors import make_executor\n"
        "try:\n    make_executor(sys.argv[1])\n"
        "except ExecutorUnreachableError as error:\n    print(error)\n"
    )
    address = f"ray://127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", code, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"no Ray cluster answers at {address} within 8 s")


@pytest.mark.slow
def test_a_polite_kill_reaches_the_handler_that_was_there() -> None:
    code = (
        "import signal, time\n"
        "from ntk_dist.executors import make_executor\n"
        "def interrupt(*_):\n    raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGTERM, interrupt)\n"
        "try:\n"
        "    with make_executor('ray:1') as executor:\n"
        "        for _ in executor.map_unordered(lambda x: time.sleep(60 * x), range(2)):\n"
        "            print('running', flush=True)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)


@pytest.mark.slow
def test_a_polite_kill_while_ray_starts_reaches_it_too() -> None:
    # Ray's own handler is in force then; a thread that waits for it sends the signal.
    code = (
        "import os, signal, threading, time\n"
        "from ntk_dist.executors import make_executor\n"
        "def interrupt(*_):\n    raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGTERM, interrupt)\n"
        "def kill():\n"
        "    while signal.getsignal(signal.SIGTERM) is interrupt:\n        time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
        "try:\n    make_executor('ray:1')\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "interrupted\n"


@pytest.mark.slow
def test_a_plain_script_runs_once_and_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import time\nimport psutil\n"
        "from ntk_dist.executors import make_executor\n"
        "print('started')\n"
        "def double(x):\n    return 2 * x\n"
        "with make_executor('ray:1') as executor:\n"
        "    print(list(executor.map_unordered(double, [21])))\n"
        "    processes = psutil.Process().children(recursive=True)\n"
        "    assert processes\n"
        "print(len(psutil.wait_procs(processes, timeout=20)[1]), 'left')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "started\n[(21, 42)]\n0 left\n"
