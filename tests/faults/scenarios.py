"""Work on two workers, one of which is killed in the middle: a process of its own for each.

Ray reads how it is to authenticate when it is imported, and a killed worker leaves noise behind.

    python scenarios.py gram|product dask|ray FOLDER
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
from contextlib import contextmanager, suppress
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
Victim = Callable[[], int]


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
        yield executor, lambda: min(pids)


def _slow_pid(_: int) -> int:
    time.sleep(0.05)  # so that one worker does not answer for all
    return os.getpid()


@contextmanager
def ray() -> Iterator[tuple[AbstractExecutor, Victim]]:
    """Two nodes with a worker each, and what finds the second one's raylet."""
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
        family = second.children(recursive=True)
        yield executor, lambda: next(each.pid for each in family if each.name() == "raylet")


@contextmanager
def _ray_node(*arguments: str) -> Iterator[psutil.Process]:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
    command += ["--node-ip-address=127.0.0.1", f"--object-store-memory={80 * 2**20}", *arguments]
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
    """A task that leaves a mark on disk each time it begins."""

    def __init__(self, task: Callable[[Any], Any], folder: Path) -> None:
        self.task, self.folder = task, folder
        folder.mkdir()

    def __call__(self, item: Any) -> Any:
        (self.folder / f"{item.i}-{item.j}-{os.getpid()}-{time.time_ns()}").touch()
        time.sleep(0.1)  # long enough to be killed in
        return self.task(item)


def gram(executor: AbstractExecutor, victim: Victim, folder: Path) -> dict[str, int]:
    """All blocks, with a kill when both workers are at it: how often one was begun."""
    kernel, settings = Kernel(NET.layer, ("ntk",), "float32"), get_settings()
    resources = Resources(Workspace(folder / "gram"), executor, settings)
    rows = resources.workspace.rows(data()[0])
    with open_gram(kernel, rows, BLOCK_ROWS, resources) as store:
        task = Counted(gram_task(kernel, rows, store, settings), folder / "marks")
        pid, slots = victim(), executor.n_slots
        killed = False
        for _ in executor.map_unordered(task, store.grid):
            workers = {mark.name.split("-")[2] for mark in task.folder.iterdir()}
            if len(workers) > 1 and not killed:
                os.kill(pid, signal.SIGKILL)
                killed = True
    return {"begun": len(list((folder / "marks").iterdir())), "slots": slots}


def product(executor: AbstractExecutor, victim: Victim, folder: Path) -> dict[str, int]:
    """A fit without and one with a kill in its fourth product: what was repeated."""
    events: list[Event] = []

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
            threading.Timer(0.02, os.kill, (pid, signal.SIGKILL)).start()
        if isinstance(event, StepEvent) and event.step == 6:
            time.sleep(1.0)  # an actor outlives its node by some steps

    fit("quiet", lambda event: None)
    pid = victim()
    report = fit("disturbed", on_event).report_
    return {
        "converged": report.status == "converged",
        "computed": report.gram.n_computed,
        "retried": sum(isinstance(e, TaskEvent) and e.state == "retried" for e in events),
    }


if __name__ == "__main__":
    scenario, engine, place = sys.argv[1:]
    with globals()[engine]() as (workers, found):
        result = globals()[scenario](workers, found, Path(place))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
