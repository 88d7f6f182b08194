"""A cluster on one machine: what the pods of the chart run, as processes beside each other.

::

    python deploy/one_machine_cluster.py --engine ray --workspace ./ws
    python deploy/one_machine_cluster.py --engine dask --workspace s3://bucket/prefix

A head and workers, each with an address, ports and resources of its own, and the service before
them; it says where that is and which token it takes. A worker may be killed to see what happens.
Ctrl-C ends everything that was started, and nothing else.

:func:`pods` has the commands, the same as on Kubernetes. What a machine has to add is said by
:func:`ray_here` and :func:`dask_here` alone: addresses instead of names, and folders and ports that
the nodes must not share. A bucket is reached by the ``AWS_*`` variables of this environment, and
PostgreSQL, which it needs beside it, by ``NTK_DIST_SERVICE__DATABASE_URL``.

Only Linux has all addresses from 127.0.0.1 to 127.255.255.254 without being told.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

import click
import psutil

from ntk_dist.executors.environment import worker_environment
from ntk_dist.service.tokens import new_token
from ntk_dist.settings import available_memory
from ntk_dist.store.location import open_place
from ntk_dist.units import parse_bytes

START_S = 120.0
"""Longest that one process may take to be ready; a Ray node takes 10 to 16 s on a busy machine."""
STOP_S = 15.0
LOOK_EVERY_S = 0.2
TRIES = 3
OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of each Ray node here: arguments and results on their way, no blocks."""
OF_THE_SERVICE = ("upgrade", "adopt", "service")
"""Pods that have its secrets."""
DASK_SCHEDULER_PORT, RAY_PORT, RAY_DASHBOARD_PORT = 8786, 6379, 8265


@dataclass(frozen=True, kw_only=True)
class Pod:
    """What the container of a pod runs."""

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    ready: str = ""
    """What it prints when it can be used, as a regular expression; empty: it ends by itself."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the commands depend on; the values of the chart, in short."""

    engine: str
    """``ray`` or ``dask``."""
    workspace: str
    head: str
    """Name or address of the Ray head, or of the Dask scheduler."""
    workers: int = 2
    worker_cpus: int = 1
    object_store_bytes: int = OBJECT_STORE_BYTES
    has_postgresql: bool = False
    """The database has a URL, and is none that the service makes by itself."""


def pods(cluster: Cluster) -> list[Pod]:
    """All pods in the order in which they start; the service is the last."""
    at_workspace = ("--workspace", cluster.workspace)
    engine, of_service = _ray(cluster) if cluster.engine == "ray" else _dask(cluster)
    upgrade = Pod(name="upgrade", command=("ntk-dist", "database", "upgrade"))
    return [
        *([upgrade] if cluster.has_postgresql else []),
        *engine,
        Pod(
            name="adopt",
            command=(
                *("ntk-dist", "token", "adopt", "--name", "bootstrap", "--scope", "admin"),
                *at_workspace,
            ),
        ),
        Pod(
            name="service",
            command=("ntk-dist", "serve", *at_workspace, "--host", "0.0.0.0", "--port", "8080"),
            variables=of_service,
            ready=r"listening on (\S+)",
        ),
    ]


def _ray(cluster: Cluster) -> tuple[list[Pod], dict[str, str]]:
    ready = "Ray runtime started"
    # No CPUs for tasks: the head keeps the cluster, and drivers, which take none, run beside it.
    shared = {"object-store-memory": str(cluster.object_store_bytes)}
    of_head = {**shared, "dashboard-host": "0.0.0.0", "num-cpus": "0"}
    of_worker = {**shared, "num-cpus": str(cluster.worker_cpus)}
    address = f"--address={cluster.head}:{RAY_PORT}"
    head = Pod(name="head", command=ray_start("--head", of_head), ready=ready)
    workers = [
        Pod(name=f"worker-{k}", command=ray_start(address, of_worker), ready=ready)
        for k in range(1, cluster.workers + 1)
    ]
    return [head, *workers], {
        "NTK_DIST_SERVICE__RAY_JOBS_URL": f"http://{cluster.head}:{RAY_DASHBOARD_PORT}",
        "NTK_DIST_SERVICE__EXECUTORS": '["ray", "local"]',
    }


def ray_start(role: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
    """What KubeRay makes of ``rayStartParams``, to which it adds the CPUs of a pod's limit."""
    given = (f"--{name}={value}" for name, value in sorted(parameters.items()))
    return ("ray", "start", role, "--block", *given)


def _dask(cluster: Cluster) -> tuple[list[Pod], dict[str, str]]:
    from ntk_dist.executors.dask_cluster import WORKER_VARIABLES

    port = str(DASK_SCHEDULER_PORT)
    scheduler = Pod(
        name="head",
        command=(
            *("dask", "scheduler", "--host", "0.0.0.0", "--port", port),
            *("--dashboard-address", ":8787"),
        ),
        ready="Scheduler at:",
    )
    worker = Pod(
        name="worker",
        command=(
            *("dask", "worker", f"tcp://{cluster.head}:{port}", "--nthreads", "1"),
            *("--nworkers", "1", "--memory-limit", "0.9", "--local-directory", "/tmp/dask"),
            *("--dashboard-address", ":8788"),
        ),
        variables={**WORKER_VARIABLES, **worker_environment(1, cluster.worker_cpus)},
        ready="Registered to:",
    )
    workers = [replace(worker, name=f"worker-{k}") for k in range(1, cluster.workers + 1)]
    scheme = f"dask://{cluster.head}:{port}"
    return [scheduler, *workers], {
        "NTK_DIST_SERVICE__EXECUTORS": json.dumps([scheme, "local"]),
    }


def ray_here(pod: Pod, address: str, cluster: Cluster, folder: Path, port: int) -> Pod:
    """A Ray node as one of several on this machine.

    Its control port is on every address, whichever it is given, so it is any that is free.
    """
    options = [f"--node-ip-address={address}", "--disable-usage-stats"]
    if pod.name == "head":
        options += [f"--port={port}", f"--temp-dir={folder}"]
    changed = {
        f"--address={cluster.head}:{RAY_PORT}": f"--address={cluster.head}:{port}",
        "--dashboard-host=0.0.0.0": f"--dashboard-host={address}",
    }
    return replace(pod, command=(*(changed.get(word, word) for word in pod.command), *options))


def dask_here(pod: Pod, address: str, folder: Path, worker_bytes: int) -> Pod:
    """A Dask process as one of several on this machine, of whose memory it has a part."""
    changed = {
        "0.0.0.0": address,
        ":8787": f"{address}:8787",
        ":8788": f"{address}:8788",
        "/tmp/dask": str(folder / pod.name),
        "0.9": str(worker_bytes),
    }
    where = () if pod.name == "head" else ("--host", address)
    return replace(pod, command=(*(changed.get(word, word) for word in pod.command), *where))


class Machine:
    """Starts pods as processes of this machine; leaving it ends them."""

    def __init__(self, logs: Path, variables: Mapping[str, str]) -> None:
        self._logs = logs
        self._variables = variables
        self._trees: dict[str, list[psutil.Process]] = {}
        """What the process of each pod has started, as far as it was seen."""
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        """By name, in the order in which they were started."""

    def start(self, pod: Pod) -> re.Match[str] | None:
        """What the process of a pod printed when it was ready; None for one that is done then.

        One that fails is started again, as Kubernetes does: a Ray node gives up when it is not part
        of its cluster after 30 s, which happens where processes outnumber CPUs.

        Raises
        ------
        click.ClickException
            It failed three times, or is not ready within 120 s.
        """
        for _ in range(TRIES):
            with self._log(pod.name).open("wb") as log:
                self.running[pod.name] = subprocess.Popen(
                    pod.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**self._variables, **pod.variables},
                    start_new_session=True,  # Ctrl-C is for this script, which ends all in order
                )
            deadline = time.monotonic() + START_S
            while (code := self._look(pod.name)) is None and time.monotonic() < deadline:
                if pod.ready and (found := re.search(pod.ready, self._printed(pod.name))):
                    return found
                time.sleep(LOOK_EVERY_S)
            if code == 0 and not pod.ready:
                return None
            self.end(pod.name)
            if code is None:
                break
        what = f"is not ready after {START_S:g} s" if code is None else f"ended with {code}"
        last = "\n".join(self._printed(pod.name).splitlines()[-15:])
        raise click.ClickException(f"{' '.join(pod.command)} {what}:\n{last}")

    def watch(self) -> NoReturn:
        """Say which of them end, until the service does."""
        ended = {name for name, process in self.running.items() if process.poll() == 0}
        while True:
            for name in self.running:
                if name in ended or (code := self._look(name)) is None:
                    continue
                ended.add(name)
                if name == "service":
                    last = self._printed(name)[-2000:]
                    raise click.ClickException(f"the service ended with {code}:\n{last}")
                click.echo(f"{name} ended with {code}; the others go on", err=True)
            time.sleep(LOOK_EVERY_S)

    def end(self, name: str) -> None:
        """End a process politely, and all that it has started; one that has ended is fine."""
        process = self.running[name]
        if self._look(name) is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        for each in self._trees[name]:
            with suppress(psutil.NoSuchProcess):  # psutil knows one from another of the same pid
                each.kill()
        process.kill()  # does nothing where it has been waited for
        process.wait()

    def _look(self, name: str) -> int | None:
        """The exit code of a process that has one; else what it has started is remembered."""
        process = self.running[name]
        if process.poll() is None:
            with suppress(psutil.NoSuchProcess):  # it may end just now
                self._trees[name] = psutil.Process(process.pid).children(recursive=True)
        self._trees.setdefault(name, [])
        return process.returncode

    def _printed(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # whoever asks twice leaves nothing behind either
        for name in reversed(self.running):  # the service first; a driver of it goes with it
            self.end(name)


def node_variables(engine: str) -> dict[str, str]:
    """The environment of a node: this one without what is the service's alone, or another Ray's."""
    private = ("RAY_", "NTK_DIST_SERVICE__", "NTK_DIST_TOKEN")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(private)}
    programs = Path(sys.executable).parent
    kept |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    if engine == "ray":
        kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return kept


def service_variables() -> dict[str, str]:
    """What the service has beyond that: its settings, and the token that it adopts."""
    kept = {name: v for name, v in os.environ.items() if name.startswith("NTK_DIST_SERVICE__")}
    token = os.environ.get("NTK_DIST_TOKEN")
    return {
        **kept,
        "NTK_DIST_TOKEN": token or new_token("bootstrap", ["admin"], datetime.now(UTC))[0],
    }


def free_port() -> int:
    """A port on which nobody listens, on any address of this machine."""
    with socket.create_server(("", 0)) as one:
        return int(one.getsockname()[1])


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Have a polite kill end everything, as Ctrl-C does."""
    raise KeyboardInterrupt


@click.command()
@click.option("--engine", required=True, type=click.Choice(["ray", "dask"]))
@click.option("--workspace", default="./ws", show_default=True, help="Or s3://BUCKET/PREFIX.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--cpus", default=1, show_default=True, type=click.IntRange(1), help="Of a worker.")
@click.option("--memory", metavar="SIZE", help="Of a Dask worker [half of what is free, divided].")
@click.option("--port", default=8080, show_default=True, help="Of the service, on 127.0.0.1.")
@click.option("--first-address", default="127.0.0.2", show_default=True, help="Of the head.")
@click.option("--json", "as_json", is_flag=True, help="Where everything is as one JSON object.")
def main(
    engine: str,
    workspace: str,
    workers: int,
    cpus: int,
    memory: str | None,
    port: int,
    first_address: str,
    as_json: bool,
) -> None:
    """Run a cluster and the service on this machine, until Ctrl-C."""
    signal.signal(signal.SIGTERM, interrupt)
    of_service = service_variables()
    cluster = Cluster(
        engine=engine,
        workspace=str(open_place(workspace).location),
        head=first_address,
        workers=workers,
        worker_cpus=cpus,
        has_postgresql="NTK_DIST_SERVICE__DATABASE_URL" in of_service,
    )
    worker_bytes = parse_bytes(memory) if memory else available_memory() // (2 * workers)
    with ExitStack() as closing:
        # Of a short name: Ray keeps sockets there, whose names may have 107 characters.
        made = tempfile.TemporaryDirectory(prefix="ntk-", ignore_cleanup_errors=True)
        folder = Path(closing.enter_context(made))
        machine = closing.enter_context(Machine(folder, node_variables(engine)))
        for pod in here(cluster, folder, worker_bytes, port):
            own = of_service if pod.name in OF_THE_SERVICE else {}
            ready = machine.start(replace(pod, variables={**own, **pod.variables}))
        assert ready is not None, "the service comes last"
        pids = {name: p.pid for name, p in machine.running.items() if p.poll() is None}
        tell(ready[1], of_service["NTK_DIST_TOKEN"], pids, as_json)
        with suppress(KeyboardInterrupt):
            machine.watch()


def here(cluster: Cluster, folder: Path, worker_bytes: int, port: int) -> Iterator[Pod]:
    """All pods as they run on this machine, each node with an address of its own."""
    address, ray_port = IPv4Address(cluster.head), free_port()
    for pod in pods(cluster):
        if pod.name == "service":
            changed = {"0.0.0.0": "127.0.0.1", "8080": str(port)}
            yield replace(pod, command=tuple(changed.get(word, word) for word in pod.command))
        elif pod.name in OF_THE_SERVICE:
            yield pod
        elif cluster.engine == "ray":
            yield ray_here(pod, str(address), cluster, folder, ray_port)
            address += 1
        else:
            yield dask_here(pod, str(address), folder, worker_bytes)
            address += 1


def tell(url: str, token: str, pids: Mapping[str, int], as_json: bool) -> None:
    """Where the service is, and what it takes."""
    if as_json:
        click.echo(json.dumps({"url": url, "token": token, "pids": pids}))
        return
    told = ", ".join(f"{name} {pid}" for name, pid in pids.items())
    click.echo(
        f"the service is at {url}; its token, for ntk_dist.Client and ntk-dist --service {url}:\n"
        f"export NTK_DIST_TOKEN={token}\nprocesses: {told}\nCtrl-C ends everything"
    )


if __name__ == "__main__":
    main()
