"""Reading the events of a run while they are written, after it ended, and after it was killed."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from ntk_dist.events import Event, event_of
from ntk_dist.jobs.journal import SCHEMA, moment_of, runs_of
from ntk_dist.jobs.parts import Parts, parts_of
from ntk_dist.standing import Standing, advance
from ntk_dist.store.place import AbstractPlace

__all__ = ["POLL_S", "Follower", "Position", "latest", "read_part"]

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
            now, record = _record(line)
            if record["kind"] == "standing":
                if sums_up:
                    self.standing = Standing.of(record)
                return []
            event = event_of(record)
            self.standing = advance(self.standing, event, now)
        except _NONE:
            self.skipped += 1
            return []
        return [(now, event)]


class Position(NamedTuple):
    """Where in the parts of a run a line ends."""

    number: int
    offset: int
    """In bytes."""

    def __str__(self) -> str:
        return f"{self.number}.{self.offset}"


def read_part(
    parts: Parts, start: Position
) -> tuple[list[tuple[Position, float, Event]], Position]:
    """Events behind a position, of one part at most, and the position behind them.

    Each comes with its own position and the seconds since 1970 it came at. What is no event of
    this version, and what of the journal is not kept any more, is passed over. A position within a
    line stands for the beginning of that line, so that its event is not lost.

    Raises
    ------
    StoreUnreachableError
        The folder cannot be read.
    """
    events: list[tuple[Position, float, Event]] = []
    for number in parts.numbers():
        if number < start.number or events:
            continue
        offset = start.offset if number == start.number else 0
        data = parts.read(number, max(0, offset - 1))
        if offset and data[:1] == b"\n":
            data = data[1:]
        elif offset:
            data = parts.read(number, 0)
            offset = data.rfind(b"\n", 0, offset) + 1
            data = data[offset:]
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            offset += len(line)
            with suppress(*_NONE):
                now, record = _record(line)
                events.append((Position(number, offset), now, event_of(record)))
        start = Position(number, offset)
    return events, start


_NONE = (AttributeError, LookupError, TypeError, ValueError)
"""What a line of any other shape comes to."""


def _record(line: bytes) -> tuple[float, dict[str, Any]]:
    """When a line was written, and what it says."""
    record = json.loads(line)
    now = datetime.fromisoformat(record["time"]).timestamp()
    if record["schema"] != SCHEMA:
        raise ValueError("a line of another version")
    return now, dict(record)


def latest(workspace: AbstractPlace) -> dict[str, Standing]:
    """Where the last run of every job in a workspace stands, by name.

    Raises
    ------
    StoreUnreachableError
        The workspace cannot be read.
    """
    found = {}
    for name, runs in runs_of(workspace).items():
        follower = Follower(parts_of(runs[-1]))
        follower.read()
        standing = follower.standing
        if standing.updated is None:  # killed before it wrote a line, or about to write one
            standing = replace(standing, updated=moment_of(runs[-1]))
        found[name] = standing
    return found
