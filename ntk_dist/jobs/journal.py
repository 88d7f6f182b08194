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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from ntk_dist.errors import ConflictError, InvalidInputError, StoreError
from ntk_dist.events import Event, EventSink, FanOut, JobEvent, MemoryEvent
from ntk_dist.jobs.lifecycle import run_name
from ntk_dist.jobs.outcome import OUTCOME_FILE
from ntk_dist.jobs.parts import Parts, part_numbers, parts_of
from ntk_dist.settings import process_bytes
from ntk_dist.standing import Standing, advance
from ntk_dist.store.location import Location, open_place
from ntk_dist.store.place import ORPHAN_AGE_S, AbstractPlace

__all__ = [
    "SCHEMA",
    "Journal",
    "journaled",
    "moment_of",
    "new_run",
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


def moment_of(run: AbstractPlace) -> float:
    """When a run began, by its name, in seconds since 1970."""
    return datetime.strptime(run.name[:23] + "+0000", "%Y%m%dT%H%M%S.%fZ%z").timestamp()


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
    numbers = part_numbers(names)
    if OUTCOME_FILE in names:
        for number in numbers:
            parts.remove(number)
        return
    last = _last_moment(parts.read(numbers[-1], 0)) if numbers else moment_of(run)
    if last < time.time() - ORPHAN_AGE_S:
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
