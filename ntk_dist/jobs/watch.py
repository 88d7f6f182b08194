"""Reading the events of a run while they are written, after it ended, and after it was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from ntk_dist.events import Event, JobEvent, event_of
from ntk_dist.jobs.journal import SCHEMA, FolderParts, Parts, runs_of
from ntk_dist.standing import SILENT_S, Standing, advance

__all__ = ["Follower", "follow", "latest"]

POLL_S = 0.5
"""Lines are written twice a second, so looking more often shows nothing new."""


class Follower:
    """Reads what was added since it looked last, and adds it up.

    A last line without an end is still being written, or was torn by a crash: it is left for the
    next look. Whatever else is no event of this version is passed over and counted.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._number = -1
        self._offset = 0
        self.standing = Standing()
        """Where the job stands by all that was read."""
        self.skipped = 0
        """Lines that are damaged, or of a kind or version that is not known here."""

    def read(self) -> list[tuple[float, Event]]:
        """New events, with the seconds since 1970 they came at.

        Raises
        ------
        StoreUnreachableError
            The folder cannot be read.
        """
        events: list[tuple[float, Event]] = []
        for number in self._parts.numbers():
            if number < self._number:
                continue
            follows = True
            if number > self._number:
                # A part before this one may be gone: its sum is all there is of it.
                follows = self._offset > 0 and number == self._number + 1
                self._number, self._offset = number, 0
            for line in self._whole_lines():
                events.extend(self._take(line, sums_up=not follows))
        return events

    def _whole_lines(self) -> list[bytes]:
        data = self._parts.read(self._number, self._offset)
        end = data.rfind(b"\n") + 1
        self._offset += end
        return data[:end].splitlines()

    def _take(self, line: bytes, *, sums_up: bool) -> list[tuple[float, Event]]:
        """The event of one line; one of kind ``standing`` counts where lines before it are lost."""
        try:
            record = json.loads(line)
            now = datetime.fromisoformat(record["time"]).timestamp()
            kind = record["kind"] if record["schema"] == SCHEMA else "of another version"
            if kind == "standing":
                if sums_up:
                    self.standing = Standing.of(record)
                return []
            event = event_of({**record, "kind": kind})
            self.standing = advance(self.standing, event, now)
        except (AttributeError, LookupError, TypeError, ValueError):  # JSON of any other shape
            self.skipped += 1
            return []
        return [(now, event)]


def follow(
    parts: Parts,
    *,
    silent_s: float = SILENT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[float, Event]]:
    """Every event of a run, then those that are still to come, as they come.

    Ends with the job, or when nothing has come for ``silent_s`` seconds: it was killed, or this is
    not where it writes.

    Raises
    ------
    StoreUnreachableError
        The folder cannot be read.
    """
    follower, heard = Follower(parts), clock()
    while clock() - heard <= silent_s:
        for now, event in follower.read():
            heard = clock()
            yield now, event
            if isinstance(event, JobEvent) and event.state != "started":
                return
        sleep(POLL_S)


def latest(location: Path) -> dict[str, Standing]:
    """Where the last run of every job in a workspace stands, by name.

    Raises
    ------
    StoreUnreachableError
        The workspace cannot be read.
    """
    found = {}
    for name, runs in runs_of(location).items():
        follower = Follower(FolderParts(runs[-1]))
        follower.read()
        found[name] = follower.standing
    return found
