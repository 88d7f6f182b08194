"""Dask workers on this machine, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import psutil
from distributed import Scheduler, SpecCluster
from distributed.deploy.spec import ProcessInterface
from distributed.system import MEMORY_LIMIT

from ntk_dist.errors import ExecutorUnreachableError, InvalidInputError
from ntk_dist.executors.environment import count_gpus, worker_environment
from ntk_dist.settings import get_settings

__all__ = ["WORKER_VARIABLES", "start_cluster"]

_QUIET = {"DASK_LOGGING__DISTRIBUTED": "error"}
_START_S = 60.0
_STOP_S = 3.0
WORKER_VARIABLES = {
    # Shards are memory that Dask cannot spill: a worker that pauses for it would wait for ever,
    # where one that is ended at 95 % of its share is noticed and its shards are built again.
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    # A look at every stack a hundred times a second, for a dashboard that is not there, takes a
    # sixth of a block's CPU time on a busy machine, where a block lasts long.
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    # Dask gives every freed array back to the system at once (a threshold of 64 KiB): a block of
    # 2048 rows then faults 30,000 pages and spends 0.1 s in the kernel where it needs 0.02 s. These
    # are what malloc chooses by itself in a plain process, once it has freed an array of 32 MiB.
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
"""Environment that a Dask worker needs, also one that somebody else starts."""


def start_cluster(n_workers: int | None, env: Mapping[str, str]) -> Any:
    """A scheduler in this process and ``n_workers`` worker processes, listening on localhost only.

    Threads, devices and memory of the machine are divided evenly between the workers.

    Raises
    ------
    ExecutorUnreachableError
        The workers did not come up.
    """
    if n_workers is not None and n_workers < 1:
        raise InvalidInputError(f"n_workers: expected at least 1 process, got {n_workers}")
    threads, gpus = get_settings().threads, count_gpus()
    count = n_workers or gpus or threads
    options = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "memory_limit": MEMORY_LIMIT // count,
        "dashboard": False,
        "death_timeout": _START_S,
    }
    workers = {
        index: {
            "cls": _WorkerProcess,
            "options": {
                "options": {**options, "name": index},
                "env": worker_environment(count, threads, gpus, index, env),
            },
        }
        for index in range(count)
    }
    # Port 0: a second run on this machine must not fight over the dashboard's well-known port.
    local = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    # Without its workers, which take seconds to come: nothing is left of an interrupt meanwhile.
    cluster = SpecCluster(
        scheduler={"cls": Scheduler, "options": local},
        name="ntk_dist",
        silence_logs=logging.CRITICAL,
    )
    try:
        cluster.worker_spec.update(workers)
        cluster.scale(count)
        cluster.wait_for_workers(count, timeout=_START_S)
    except BaseException as error:
        cluster.close()
        if not isinstance(error, TimeoutError):
            raise
        raise ExecutorUnreachableError(
            f"expected {count} Dask workers on this machine within {_START_S:g} s ({error}); "
            "their messages are above"
        ) from error
    return cluster


class _WorkerProcess(ProcessInterface):  # type: ignore[misc]  # distributed has no types
    """A nanny with its worker, started as a program of their own.

    Not spawned from this process as Dask does by default: spawning imports the caller's main
    script again, and a script without an ``if __name__ == "__main__"`` guard would start a
    cluster in each of its workers.
    """

    def __init__(
        self, scheduler: str, options: Mapping[str, Any], env: Mapping[str, str], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._scheduler, self._options, self._env = scheduler, options, env
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        spec = {"cls": "distributed.Nanny", "opts": dict(self._options)}
        command = [sys.executable, "-m", "dask", "spec", self._scheduler, "--spec"]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            json.dumps(spec),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **_QUIET, **WORKER_VARIABLES, **self._env},
            # Ctrl-C is for the driving process, which then stops its workers in order.
            start_new_session=True,
        )
        await super().start()

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
            for child in children:
                if child.is_running():
                    child.kill()
        await super().close()
