"""What a job reported, kept in its workspace as lines of JSON.

::

    WORKSPACE/jobs/NAME/RUN/events.0000.jsonl

A run of a job has a folder of its own, named by the moment it began, so two runs never write to
one file and a line that a crash tore is the last of its file. One event is one line, with the
version of this format and the time in UTC::

    {"schema": 1, "time": "2026-01-31T12:00:00.250Z", "kind": "step", "step": 7, ...}

Files are bounded: after 4 MiB, some 25,000 blocks, the next part begins, with a line of kind
``standing`` that sums up all before it; four parts of a run are kept, and the last ten runs of a
name. Of one before those the events go once it is over; what it came to stays, for a job that
nobody has asked about since (``outcome.json``, some kB).
Lines are written twice a second at most; in object storage, where nothing can be added to, parts
of 256 KiB are written whole every ten seconds. A job that has nothing to say writes the memory of
its driver every ten seconds, so that silence means something.

Reading is the matter of :mod:`ntk_dist.jobs.watch`.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ntk_dist.errors import ConflictError, InvalidInputError, StoreError
from ntk_dist.events import Event, EventSink, FanOut, JobEvent, MemoryEvent
from ntk_dist.jobs.lifecycle import run_name
from ntk_dist.jobs.outcome import OUTCOME_FILE
from ntk_dist.settings import process_bytes
from ntk_dist.standing import Standing, advance
from ntk_dist.store.folder import Folder
from ntk_dist.store.location import Location, open_place
from ntk_dist.store.place import ORPHAN_AGE_S, AbstractPlace, refusals

__all__ = [
    "SCHEMA",
    "FolderParts",
    "Journal",
    "ObjectParts",
    "Parts",
    "journaled",
    "new_run",
    "parts_of",
    "run_place",
    "runs_of",
]

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of the lines."""
KEPT_PARTS = 4
KEPT_RUNS = 10
LOOKED_AT = 50
"""Runs before those, from which events are removed: one request each in object storage."""
HEARTBEAT_S = 10.0
_RUN = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{4}")
_PART = re.compile(r"events\.(\d{4,})\.jsonl")


class Parts(Protocol):
    """Where the numbered parts of a run are kept.

    A folder appends; object storage cannot and has the part in work written whole.
    """

    flush_every_s: float
    """Seconds between two writes."""
    part_bytes: int
    """A part that has grown larger is followed by another one."""

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
    """Parts in a folder of this machine, which lines are added to.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        From every method: the folder cannot be read or written.
    """

    flush_every_s = 0.5
    part_bytes = 4 * 2**20

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> list[int]:
        """Parts that are there, ascending."""
        with refusals(self.folder):
            found = self.folder.iterdir() if self.folder.is_dir() else ()
            return _numbers(path.name for path in found)

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
        return self.folder / _part_name(number)


class ObjectParts:
    """Parts in object storage, where nothing can be added to: each is written whole every time.

    Raises
    ------
    StoreUnreachableError
        From every method: the storage does not answer.
    """

    flush_every_s = 10.0
    part_bytes = 2**18
    """At most so much, again and again: on average 13 kB/s."""

    def __init__(self, place: AbstractPlace) -> None:
        self.place = place
        self._written: dict[int, bytes] = {}

    def numbers(self) -> list[int]:
        """Parts that are there, ascending."""
        return _numbers(self.place.names())

    def append(self, number: int, lines: bytes) -> None:
        """Write a part with more lines at its end."""
        self._written = {number: self._written.get(number, b"") + lines}
        (self.place / _part_name(number)).write_bytes(self._written[number])

    def read(self, number: int, start: int) -> bytes:
        """A part from byte ``start`` on; nothing of a part that is gone."""
        try:
            return (self.place / _part_name(number)).read_bytes()[start:]
        except FileNotFoundError:
            return b""

    def remove(self, number: int) -> None:
        """Drop a part."""
        (self.place / _part_name(number)).delete()


def parts_of(run: AbstractPlace) -> Parts:
    """The parts of one run."""
    return FolderParts(run.folder) if isinstance(run, Folder) else ObjectParts(run)


def _part_name(number: int) -> str:
    return f"events.{number:04d}.jsonl"


def _numbers(names: Iterable[str]) -> list[int]:
    found = map(_PART.fullmatch, names)
    return sorted(int(name[1]) for name in found if name)


class Journal:
    """An event sink that writes lines; use it as a context manager.

    Parameters
    ----------
    parts
        Where to; empty.
    clock
        Seconds since 1970; a test may bring its own.
    part_bytes
        In place of those of ``parts``.

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
        part_bytes: int | None = None,
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._part_bytes = part_bytes or parts.part_bytes
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

    def __exit__(self, *exception: object) -> None:
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
        while not (self._refusal or self._closing.wait(self._parts.flush_every_s)):
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


def runs_of(workspace: AbstractPlace) -> dict[str, list[AbstractPlace]]:
    """Where the runs of every job in a workspace are, the oldest first, by name."""
    root = workspace / "jobs"
    runs = {name: _runs(root / name) for name in root.names()}
    return {name: found for name, found in runs.items() if found}


def _runs(job: AbstractPlace) -> list[AbstractPlace]:
    return [job / name for name in job.names() if _RUN.fullmatch(name)]


def run_place(workspace: AbstractPlace, name: str, run: str) -> AbstractPlace:
    """Where run ``run`` of job ``name`` is, or will be.

    Raises
    ------
    InvalidInputError
        Runs are not called that.
    """
    if not _RUN.fullmatch(run):
        raise InvalidInputError(
            f"run: expected a name such as 20260131T120000.250000Z-1a2b, got {run!r}"
        )
    return workspace / "jobs" / name / run


def new_run(workspace: AbstractPlace, name: str, run: str | None = None) -> Parts:
    """The parts of a run of job ``name`` that begins now; events of long ago are removed.

    Parameters
    ----------
    workspace, name
        Whose run it is.
    run
        What it is to be called; None for the moment it begins.

    Raises
    ------
    ConflictError
        Somebody has begun that run before.
    StoreFullError, StoreUnreachableError
        The workspace cannot be written.
    """
    job = workspace / "jobs" / name
    place = run_place(workspace, name, run or run_name(datetime.now(UTC), secrets.token_hex(2)))
    if place.is_folder():
        raise ConflictError(
            f"run {place.name} of job {name}: expected that nobody has begun it, got what somebody "
            "wrote; a run has one driver, give the next one another name"
        )
    place.make()
    for old in _runs(job)[-KEPT_RUNS - LOOKED_AT : -KEPT_RUNS]:
        with suppress(StoreError):
            _forget_events(old)
    return parts_of(place)


def _forget_events(run: AbstractPlace) -> None:
    """Remove the events of a run that is over.

    A run may be that of another job of this name, at work still, or over and not looked at yet: a
    supervisor judges by what it came to, so that stays. One that has left no such word was killed,
    or nobody waits for it; it is over when it has been silent for an hour.
    """
    names, parts = run.names(), parts_of(run)
    numbers = _numbers(names)
    if OUTCOME_FILE in names:
        for number in numbers:
            parts.remove(number)
    elif numbers and _last_moment(parts.read(numbers[-1], 0)) < time.time() - ORPHAN_AGE_S:
        run.delete()


def _last_moment(part: bytes) -> float:
    """Seconds since 1970 at which its last whole line was written; infinity if it has none."""
    lines = part[: part.rfind(b"\n") + 1].splitlines()
    try:
        return datetime.fromisoformat(json.loads(lines[-1])["time"]).timestamp()
    except (LookupError, TypeError, ValueError):
        return math.inf


@contextmanager
def journaled(
    location: Location, name: str, on_event: EventSink, run: str | None = None
) -> Iterator[FanOut]:
    """A sink for the events of job ``name``: heard by ``on_event`` and kept in its workspace.

    What the body comes to is the job's last event.

    Raises
    ------
    ConflictError
        Run ``run`` was begun before.
    StoreFullError, StoreUnreachableError
        The workspace cannot be written.
    """
    with Journal(new_run(open_place(location), name, run)) as journal:
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
