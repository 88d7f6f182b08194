"""What callers are told in place of the paths and addresses of the service."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ntk_dist.service.uploads import SCHEME
from ntk_dist.store.location import is_remote
from ntk_dist.store.place import AbstractPlace
from ntk_dist.store.workspace import NAME_PATTERN
from ntk_dist.wire import to_json

__all__ = ["PublicNames"]

_BEFORE, _BEHIND = r"(?<![\w.~-])", r"(?![\w-])"
"""Around a whole path: ``/data`` is no part of ``/database`` and ``/my/data``."""


class PublicNames:
    """Names that callers know, for places that are the operator's business.

    An upload is ``upload://ID`` again, the workspace is ``WORKSPACE``, and a data root is called
    as the operator calls it, whatever it is behind its links.

    Parameters
    ----------
    workspace
        Of the service.
    state_folder
        What drivers are started from.
    roots
        Folders and addresses that jobs may read.
    """

    def __init__(self, workspace: AbstractPlace, state_folder: Path, roots: Iterable[str]) -> None:
        of_workspace = _spellings(workspace.folder or workspace.location)
        names = dict.fromkeys(of_workspace, "WORKSPACE")
        names |= dict.fromkeys(_spellings(state_folder), "STATE")
        for root in roots:
            place = root.rstrip("/") if is_remote(root) else Path(root)
            names |= dict.fromkeys(_spellings(place), root.rstrip("/"))
        names.pop("/", None)
        self._names = names
        # The longest first: some are within others.
        known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        within = "|".join(map(re.escape, of_workspace))
        upload = rf"(?:{within})/uploads/(?P<id>[0-9a-f]{{32}})/file/{NAME_PATTERN}"
        self._pattern = re.compile(rf"{_BEFORE}(?:{upload}|(?P<place>{known})){_BEHIND}")
        self._in_log = re.compile(os.fsencode(rf"{_BEFORE}(?:{known}){_BEHIND}"))
        self._covered_paths = [os.fsencode(path) for path, name in names.items() if path != name]
        self._longest = max((len(os.fsencode(path)) for path in names), default=0)

    def text(self, text: str) -> str:
        """``text`` with the names in place of the places."""
        return self._pattern.sub(
            lambda found: f"{SCHEME}{found['id']}" if found["id"] else self._names[found["place"]],
            text,
        )

    def json(self, record: object) -> Any:
        """JSON types of a record, with the names in all texts."""
        return self._named(to_json(record))

    def _named(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self._named(one) for key, one in value.items()}
        return [self._named(one) for one in value] if isinstance(value, list) else value

    def log(self, read: Callable[[int], bytes], start: int) -> bytes:
        """A log from byte ``start`` on, a star for every byte of a place.

        As many bytes as there were: whoever goes on reading says how many he has. A place that
        begins before ``start`` is covered too, and so is the beginning of one at the end.

        Parameters
        ----------
        read
            The log from some byte on.
        start
            First byte.
        """
        before = min(start, self._longest)
        return self._cut_off(self._in_log.sub(self._covered, read(start - before)))[before:]

    def _cut_off(self, log: bytes) -> bytes:
        """``log`` with its end covered where that is how a place begins: the rest may follow."""
        for n in range(min(self._longest, len(log)), 1, -1):
            end = log[-n:]
            if any(path.startswith(end) for path in self._covered_paths):
                return log[:-n] + b"*" * n
        return log

    def _covered(self, found: re.Match[bytes]) -> bytes:
        path = os.fsdecode(found[0])
        return found[0] if self._names[path] == path else b"*" * len(found[0])


def _spellings(place: Path | str) -> set[str]:
    """A folder as it was given, and behind its links."""
    return {str(place), str(place.resolve())} if isinstance(place, Path) else {place}
