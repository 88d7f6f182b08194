"""The numbered files that the lines of a journal go to, in a folder or in object storage."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ntk_dist.store.folder import Folder
from ntk_dist.store.place import AbstractPlace, refusals

__all__ = ["FolderParts", "ObjectParts", "Parts", "part_numbers", "parts_of"]

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
            return part_numbers(path.name for path in found if path.is_file())

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
        return part_numbers(self.place.names())

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


def part_numbers(names: Iterable[str]) -> list[int]:
    """Of the parts among the files of a run, ascending."""
    found = map(_PART.fullmatch, names)
    return sorted(int(name[1]) for name in found if name)
