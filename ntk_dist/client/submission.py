"""What is sent for a job: a job file or mapping made whole, so that no file here is needed.

What the keys mean is the service's to say: nothing is validated here but what has to be changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ntk_dist.client.exchange import Terms
from ntk_dist.client.flow import Flow, Work
from ntk_dist.client.uploads import Content, delivered
from ntk_dist.errors import JobSpecError, UnreadableDataError

__all__ = ["JobLike", "body_of", "data_here", "read_job", "uploaded"]

JobLike: TypeAlias = Mapping[str, Any] | str | Path
"""A job file, or the keys of one; among these an architecture may be a ``stax`` network, and data
may be arrays if they are uploaded."""
_ADDRESS = re.compile(r"[a-z0-9]+://")


@runtime_checkable
class _Network(Protocol):
    def to_json(self) -> str: ...


class DataHere(NamedTuple):
    """Data of a job that are on this machine."""

    section: str
    """``data`` or ``test``."""
    key: str
    """``x`` or ``y``."""
    content: Content
    array: str
    """Which one of the file, with its colon; empty if none is named."""

    @property
    def identity(self) -> str | int:
        """What is the same for the same content."""
        return id(self.content) if isinstance(self.content, np.ndarray) else str(self.content)


def read_job(job: JobLike) -> dict[str, Any]:
    """The keys of a job: its architecture inline, and the places in a file resolved against it.

    The workspace of a job file is where this machine keeps its fits; a service has its own.

    Raises
    ------
    JobSpecError
        It is no job file, or its architecture is in no file that can be read.
    """
    folder = None if isinstance(job, Mapping) else Path(job).expanduser().parent
    spec = dict(job) if isinstance(job, Mapping) else _parsed(Path(job).expanduser())
    if folder is not None:
        spec.pop("workspace", None)
    for section, key, place in _places(spec):
        text = str(place) if isinstance(place, str | Path) else place
        if folder is not None and isinstance(text, str) and not _ADDRESS.match(text):
            text = str(folder.absolute() / Path(text).expanduser())
        spec[section] = {**spec[section], key: text}
    if "architecture" in spec:
        spec["architecture"] = _inline(spec["architecture"], folder or Path())
    return spec


def data_here(spec: Mapping[str, Any]) -> list[DataHere]:
    """Arrays and files of this machine that a job names.

    Raises
    ------
    UnreadableDataError
        A place is neither a file here nor an address.
    """
    found = []
    for section, key, place in _places(spec):
        if isinstance(place, np.ndarray):
            found.append(DataHere(section, key, place, ""))
        elif isinstance(place, str) and not _ADDRESS.match(place):
            path, array = _split(place, f"{section}.{key}")
            found.append(DataHere(section, key, path, array))
    return found


def uploaded(terms: Terms, spec: Mapping[str, Any]) -> Flow[dict[str, Any]]:
    """The job with its data on the service; what is named twice is sent once."""
    found: list[DataHere] = yield Work(partial(data_here, spec))
    places: dict[str | int, str] = {}
    changed = dict(spec)
    for one in found:
        if one.identity not in places:
            is_array = isinstance(one.content, np.ndarray)
            filename = f"{one.section}-{one.key}.npy" if is_array else None
            upload = yield from delivered(terms, one.content, filename)
            places[one.identity] = upload.place
        changed[one.section] = {
            **changed[one.section],
            one.key: places[one.identity] + one.array,
        }
    return changed


def body_of(spec: Mapping[str, Any]) -> bytes:
    """A job as JSON.

    Raises
    ------
    JobSpecError
        Something in it is of no JSON type.
    """
    try:
        return json.dumps(spec, default=_plain, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise JobSpecError(
            f"job: expected numbers, text and lists or mappings of them, got {error}"
        ) from error


def _parsed(path: Path) -> dict[str, Any]:
    from ntk_dist.job_file import read_job_file  # 15 ms of YAML that only job files need

    return read_job_file(path)


def _places(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for section in ("data", "test"):
        data = spec.get(section)
        if isinstance(data, Mapping):
            yield from ((section, key, data[key]) for key in ("x", "y") if key in data)


def _split(place: str, what: str) -> tuple[Path, str]:
    # A path may contain colons itself: the shortest part that exists is the path.
    ends = [k for k, character in enumerate(place) if character == ":" and k] + [len(place)]
    for end in ends:
        path = Path(place[:end]).expanduser()
        try:
            if place and path.exists():
                return path.resolve(), place[end:]
        except (OSError, ValueError) as error:
            raise UnreadableDataError(
                f"{what}: expected a file to upload, got {place!r}: {error}"
            ) from error
    raise UnreadableDataError(
        f"{what}: expected a file to upload, got {place or 'no name'}, which does not exist"
    )


def _inline(architecture: Any, folder: Path) -> Any:
    """The layers themselves, not where to find them; what is no path or network stays as it is."""
    if isinstance(architecture, _Network):
        return json.loads(architecture.to_json())
    if not isinstance(architecture, str | Path):
        return architecture
    text = str(architecture)
    if not text.lstrip().startswith("["):
        path = folder / Path(text).expanduser()
        if Path(text).is_absolute() and not path.exists():
            return text  # of a machine of the service, which knows whether it may be read
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise JobSpecError(
                f"architecture: expected its JSON, or a file with it, got {path}: {error}"
            ) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JobSpecError(f"architecture: expected JSON, got: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        raise TypeError(
            f"an array of shape {value.shape}; data that are arrays are sent with upload=True"
        )
    raise TypeError(f"a {type(value).__name__}")
