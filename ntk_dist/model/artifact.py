"""A fitted model as it is kept: everything needed to predict, and nothing executable.

::

    MODEL/model.json     what it is: parameters, architecture, preprocessing, report
    MODEL/arrays/        what preprocessing learned, and the classes
    MODEL/rows/          distinct training inputs
    MODEL/dual_coef/     their coefficients
    MODEL/statistics/    what predictions need to know of each of them alone

Arrays are checksummed Zarr; nothing is ever pickled. ``model.json`` is written last, so a folder
without it is no model. It holds the fingerprints of the four folders and of itself: parts of two
models, or an edited record, are refused rather than answered with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_dist._version import __version__
from ntk_dist.errors import ArtifactError, DataError, UnreadableDataError
from ntk_dist.store.arrays import read_arrays, write_arrays
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.dataset import ZarrRows, fingerprint, write_rows
from ntk_dist.store.location import Location, open_place
from ntk_dist.store.place import AbstractPlace, numbers_in

__all__ = [
    "Artifact",
    "is_model",
    "read_artifact",
    "read_record",
    "replace_artifact",
    "require_unchanged",
    "write_artifact",
]

FORMAT = 1
RECORD = "model.json"
PARTS = ("arrays", "rows", "dual_coef", "statistics")


def is_model(location: Location) -> bool:
    """Whether ``location`` holds a fitted model."""
    return (open_place(location) / RECORD).is_file()


@dataclass(frozen=True)
class Artifact:
    """What a model folder holds."""

    record: dict[str, Any]
    """JSON types only."""
    arrays: dict[str, np.ndarray]
    rows: AbstractRows
    dual_coef: np.ndarray
    statistics: AbstractRows
    """Of the rows, packed."""


def write_artifact(location: Location, artifact: Artifact) -> None:
    """Write a model into an empty ``location``.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        The folder cannot be written; it holds no model then.
    """
    place = open_place(location)
    write_arrays(place / "arrays", artifact.arrays)
    write_rows(place / "rows", artifact.rows.read(slice(0, len(artifact.rows))))
    write_rows(place / "dual_coef", artifact.dual_coef)
    values = artifact.statistics.read(slice(0, len(artifact.statistics)))
    statistics = write_rows(place / "statistics", values)
    record = {
        "format": FORMAT,
        "package_version": __version__,
        **artifact.record,
        "parts": _fingerprints(artifact.arrays, artifact.rows, artifact.dual_coef, statistics),
    }
    record["checksum"] = _checksum(record)
    (place / RECORD).write_bytes(f"{json.dumps(record, indent=1)}\n".encode())


def replace_artifact(location: Location, artifact: Artifact) -> None:
    """Write a model to ``location``, in place of a model that may be there.

    The new model is complete before the old one goes.

    Raises
    ------
    ArtifactError
        Something that is no model is there.
    """
    place = open_place(location)
    strangers = ["a file"] if place.is_file() else sorted({*place.names()} - {RECORD, *PARTS})[:3]
    if strangers:
        raise ArtifactError(
            f"expected a free place or a model to replace at {place}, got {', '.join(strangers)}: "
            "what is no part of a model is not deleted"
        )
    with place.replacing(last=RECORD) as draft:
        write_artifact(draft, artifact)


def _fingerprints(
    arrays: Mapping[str, np.ndarray],
    rows: AbstractRows,
    dual_coef: np.ndarray,
    statistics: AbstractRows,
) -> dict[str, str]:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype.str}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return {
        "arrays": digest.hexdigest()[:32],
        "rows": rows.fingerprint,
        "dual_coef": fingerprint(dual_coef),
        "statistics": statistics.fingerprint,
    }


def _checksum(record: Mapping[str, Any]) -> str:
    """Of everything in the record but the checksum itself."""
    rest = {name: value for name, value in record.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:32]


def require_unchanged(*parts: AbstractRows) -> None:
    """Refuse rows on disk that were replaced since they were opened.

    Raises
    ------
    ArtifactError
        The folder now holds other rows, or none.
    """
    for part in parts:
        if not isinstance(part, ZarrRows):
            continue
        try:
            now = _part(open_place(part.location)).fingerprint
        except DataError as error:
            raise ArtifactError(f"the training rows of this model are gone: {error}") from error
        if now != part.fingerprint:
            raise ArtifactError(
                f"the training rows at {part.location} were replaced since this model was opened: "
                "load it again"
            )


def read_record(location: Location) -> dict[str, Any]:
    """The ``model.json`` of a model folder.

    Raises
    ------
    ArtifactError
        There is none, it is not ours, or a newer version wrote it.
    """
    path = open_place(location) / RECORD
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"expected a fitted model at {location}, got {_in_place_of_one(open_place(location))}"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise ArtifactError(
            f"{path}: expected model format {FORMAT}, got {found}: read it with the version of "
            "ntk_dist that wrote it"
        )
    if record.get("checksum") != _checksum(record):
        raise ArtifactError(f"{path} was changed since the model was written: fit or copy it again")
    return record


def _in_place_of_one(place: AbstractPlace) -> str:
    """What is in a folder that is no model, in words, and what to do about it."""
    versions = [number for number in numbers_in(place.names()) if is_model(place / str(number))]
    if not versions:
        return f"no {RECORD} there"
    return f"a folder of versions: name one of them, such as {place / str(versions[-1])}"


def read_artifact(location: Location) -> Artifact:
    """The model in ``location``; its training rows stay on disk.

    Raises
    ------
    ArtifactError
        It is no model, or a part of it is missing or damaged.
    StoreUnreachableError
        It cannot be read now.
    """
    place = open_place(location)
    record = read_record(place)
    try:
        if not (place / "arrays").is_folder():
            raise UnreadableDataError("there are no arrays")
        arrays = read_arrays(place / "arrays")
        rows, stored = _part(place / "rows"), _part(place / "dual_coef")
        dual_coef = stored.read(slice(0, len(stored)))
        statistics = _part(place / "statistics")
    except DataError as error:
        raise ArtifactError(f"the model at {location} is damaged: {error}") from error
    found = _fingerprints(arrays, rows, dual_coef, statistics)
    if strange := [part for part, value in record["parts"].items() if found.get(part) != value]:
        raise ArtifactError(
            f"the model at {location}: {', '.join(strange)} belongs to another model: copy whole "
            "model folders only"
        )
    return Artifact(record, arrays, rows, dual_coef, statistics)


def _part(place: AbstractPlace) -> ZarrRows:
    if not place.is_folder():
        raise UnreadableDataError(f"expected stored rows at {place}, got none")
    return ZarrRows(place)
