"""One place that holds everything a user made: data sets, Gram matrices, models, compiled code.

::

    LOCATION/datasets/FINGERPRINT     rows, stored once however often they are used
    LOCATION/grams/KEY                blocks, found again by what they belong to, and statistics
    LOCATION/models/NAME/VERSION      fitted models, versions 1, 2, ...
    LOCATION/jobs/NAME/RUN            what a job reported while it ran
    LOCATION/cache                    compiled kernels, safe to delete
"""

from __future__ import annotations

import errno
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntk_dist.errors import ArtifactError, InvalidInputError, StoreError, UnreadableDataError
from ntk_dist.store.base import AbstractBlockStore, AbstractRows
from ntk_dist.store.dataset import MemoryRows, ZarrRows, fingerprint, write_rows
from ntk_dist.store.location import absolute, refusals
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.memory import MemoryBlockStore
from ntk_dist.store.zarr import ZarrBlockStore, is_gram

__all__ = [
    "AbstractWorkspace",
    "MemoryWorkspace",
    "ModelDraft",
    "Workspace",
    "find_gram",
    "is_workspace",
    "open_workspace",
]

NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""What a model may be called: what is a folder anywhere and no option of a command."""
_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(r"[1-9][0-9]*")
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


class AbstractWorkspace(ABC):
    """Where a job keeps its rows and blocks."""

    @abstractmethod
    def gram(self, manifest: Manifest) -> AbstractBlockStore:
        """The block store of one Gram matrix, with the blocks that earlier runs left in it."""

    @abstractmethod
    def rows(self, x: np.ndarray) -> AbstractRows:
        """The rows of ``x``, stored once per fingerprint."""

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
    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where that is not a question of disks."""

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

    def free_bytes(self) -> None:
        """None: memory is budgeted elsewhere."""
        return

    def worker_environment(self) -> dict[str, str]:
        """Nothing: there is no folder to share compiled kernels in."""
        return {}


@dataclass
class ModelDraft:
    """A model folder while it is written."""

    folder: Path
    """Where to write; nobody else sees it yet."""
    version: int | None = None
    """Its version, once published."""
    published: Path | None = None
    """Its folder, once published."""


class Workspace(AbstractWorkspace):
    """A workspace in a folder that all workers reach under the same path.

    Raises
    ------
    InvalidInputError
        The location is neither text nor a Path.
    StoreUnreachableError
        The location cannot be made or written, or is no folder of this machine.
    """

    def __init__(self, location: str | Path, *, read_only: bool = False) -> None:
        self.location = Path(absolute(location))
        """Absolute path."""
        if read_only:
            return
        with refusals(self.location):
            self.location.mkdir(parents=True, exist_ok=True)
            probe = self.location / f".{uuid.uuid4().hex}.probe"
            probe.touch()
            probe.unlink()

    def gram(self, manifest: Manifest) -> ZarrBlockStore:
        """The block store of one Gram matrix, with the blocks that earlier runs left in it."""
        return ZarrBlockStore.create_or_open(self.location / "grams" / manifest.key, manifest)

    def rows(self, x: np.ndarray) -> AbstractRows:
        """The rows of ``x``, stored once per fingerprint."""
        return write_rows(self.location / "datasets" / fingerprint(x), x)

    def free_bytes(self) -> int:
        """Bytes that this user can still write."""
        with refusals(self.location):
            return shutil.disk_usage(self.location).free

    @property
    def compilation_cache(self) -> Path:
        """Folder for compiled kernels."""
        return self.location / "cache"

    def worker_environment(self) -> dict[str, str]:
        """Variables that let workers compile every kernel once for all of them."""
        return {
            "JAX_COMPILATION_CACHE_DIR": str(self.compilation_cache),
            # JAX keeps what took a second; the many programs that took less were 5 s out of 7 s.
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def grams(self) -> tuple[Path, ...]:
        """Folders of the Gram matrices kept here."""
        root = self.location / "grams"
        return tuple(sorted(p for p in root.iterdir() if is_gram(p))) if root.is_dir() else ()

    def gram_stores(self) -> Iterator[AbstractBlockStore]:
        """The Gram matrices kept here; one whose metadata is damaged is passed over."""
        for folder in self.grams():
            with suppress(StoreError):
                yield ZarrBlockStore.open(folder)

    def stored_rows(self, fingerprint: str) -> AbstractRows | None:
        """The rows of that fingerprint, if they were written to their end."""
        folder = self.location / "datasets" / fingerprint
        if not folder.is_dir():
            return None
        with suppress(UnreadableDataError):
            return ZarrRows(folder)
        return None

    def models(self) -> dict[str, tuple[int, ...]]:
        """Published versions of every model, ascending, by name."""
        root = self.location / "models"
        if not root.is_dir():
            return {}
        with refusals(root):
            names = sorted(p.name for p in root.iterdir() if _NAME.fullmatch(p.name))
            versions = {name: self._versions(name) for name in names}
        return {name: found for name, found in versions.items() if found}

    def model_folder(self, name: str, version: int | None = None) -> Path:
        """Folder of one published model; the latest version where none is given.

        Raises
        ------
        ArtifactError
            There is no such model; the message lists what there is.
        """
        versions = self._versions(_checked_name(name))
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
        return max(self._versions(_checked_name(name)), default=0) + 1

    @contextmanager
    def new_model(self, name: str) -> Iterator[ModelDraft]:
        """A folder to write a model into, published whole as the next version at the end.

        Readers never see half a model; two writers get two versions; when the body raises,
        nothing is left.

        Raises
        ------
        InvalidInputError
            The name is none that can be a folder.
        StoreFullError, StoreUnreachableError
            The folder cannot be written.
        """
        root = self._model(_checked_name(name))
        draft = ModelDraft(root / f".{uuid.uuid4().hex}.draft")
        with refusals(root):
            draft.folder.mkdir(parents=True)
        try:
            yield draft
            with refusals(root):
                self._publish(name, draft)
        finally:
            shutil.rmtree(draft.folder, ignore_errors=True)

    def _publish(self, name: str, draft: ModelDraft) -> None:
        while True:
            version = self.next_model_version(name)
            target = self._model(name) / str(version)
            try:
                draft.folder.rename(target)
            except OSError as error:
                if error.errno in _TAKEN:
                    continue  # another writer took this version since we looked
                raise
            draft.version, draft.published = version, target
            return

    def _model(self, name: str) -> Path:
        return self.location / "models" / name

    def _versions(self, name: str) -> tuple[int, ...]:
        root = self._model(name)
        if not root.is_dir():
            return ()
        return tuple(sorted(int(p.name) for p in root.iterdir() if _VERSION.fullmatch(p.name)))


def open_workspace(location: str | Path | None) -> AbstractWorkspace:
    """The workspace at ``location``; one in memory for None.

    Raises
    ------
    InvalidInputError
        The location is neither text nor a Path.
    StoreUnreachableError
        The location cannot be made or written, or is no folder of this machine.
    """
    return MemoryWorkspace() if location is None else Workspace(location)


def is_workspace(location: str | Path) -> bool:
    """Whether a workspace was used at ``location`` before."""
    return any(Path(location, part).is_dir() for part in ("datasets", "grams", "models", "jobs"))


def find_gram(location: str | Path | None, manifest: Manifest) -> ZarrBlockStore | None:
    """The Gram matrix that a workspace at ``location`` has stored already, if any.

    Unlike :func:`open_workspace` this makes and writes nothing.

    Raises
    ------
    StoreUnreachableError
        The location is of a kind that cannot be opened, or what is there is damaged.
    """
    if location is None:
        return None
    folder = Path(absolute(location), "grams", manifest.key)
    return ZarrBlockStore.open(folder) if is_gram(folder) else None


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "expected a model name of letters, digits, dots, underscores and hyphens "
            f"that does not begin with a dot or hyphen, got {name!r}"
        )
    return name
