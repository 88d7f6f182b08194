"""Work on two workers, one of which is killed, or comes, in the middle: a process for each.

Ray reads how it is to authenticate when it is imported, and a killed worker leaves noise behind.

    python scenarios.py gram|product dask|ray FOLDER
    python scenarios.py grown growing_ray FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ntk_dist import NTKRegressor, stax
from ntk_dist.events import Event, StepEvent, TaskEvent
from ntk_dist.executors import AbstractExecutor, make_executor
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.gram import Resources, gram_task, open_gram
from ntk_dist.settings import get_settings
from ntk_dist.store.workspace import Workspace

LAYER = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu())
NET = stax.serial(LAYER, LAYER, stax.Dense(1))
BLOCK_ROWS = 50
N_ROWS = 600
FRESH_S = 0.1
Victim = Callable[[], list[int]]
"""What dies together: a worker, or a node with all that runs on it."""


def data() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and one target."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((N_ROWS, 8)).astype(np.float32)
    return x, np.sin(3 * x[:, :1]) + x[:, 1:2]


@contextmanager
def dask() -> Iterator[tuple[AbstractExecutor, Victim]]:
    """Two worker processes, and what finds one of them."""
    with make_executor("dask:2") as executor:
        pids = {pid for _, pid in executor.map_unordered(_slow_pid, range(8))}
        yield executor, lambda: [min(pids)]


def _slow_pid(_: int) -> int:
    time.sleep(0.05)  # so that one worker does not answer for all
    return os.getpid()


@contextmanager
def ray() -> Iterator[tuple[AbstractExecutor, Victim]]:
    """Two nodes with a worker each, and what finds the second one's raylet and its workers.

    A worker whose raylet alone is killed may still hand in what it has begun.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    # The head makes a token in the home folder; other nodes look for it only if told to.
    os.environ["RAY_AUTH_MODE"] = "token"
    from ntk_dist.executors.ray import RayExecutor

    with (
        _ray_node("--head", f"--port={port}", "--include-dashboard=false"),
        _ray_node(f"--address=127.0.0.1:{port}") as second,
        RayExecutor(f"127.0.0.1:{port}") as executor,
    ):
        raylet = next(p for p in second.children(recursive=True) if p.name() == "raylet")
        yield executor, lambda: [raylet.pid, *(p.pid for p in raylet.children(recursive=True))]


@contextmanager
def growing_ray() -> Iterator[tuple[AbstractExecutor, Callable[[], None]]]:
    """A head that takes no tasks, and what adds two nodes with a worker each."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    os.environ["RAY_AUTH_MODE"] = "token"
    from ntk_dist.executors.ray import RayExecutor

    with (
        ExitStack() as nodes,
        _ray_node("--head", f"--port={port}", "--include-dashboard=false", cpus=0),
    ):

        def grow() -> None:
            for _ in range(2):
                nodes.enter_context(_ray_node(f"--address=127.0.0.1:{port}"))

        with RayExecutor(f"127.0.0.1:{port}") as executor:
            yield executor, grow


@contextmanager
def _ray_node(*arguments: str, cpus: int = 1) -> Iterator[psutil.Process]:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
    command += [f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1"]
    command += [f"--object-store-memory={80 * 2**20}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not any("Ray runtime started" in line for line in process.stdout):
                raise RuntimeError(f"{command} ended")
            yield psutil.Process(process.pid)
        finally:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()


class Counted:
    """A task that leaves a mark on disk each time it begins and each time it ends."""

    def __init__(self, task: Callable[[Any], Any], folder: Path) -> None:
        self.task, self.begun, self.ended = task, folder / "begun", folder / "ended"
        for each in (self.begun, self.ended):
            each.mkdir(parents=True)

    def __call__(self, item: Any) -> Any:
        mark = f"{item.i}-{item.j}-{os.getpid()}-{time.time_ns()}"
        (self.begun / mark).touch()
        time.sleep(2 * FRESH_S)  # long enough to be killed in
        result = self.task(item)
        (self.ended / mark).touch()
        return result

    def busy(self) -> set[int]:
        """Processes that have begun a task so lately that they cannot have ended it."""
        begun = [mark.name.split("-")[2:] for mark in self.begun.iterdir()]
        return {int(pid) for pid, at in begun if time.time_ns() - int(at) < FRESH_S * 1e9}


def gram(executor: AbstractExecutor, victim: Victim, folder: Path) -> dict[str, int]:
    """All blocks, with a kill in the middle of one: how many were begun, how many ended."""
    kernel, settings = Kernel(NET.layer, ("ntk",), "float32"), get_settings()
    events: list[Event] = []
    resources = Resources(Workspace(folder / "gram"), executor, settings)
    rows = resources.workspace.rows(data()[0])
    with open_gram(kernel, rows, BLOCK_ROWS, resources) as store:
        task = Counted(gram_task(kernel, rows, store, settings), folder / "marks")
        hit = threading.Thread(target=_kill_in_a_task, args=(task, victim))
        hit.start()
        stored = list(executor.map_unordered(task, store.grid, on_event=events.append))
        hit.join()
    return {
        "stored": len(stored),
        "begun": len(list(task.begun.iterdir())),
        "ended": len(list(task.ended.iterdir())),
        "slots": executor.n_slots,
        "lost": sum(isinstance(e, TaskEvent) and e.worker_lost for e in events),
    }


def _kill_in_a_task(task: Counted, victim: Victim) -> None:
    while task.busy().isdisjoint(pids := victim()):
        time.sleep(0.002)
    kill(pids)


def kill(pids: list[int]) -> None:
    """All of them at once, as a machine that loses its power."""
    for pid in pids:
        with suppress(ProcessLookupError):  # gone with its raylet
            os.kill(pid, signal.SIGKILL)


def product(executor: AbstractExecutor, victim: Victim, folder: Path) -> dict[str, int]:
    """A fit without and one with a kill in its fourth product: what was repeated."""
    events: list[Event] = []
    hits: list[threading.Timer] = []

    def fit(name: str, on_event: Callable[[Event], None]) -> NTKRegressor:
        model = NTKRegressor(
            NET, executor=executor, workspace=folder / name, block_rows=BLOCK_ROWS, tol=1e-8
        )
        model.fit(*data(), on_event=on_event)
        np.save(folder / f"{name}.npy", model.dual_coef_)
        return model

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepEvent) and event.step == 3:
            hits.append(threading.Timer(0.02, lambda: kill(victim())))
            hits[0].start()
        if isinstance(event, StepEvent) and event.step == 6:
            hits[0].join()  # so that later steps, if none before, meet the dead

    fit("quiet", lambda event: None)
    report = fit("disturbed", on_event).report_
    return {
        "converged": report.status == "converged",
        "computed": report.gram.n_computed,
        # A call to the dead fails when their engine notices; until then it is overdue.
        # Not of the Gram matrix: on a busy machine some of its tasks are slow enough for a twin.
        "repeated": sum(
            isinstance(e, TaskEvent) and e.state in {"retried", "duplicated"}
            for e in events[next(k for k, e in enumerate(events) if isinstance(e, StepEvent)) :]
        ),
    }


def grown(executor: AbstractExecutor, grow: Callable[[], None], folder: Path) -> dict[str, int]:
    """A map that begins before there is a worker: how much of it waits, and who does it."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for k in range(1000):  # five minutes of one worker
            taken += 1
            yield k

    before = executor.n_workers
    growing = threading.Timer(1.0, grow)
    growing.start()
    waiting, done_by = [], set()
    with closing(executor.map_unordered(_slowly, items())) as results:
        for k, (_, pid) in enumerate(results):
            waiting.append(taken - k)
            done_by.add(pid)
            if len(done_by) == 2 and waiting[-1] > waiting[0]:
                break
    growing.join()
    with executor.shards(_pid_of_shard, range(executor.n_workers)) as shards:
        homes = set(shards.call("__call__"))
    return {
        "before": before,
        "first": waiting[0],
        "most": max(waiting),
        "workers": len(done_by),
        "after": executor.n_workers,
        "homes": len(homes),
    }


def _slowly(_: int) -> int:
    time.sleep(0.3)  # so that a look at the cluster falls into the map
    return os.getpid()


class _pid_of_shard:
    def __init__(self, assignment: int) -> None:
        pass

    def __call__(self) -> int:
        return os.getpid()


if __name__ == "__main__":
    scenario, engine, place = sys.argv[1:]
    with globals()[engine]() as (workers, found):
        result = globals()[scenario](workers, found, Path(place))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
