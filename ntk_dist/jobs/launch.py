"""Who starts the drivers of jobs, finds them again and stops them.

A driver is always the command ``ntk-dist fit SPEC.json --run RUN``, wherever it runs. It knows
neither the database nor who started it; it writes its journal and what it came to in the workspace.
:class:`ProcessLauncher` runs drivers as processes of this machine,
:mod:`ntk_dist.jobs.ray_jobs` as jobs of a Ray cluster.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from ntk_dist.database.records import JobRecord
from ntk_dist.executors.environment import worker_environment
from ntk_dist.settings import SHARD_BYTES_ELSEWHERE, get_settings
from ntk_dist.store.place import refusals

__all__ = [
    "LOG_BYTES",
    "SPEC_FILE",
    "STOP_S",
    "AbstractLauncher",
    "DriverState",
    "ProcessLauncher",
    "driver_command",
    "driver_variables",
]

DriverState = Literal["pending", "alive", "gone", "unknown"]
"""``pending``: a cluster has not started it yet; ``unknown``: it cannot be seen from here."""

STOP_S = 10.0
"""What a driver that was told to stop takes at most, in seconds: it waits for its workers."""
SAME_PROCESS_S = 2.0
"""Where only the time of creation is known: it is corrected with the clock."""
LOG_BYTES = 4 * 2**20
"""Of a log, at one time."""
SPEC_FILE = "job.json"
_NOT_FOR_DRIVERS = ("NTK_DIST_SERVICE", "NTK_DIST_TOKEN")
"""Beginnings of variables, in either case; the first may be everything in one, as JSON."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Drivers that this process started, by pid: one that ended stays a zombie until it is waited for,
whichever launcher asks."""


class AbstractLauncher(ABC):
    """Runs drivers somewhere. All it has to remember is in the record of the job."""

    @abstractmethod
    def check(self) -> None:
        """Make sure that a driver could be launched now.

        Raises
        ------
        ExecutorError
            It could not; later perhaps.
        """

    @abstractmethod
    def launch(self, record: JobRecord) -> dict[str, Any]:
        """Start the driver of this attempt; what comes back is to be the record's ``handle``.

        Where it is not known whether the driver was started, it counts as started: whoever looks
        finds it, or hears nothing of it and has it replaced.

        Raises
        ------
        ExecutorUnreachableError
            It is not started, that is certain; later perhaps.
        ExecutorError
            Whoever was to start it refuses, and will again.
        StoreFullError, StoreUnreachableError
            It is not started, because nothing can be written here.
        """

    @abstractmethod
    def look(self, record: JobRecord) -> DriverState:
        """What can be seen of the driver, without waiting for it."""

    @abstractmethod
    def stop(self, record: JobRecord) -> None:
        """Have the driver end, politely first; to be called again until it is gone.

        Raises
        ------
        ExecutorError
            It cannot be told, or nobody knows of it.
        """

    @abstractmethod
    def logs(self, record: JobRecord, start: int = 0) -> bytes:
        """What the driver of this attempt printed, from byte ``start`` on; 4 MiB at most.

        Raises
        ------
        ExecutorUnreachableError, StoreUnreachableError
            It cannot be read now.
        """


def driver_command(python: str, spec: str | Path, run: str) -> list[str]:
    """The command line of a driver."""
    return [python, "-m", "ntk_dist", "fit", str(spec), "--run", run]


def driver_variables(spec: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables by which a driver keeps to its share of a machine.

    That is the CPUs that its job asked for, and as much memory for blocks as workers of machines
    that nobody here knows have: half of what is free may be there for several drivers.
    """
    # As it was kept: one that an older version let in is for the driver to refuse.
    cpus = (spec.get("resources") or {}).get("driver_cpus")
    most = get_settings().shard_max_bytes or SHARD_BYTES_ELSEWHERE
    shared = {"NTK_DIST_SHARD_MAX_BYTES": str(most)}
    return shared | worker_environment(1, cpus) if cpus else shared


class ProcessLauncher(AbstractLauncher):
    """Drivers as processes of this machine.

    They are leaders of process groups of their own and print into files, so they outlive whoever
    started them, also when that is killed.

    Parameters
    ----------
    state_folder
        For job files and logs: ``STATE/ID/ATTEMPT/``.
    """

    def __init__(self, state_folder: Path) -> None:
        self._folder = state_folder
        self._host = socket.gethostname()
        self._told_to_stop: dict[tuple[int, float], float] = {}
        """When, by pid and time of creation."""

    def check(self) -> None:
        """Nothing: this machine is there."""

    def launch(self, record: JobRecord) -> dict[str, Any]:
        """Start the driver; its handle is pid, host, and what tells it from others of that pid."""
        assert record.run is not None
        folder = self._attempt(record)
        with refusals(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SPEC_FILE).write_text(json.dumps(record.spec), encoding="utf-8")
            with (folder / "driver.log").open("ab") as log:
                child = subprocess.Popen(
                    driver_command(sys.executable, folder / SPEC_FILE, record.run),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**_environment(), **driver_variables(record.spec)},
                )
        _children[child.pid] = child
        try:
            created = psutil.Process(child.pid).create_time()
        except psutil.NoSuchProcess:
            created = time.time()  # it ended at once, and its place is taken by nobody so soon
        return {"pid": child.pid, "created": created, "host": self._host, **_birth(child.pid)}

    def look(self, record: JobRecord) -> DriverState:
        """Whether the process is there; of another host's nothing is known."""
        if record.handle.get("host") != self._host:
            return "unknown"
        return "gone" if _process(record.handle) is None else "alive"

    def stop(self, record: JobRecord) -> None:
        """SIGTERM to the driver, and after 10 s SIGKILL to it and all that it started."""
        if record.handle.get("host") != self._host:
            return
        process = _process(record.handle)
        if process is None:
            return
        who = process.pid, record.handle["created"]
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if who not in self._told_to_stop:
                self._told_to_stop[who] = time.monotonic()
                process.terminate()
            elif time.monotonic() - self._told_to_stop[who] >= STOP_S:
                os.killpg(process.pid, signal.SIGKILL)

    def logs(self, record: JobRecord, start: int = 0) -> bytes:
        """What the driver printed; nothing on a host that cannot see its file."""
        path = self._attempt(record) / "driver.log"
        with refusals(path):
            try:
                with path.open("rb") as log:
                    # A file system refuses to go far behind the end.
                    log.seek(min(start, os.fstat(log.fileno()).st_size))
                    return log.read(LOG_BYTES)
            except FileNotFoundError:
                return b""

    def _attempt(self, record: JobRecord) -> Path:
        return self._folder / record.id / str(record.attempt)


def _environment() -> dict[str, str]:
    """Variables of this process that are a driver's business."""
    return {k: v for k, v in os.environ.items() if not k.upper().startswith(_NOT_FOR_DRIVERS)}


def _process(handle: Mapping[str, Any]) -> psutil.Process | None:
    """The process of a handle; None if it has ended, whoever has its pid now."""
    pid = handle["pid"]
    try:
        process = psutil.Process(pid)
        if not _is_same(process, handle):
            return None
        has_ended = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        has_ended = True
    if child := _children.get(pid):
        # A child is waited for, or it stays; it looks like a zombie while its threads still end.
        has_ended = child.poll() is not None
        if has_ended:
            _children.pop(pid, None)
    return None if has_ended else process


def _is_same(process: psutil.Process, handle: Mapping[str, Any]) -> bool:
    if "ticks" in handle and (born := _birth(process.pid)):
        return all(handle[key] == value for key, value in born.items())
    # Not on Linux, which alone tells the ticks.
    return bool(abs(process.create_time() - handle["created"]) < SAME_PROCESS_S)


def _birth(pid: int) -> dict[str, Any]:
    """When a process began, in ticks since the machine did; nothing where it is not Linux.

    No clock is in it: a time of creation is ticks plus the time of boot, and that moves with every
    step of the clock. Ticks are field 22 of ``/proc/PID/stat``, see ``proc_pid_stat(5)``.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return {}
    # Field 2 is the name of the program in brackets, which may have blanks and brackets in it.
    return {"boot": boot, "ticks": int(stat.rpartition(b")")[2].split()[19])}
