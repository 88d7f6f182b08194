"""One place that holds everything a user made: data sets, Gram matrices, models, compiled code.

A folder, or a prefix of a bucket (which keeps no compiled code)::

    LOCATION/datasets/FINGERPRINT     rows, stored once however often they are used
    LOCATION/grams/KEY                blocks, found again by what they belong to, and statistics
    LOCATION/models/NAME/VERSION      fitted models, versions 1, 2, ...
    LOCATION/jobs/NAME/RUN            what a job reported while it ran
    LOCATION/service                  records of jobs, and what their drivers printed
    LOCATION/solves                   states of unfinished solves, safe to delete
    LOCATION/cache                    compiled kernels, safe to delete
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ntk_dist.errors import ArtifactError, InvalidInputError, StoreError, UnreadableDataError
from ntk_dist.kernels.cache import user_cache
from ntk_dist.store.base import AbstractBlockStore, AbstractRows
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.store.dataset import MemoryRows, ZarrRows, fingerprint, write_rows
from ntk_dist.store.location import Location, open_place
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.memory import MemoryBlockStore
from ntk_dist.store.place import AbstractPlace, Draft
from ntk_dist.store.zarr import ZarrBlockStore, is_gram

__all__ = [
    "NAME_PATTERN",
    "AbstractWorkspace",
    "MemoryWorkspace",
    "Workspace",
    "find_gram",
    "is_workspace",
    "open_workspace",
]

NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""What a model may be called: what is a folder anywhere and no option of a command."""
_NAME = re.compile(NAME_PATTERN)


class AbstractWorkspace(ABC):
    """Where a job keeps its rows and blocks."""

    @abstractmethod
    def gram(self, manifest: Manifest) -> AbstractBlockStore:
        """The block store of one Gram matrix, with the blocks that earlier runs left in it."""

    @abstractmethod
    def rows(self, x: np.ndarray) -> AbstractRows:
        """The rows of ``x``, stored once per fingerprint."""

    @abstractmethod
    def checkpoint(self, identity: Mapping[str, str]) -> Checkpoint | None:
        """Where the state of one solve is written down; None where nothing outlives the process."""

    @abstractmethod
    def gram_stores(self) -> Iterator[AbstractBlockStore]:
        """The Gram matrices kept here; one whose metadata is damaged is passed over."""

    @abstractmethod
    def stored_rows(self, fingerprint: str) -> AbstractRows | None:
        """The rows of that fingerprint; None if they are not here, whole.

        Raises
        ------
        StoreUnreachableError
            The place cannot be read.
        """

    @abstractmethod
    def worker_environment(self) -> dict[str, str]:
        """Environment variables for the processes that compute blocks of this workspace."""


class MemoryWorkspace(AbstractWorkspace):
    """A workspace that lasts as long as this object and leaves nothing on disk."""

    def __init__(self) -> None:
        self._grams: dict[str, MemoryBlockStore] = {}
        self._rows: dict[str, MemoryRows] = {}

    def gram(self, manifest: Manifest) -> MemoryBlockStore:
        """The block store of one Gram matrix."""
        return self._grams.setdefault(manifest.key, MemoryBlockStore(manifest))

    def rows(self, x: np.ndarray) -> MemoryRows:
        """The rows of ``x``, not copied."""
        rows = MemoryRows(x)
        self._rows[rows.fingerprint] = rows
        return rows

    def gram_stores(self) -> Iterator[AbstractBlockStore]:
        """Those that this object made."""
        yield from tuple(self._grams.values())

    def stored_rows(self, fingerprint: str) -> MemoryRows | None:
        """Rows that this object was given."""
        return self._rows.get(fingerprint)

    def checkpoint(self, identity: Mapping[str, str]) -> None:
        """None: it would be lost with this process."""
        return

    def worker_environment(self) -> dict[str, str]:
        """Nothing: there is no folder to share compiled kernels in."""
        return {}


class Workspace(AbstractWorkspace):
    """A workspace in a place that all workers reach under the same name.

    Raises
    ------
    InvalidInputError
        The location is neither text nor a Path, or means no place of a kind that is known here.
    StoreUnreachableError
        The location cannot be made or written.
    """

    def __init__(self, location: Location, *, read_only: bool = False) -> None:
        self.place = open_place(location)
        if not read_only:
            self.place.make()

    @property
    def location(self) -> str:
        """The same in every process."""
        return self.place.location

    def gram(self, manifest: Manifest) -> ZarrBlockStore:
        """The block store of one Gram matrix, with the blocks that earlier runs left in it."""
        return ZarrBlockStore.create_or_open(self.place / "grams" / manifest.key, manifest)

    def rows(self, x: np.ndarray) -> AbstractRows:
        """The rows of ``x``, stored once per fingerprint."""
        datasets, mark = self.place / "datasets", fingerprint(x)
        datasets.sweep_orphans()
        return write_rows(datasets / mark, x, mark)

    def checkpoint(self, identity: Mapping[str, str]) -> Checkpoint:
        """Where the state of the solve of this identity is written down."""
        return Checkpoint(self.solves, identity)

    @property
    def solves(self) -> AbstractPlace:
        """Where states are kept of solves that were cut off, or are at work."""
        return self.place / "solves"

    def free_bytes(self) -> int | None:
        """Bytes that this user can still write; None in object storage."""
        return self.place.free_bytes()

    @property
    def compilation_cache(self) -> Path:
        """Folder for compiled kernels: this user's where the workspace is no folder."""
        folder = self.place.folder
        return user_cache() if folder is None else folder / "cache"

    def worker_environment(self) -> dict[str, str]:
        """Variables that let workers compile every kernel once for all of them."""
        return {
            "JAX_COMPILATION_CACHE_DIR": str(self.compilation_cache),
            # JAX keeps what took a second; the many programs that took less were 5 s out of 7 s.
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def grams(self) -> tuple[AbstractPlace, ...]:
        """Places of the Gram matrices kept here."""
        root = self.place / "grams"
        return tuple(root / name for name in root.names() if is_gram(root / name))

    def gram_stores(self) -> Iterator[AbstractBlockStore]:
        """The Gram matrices kept here; one whose metadata is damaged is passed over."""
        for place in self.grams():
            with suppress(StoreError):
                yield ZarrBlockStore.open(place)

    def stored_rows(self, fingerprint: str) -> AbstractRows | None:
        """The rows of that fingerprint, if they were written to their end."""
        place = self.place / "datasets" / fingerprint
        if not place.is_folder():
            return None
        with suppress(UnreadableDataError):
            return ZarrRows(place)
        return None

    def models(self) -> dict[str, tuple[int, ...]]:
        """Published versions of every model, ascending, by name."""
        names = filter(_NAME.fullmatch, (self.place / "models").names())
        versions = {name: self._model(name).versions() for name in names}
        return {name: found for name, found in versions.items() if found}

    def model_place(self, name: str, version: int | None = None) -> AbstractPlace:
        """Place of one published model; the latest version where none is given.

        Raises
        ------
        ArtifactError
            There is no such model; the message lists what there is.
        """
        versions = self._model(name).versions()
        if not versions:
            raise ArtifactError(
                f"expected a model in {self.location}, got {name!r}; "
                f"there are {sorted(self.models()) or 'none'}"
            )
        wanted = versions[-1] if version is None else version
        if wanted not in versions:
            raise ArtifactError(
                f"model {name} in {self.location}: expected one of the versions "
                f"{list(versions)}, got {version}"
            )
        return self._model(name) / str(wanted)

    def next_model_version(self, name: str) -> int:
        """The version that a model published now would get."""
        return self._model(name).next_version()

    @contextmanager
    def new_model(self, name: str) -> Iterator[Draft]:
        """A place to write a model into, published whole as the next version at the end.

        Readers never see half a model; two writers get two versions; when the body raises,
        nothing is left.

        Raises
        ------
        InvalidInputError
            The name is none that can be a folder.
        StoreFullError, StoreUnreachableError
            The place cannot be written.
        """
        with self._model(name).new_version() as draft:
            yield draft

    def _model(self, name: str) -> AbstractPlace:
        return self.place / "models" / _checked_name(name)


def open_workspace(location: Location | None) -> AbstractWorkspace:
    """The workspace at ``location``; one in memory for None.

    Raises
    ------
    InvalidInputError
        The location is neither text nor a Path, or means no place of a kind that is known here.
    StoreUnreachableError
        The location cannot be made or written.
    """
    return MemoryWorkspace() if location is None else Workspace(location)


def is_workspace(location: Location) -> bool:
    """Whether a workspace was used at ``location`` before."""
    place = open_place(location)
    return any((place / part).is_folder() for part in ("datasets", "grams", "models", "jobs"))


def find_gram(location: Location | None, manifest: Manifest) -> ZarrBlockStore | None:
    """The Gram matrix that a workspace at ``location`` has stored already, if any.

    Unlike :func:`open_workspace` this makes and writes nothing.

    Raises
    ------
    InvalidInputError
        The location means no place of a kind that is known here.
    StoreUnreachableError
        What is there is damaged.
    """
    if location is None:
        return None
    place = open_place(location) / "grams" / manifest.key
    return ZarrBlockStore.open(place) if is_gram(place) else None


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "expected a model name of letters, digits, dots, underscores and hyphens "
            f"that does not begin with a dot or hyphen, got {name!r}"
        )
    return name
