"""Which models the workspace has published, as their records say; nothing is loaded."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ntk_dist.errors import ArtifactError, ModelNotFoundError
from ntk_dist.model.artifact import read_record
from ntk_dist.model.serving import ModelFacts
from ntk_dist.store.arrays import read_arrays
from ntk_dist.store.place import AbstractPlace
from ntk_dist.store.workspace import NAME_PATTERN, Workspace
from ntk_dist.units import first_few
from ntk_dist.wire import Model

__all__ = ["Catalog", "Entry"]

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""What is known of a model is looked up again after so long: a new version is noticed that late.
A look takes 0.5 ms in a folder, and some requests in object storage."""
SHOWN = 20
"""Names in a message, at most."""
LONGEST_NAME = 255
"""Bytes of the name of a folder: a longer one is nowhere, and a file system complains of it."""

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class Entry:
    """One version of a model."""

    model: Model
    place: AbstractPlace
    checksum: str
    """Of its record: another one is another model, under whatever number."""


class Catalog:
    """Reads records, and remembers them for a moment; any number of threads may ask.

    Parameters
    ----------
    workspace
        Where the models are.
    clock
        Seconds; a test may bring its own.
    """

    def __init__(self, workspace: Workspace, clock: Callable[[], float] = time.monotonic) -> None:
        self._workspace = workspace
        self._clock = clock
        self._lock = threading.Lock()
        self._fresh: dict[tuple[str, int | None], tuple[float, Entry]] = {}
        self._read: dict[tuple[str, int], Entry] = {}

    def known(self, name: str, version: int | None = None) -> Entry | None:
        """What :meth:`find` gave a moment ago, if it did; reads nothing."""
        with self._lock:
            until, entry = self._fresh.get((name, version), (0.0, None))
        return entry if self._clock() < until else None

    def find(self, name: str, version: int | None = None, *, may_list: bool = True) -> Entry:
        """One version of a model; the latest where none is given.

        Parameters
        ----------
        name, version
            Of the model.
        may_list
            Whether whoever asks may hear what else there is: it is theirs to know, and to look it
            up, which takes a request to object storage for every model.

        Raises
        ------
        ModelNotFoundError
            There is none; the message says what there is, to those who may hear it.
        ArtifactError
            It is damaged.
        StoreUnreachableError
            The workspace cannot be read.
        """
        versions = self._versions(name)
        number = versions[-1] if version is None and versions else version
        if number is None or number not in versions:
            self._forget(name, versions)
            if not may_list:
                which = name if version is None else f"{name} version {version}"
                raise ModelNotFoundError(f"expected a model that is published, got {which!r}")
            raise ModelNotFoundError(self._what_there_is(name, version, versions))
        entry = self._entry(name, number, versions)
        with self._lock:
            self._fresh[name, version] = (self._clock() + FRESH_S, entry)
        return entry

    def latest(self) -> list[Entry]:
        """The latest version of every model, by name; a damaged one is passed over, and logged.

        Raises
        ------
        StoreUnreachableError
            The workspace cannot be read.
        """
        found = []
        for name in sorted(self._workspace.models()):
            try:
                found.append(self.find(name))
            except (ModelNotFoundError, ArtifactError) as error:
                log.warning("model %s is not listed: %s", name, error)
        return found

    def _versions(self, name: str) -> tuple[int, ...]:
        if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
            return ()
        return (self._workspace.place / "models" / name).versions()

    def _entry(self, name: str, version: int, versions: tuple[int, ...]) -> Entry:
        place = self._workspace.place / "models" / name / str(version)
        record = read_record(place)
        with self._lock:
            known = self._read.get((name, version))
        if (
            known is not None
            and known.checksum == record["checksum"]
            and known.model.versions == versions
        ):
            return known
        entry = Entry(_model(name, version, versions, record, place), place, record["checksum"])
        with self._lock:
            self._read[name, version] = entry
        return entry

    def _forget(self, name: str, versions: tuple[int, ...]) -> None:
        def is_there(key: tuple[str, int | None]) -> bool:
            return key[0] != name or key[1] in versions

        with self._lock:
            self._fresh = {key: each for key, each in self._fresh.items() if is_there(key)}
            self._read = {key: each for key, each in self._read.items() if is_there(key)}

    def _what_there_is(self, name: str, version: int | None, versions: tuple[int, ...]) -> str:
        if versions:
            return f"model {name}: expected one of the versions {list(versions)}, got {version}"
        shown = first_few(sorted(self._workspace.models()), SHOWN)
        return f"expected the name of a model, got {name!r}; there are: {shown or 'none'}"


def _model(
    name: str,
    version: int,
    versions: tuple[int, ...],
    record: dict[str, object],
    place: AbstractPlace,
) -> Model:
    facts = ModelFacts.of(record)
    classes = None
    if facts.task == "classification":
        found = read_arrays(place / "arrays", only={"classes"})
        if "classes" not in found:
            raise ArtifactError(f"the model at {place} has no classes: fit or copy it again")
        classes = tuple(found["classes"].tolist())
    return Model(
        name=name,
        version=version,
        versions=versions,
        task=facts.task,
        kernel=facts.parameters.kernel,
        architecture=facts.architecture,
        row_shape=facts.row_shape,
        input_range=facts.input_range,
        n_rows=facts.n_rows,
        n_targets=facts.n_targets,
        dtype=facts.dtype,
        classes=classes,
        n_bytes=facts.n_bytes,
        report=facts.report,
    )
