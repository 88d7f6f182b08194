"""What a job reported, kept in its workspace as lines of JSON.

::

    WORKSPACE/jobs/NAME/RUN/events.0000.jsonl

A run of a job has a folder of its own, named by the moment it began, so two runs never write to
one file and a line that a crash tore is the last of its file. One event is one line, with the
version of this format and the time in UTC::

    {"schema": 1, "time": "2026-01-31T12:00:00.250Z", "kind": "step", "step": 7, ...}

Files are bounded: after 4 MiB, some 25,000 blocks, the next part begins, with a line of kind
``standing`` that sums up all before it; four parts of a run are kept, and ten runs of a job.
Lines are written twice a second at most. A job that has nothing to say writes the memory of its
driver every ten seconds, so that silence means something.

Reading is the matter of :mod:`ntk_dist.jobs.watch`.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ntk_dist.errors import StoreError
from ntk_dist.events import Event, EventSink, FanOut, JobEvent, MemoryEvent, ignore
from ntk_dist.settings import process_bytes
from ntk_dist.standing import Standing, advance
from ntk_dist.store.location import absolute, refusals

__all__ = ["SCHEMA", "FolderParts", "Journal", "Parts", "journaled", "new_run", "runs_of"]

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of the lines."""
PART_BYTES = 4 * 2**20
KEPT_PARTS = 4
KEPT_RUNS = 10
FLUSH_EVERY_S = 0.5
HEARTBEAT_S = 10.0
_RUN = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{4}")
_PART = re.compile(r"events\.(\d{4,})\.jsonl")


class Parts(Protocol):
    """Where the numbered parts of a run are kept.

    A folder appends; a place that cannot would keep the part in work in memory and write it whole.
    """

    def numbers(self) -> list[int]:
        """Parts that are there, ascending."""
        ...

    def append(self, number: int, lines: bytes) -> None:
        """Write more lines at the end of a part."""
        ...

    def read(self, number: int, start: int) -> bytes:
        """A part from byte ``start`` on; nothing of a part that is gone."""
        ...

    def remove(self, number: int) -> None:
        """Drop a part."""
        ...


class FolderParts:
    """Parts in a folder of this machine.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        From every method: the folder cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> list[int]:
        """Parts that are there, ascending."""
        with refusals(self.folder):
            if not self.folder.is_dir():
                return []
            found = (_PART.fullmatch(path.name) for path in self.folder.iterdir())
            return sorted(int(name[1]) for name in found if name)

    def append(self, number: int, lines: bytes) -> None:
        """Write more lines at the end of a part."""
        with refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path(number).open("ab", buffering=0) as file:
                file.write(lines)

    def read(self, number: int, start: int) -> bytes:
        """A part from byte ``start`` on; nothing of a part that is gone."""
        with refusals(self.folder):
            try:
                with self._path(number).open("rb") as file:
                    file.seek(start)
                    return file.read()
            except FileNotFoundError:
                return b""

    def remove(self, number: int) -> None:
        """Drop a part."""
        with refusals(self.folder):
            self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"events.{number:04d}.jsonl"


class Journal:
    """An event sink that writes lines; use it as a context manager.

    Parameters
    ----------
    parts
        Where to; empty.
    clock
        Seconds since 1970; a test may bring its own.
    part_bytes
        A part that has grown larger is followed by another one.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        When called, if an earlier line could not be written.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        clock: Callable[[], float] = time.time,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._part_bytes = part_bytes
        self._standing = Standing()
        """Where the job stands by what is written."""
        self._number = 0
        self._written = 0
        self._waiting: list[tuple[float, Event]] = []
        self._refusal: StoreError | None = None
        self._told = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._write_now_and_then, name="ntk_dist-journal", daemon=True
        )
        self.flushes = 0
        """How often lines were written."""

    def __enter__(self) -> Journal:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._flush()
        if self._refusal and not self._told:
            log.warning("the last events of this job are not kept: %s", self._refusal)

    def __call__(self, event: Event) -> None:
        """Have one event written soon."""
        with self._lock:
            if self._refusal:
                self._told = True
                raise self._refusal
            self._waiting.append((self._clock(), event))

    def _write_now_and_then(self) -> None:
        while not (self._refusal or self._closing.wait(FLUSH_EVERY_S)):
            self._flush()

    def _flush(self) -> None:
        """Write what waits; turning it into text is done here, not where the work is done."""
        with self._lock:
            events, self._waiting = self._waiting, []
        if not events and self._is_silent():
            events = [(self._clock(), MemoryEvent(n_bytes=process_bytes()))]
        if not events or self._refusal:
            return
        lines = b"".join(_line(now, event.to_dict()) for now, event in events)
        try:
            if self._written > self._part_bytes:
                self._number, self._written = self._number + 1, 0
                summed = {"kind": "standing", **self._standing.to_dict()}
                lines = _line(events[0][0], summed) + lines
                self._parts.remove(self._number - KEPT_PARTS)
            self._parts.append(self._number, lines)
        except StoreError as refusal:
            self._refusal = refusal
        for now, event in events:
            self._standing = advance(self._standing, event, now)
        self._written += len(lines)
        self.flushes += 1

    def _is_silent(self) -> bool:
        updated = self._standing.updated
        return updated is not None and self._clock() - updated >= HEARTBEAT_S


def _line(now: float, record: Mapping[str, Any]) -> bytes:
    told = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    time_utc = told.replace("+00:00", "Z")
    return json.dumps({"schema": SCHEMA, "time": time_utc, **record}).encode() + b"\n"


def runs_of(location: Path) -> dict[str, list[Path]]:
    """Folders of the runs of every job in a workspace, the oldest first, by name."""
    root = location / "jobs"
    with refusals(root):
        jobs = sorted(root.iterdir()) if root.is_dir() else []
        runs = {job.name: _runs(job) for job in jobs if job.is_dir()}
    return {name: found for name, found in runs.items() if found}


def _runs(job: Path) -> list[Path]:
    found = job.iterdir() if job.is_dir() else ()
    return sorted(path for path in found if _RUN.fullmatch(path.name))


def new_run(location: Path, name: str) -> FolderParts:
    """The parts of a run of job ``name`` that begins now; runs of long ago are removed.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        The workspace cannot be written.
    """
    job = location / "jobs" / name
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = job / f"{moment}-{secrets.token_hex(2)}"
    with refusals(job):
        folder.mkdir(parents=True)
        for run in _runs(job)[:-KEPT_RUNS]:
            shutil.rmtree(run, ignore_errors=True)
    return FolderParts(folder)


@contextmanager
def journaled(location: str | Path, name: str, on_event: EventSink) -> Iterator[FanOut]:
    """A sink for the events of job ``name``: heard by ``on_event`` and kept in its workspace.

    What the body comes to is the job's last event.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        The workspace cannot be written.
    """
    with _journal(location, name) as journal:
        events = FanOut(on_event, journal, sample=process_bytes)
        events(JobEvent(state="started", job=name))
        try:
            yield events
        except (KeyboardInterrupt, SystemExit):
            events(JobEvent(state="interrupted", job=name))
            raise
        except BaseException as error:
            code = getattr(error, "code", type(error).__name__)
            events(JobEvent(state="failed", job=name, text=f"{code}: {error}"))
            raise
        events(JobEvent(state="finished", job=name))


@contextmanager
def _journal(location: str | Path, name: str) -> Iterator[EventSink]:
    if "://" in str(location):
        log.warning(
            "events of job %s are not kept: expected a workspace in a folder of this machine, "
            "got %s, where no file can be added to; all else is as usual",
            name,
            location,
        )
        yield ignore
        return
    with Journal(new_run(Path(absolute(location)), name)) as journal:
        yield journal
