"""A place that is a folder (or a file) of this machine, or of a disk that machines share."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zarr.storage import LocalStore

from ntk_dist.errors import StoreUnreachableError
from ntk_dist.store.place import AbstractPlace, Draft, numbers_in, refusals

__all__ = ["Folder"]

_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}
_ABSENT = (FileNotFoundError, NotADirectoryError)


class Folder(AbstractPlace):
    """A path; renaming makes things appear whole.

    Raises
    ------
    StoreUnreachableError
        The text can be no path.
    """

    def __init__(self, location: str) -> None:
        if not location or "\0" in location:
            raise StoreUnreachableError(
                f"expected a folder of this machine, got {location!r}; give a path"
            )
        self.folder: Path = Path(location).expanduser().absolute()
        self.location = str(self.folder)

    def __fspath__(self) -> str:
        return self.location

    def __truediv__(self, name: str) -> Folder:
        return Folder(str(self.folder / name))

    def make(self) -> None:
        """Make the folder, and a file in it for a moment."""
        with refusals(self):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".{uuid.uuid4().hex}.probe"
            probe.touch()
            probe.unlink()

    def names(self) -> tuple[str, ...]:
        """Files and folders directly in the folder."""
        with refusals(self):
            try:
                return tuple(sorted(path.name for path in self.folder.iterdir()))
            except _ABSENT:
                return ()

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self.folder.is_file()

    def is_folder(self) -> bool:
        """Whether there is a folder."""
        return self.folder.is_dir()

    def read_bytes(self) -> bytes:
        """The whole file."""
        with refusals(self):
            try:
                return self.folder.read_bytes()
            except NotADirectoryError as error:
                missing = FileNotFoundError(*error.args)
            except FileNotFoundError as error:
                missing = error
        raise missing

    def write_bytes(self, content: bytes) -> None:
        """Keep a file, written beside its place and renamed."""
        partial = self.folder.with_name(f".{self.name}.{uuid.uuid4().hex}.partial")
        with refusals(self):
            partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(self.folder)
            finally:
                partial.unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove the file, or the folder with everything in it."""
        with refusals(self), suppress(*_ABSENT):
            if self.folder.is_dir() and not self.folder.is_symlink():
                shutil.rmtree(self.folder)
            else:
                self.folder.unlink()

    def zarr_store(self, *, create: bool = False) -> LocalStore:
        """The folder as a Zarr store: chunks are written beside their place and renamed."""
        with refusals(self):
            if create:
                self.folder.mkdir(parents=True, exist_ok=True)
            elif not self.folder.is_dir():
                raise StoreUnreachableError(
                    f"expected a folder at {self}, got none; check the path"
                )
        return LocalStore(self.folder)

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        """The path itself."""
        if not self.folder.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.location)
        yield self.folder

    def free_bytes(self) -> int:
        """Bytes that this user can still write; a folder that is not there would be made."""
        there = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        with refusals(self):
            return shutil.disk_usage(there).free

    def sweep_orphans(self, older_than_s: float) -> None:
        """Remove old partial files; what is newer may still be at work."""
        newest = time.time() - older_than_s
        for partial in self.folder.rglob("*.partial"):
            with suppress(FileNotFoundError):  # another process sweeps too
                if partial.stat().st_mtime < newest:
                    partial.unlink()

    def versions(self) -> tuple[int, ...]:
        """Numbered folders here: a draft has its number from the moment it is whole."""
        return numbers_in(self.names())

    def next_version(self) -> int:
        """The number after the last."""
        return max(self.versions(), default=0) + 1

    @contextmanager
    def new_version(self) -> Iterator[Draft]:
        """A hidden folder, renamed to its number at the end."""
        draft = Draft(self / f".{uuid.uuid4().hex}.draft")
        hidden = Path(draft.folder.location)
        with refusals(self):
            hidden.mkdir(parents=True)
        try:
            yield draft
            with refusals(self):
                while draft.published is None:
                    self._publish(hidden, draft)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

    def _publish(self, hidden: Path, draft: Draft) -> None:
        number = self.next_version()
        target = self / str(number)
        try:
            hidden.rename(target.folder)
        except OSError as error:
            if error.errno in _TAKEN:
                return  # another writer took this number since we looked
            raise
        draft.version, draft.published = number, target

    @contextmanager
    def replacing(self, last: str) -> Iterator[Folder]:
        """A hidden folder beside this one; two renames put it in its place."""
        here = self.folder.resolve()  # what a link means is replaced, not the link
        draft, old = (here.with_name(f".{here.name}.{uuid.uuid4().hex}") for _ in range(2))
        with refusals(self):
            draft.mkdir(parents=True)
            try:
                yield Folder(str(draft))
                if here.exists():
                    here.rename(old)
                    try:
                        draft.rename(here)
                    except OSError:
                        old.rename(here)
                        raise
                    shutil.rmtree(old)
                else:
                    draft.rename(here)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
