"""A place that is a folder (or a file) of this machine, or of a disk that machines share."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zarr.storage import LocalStore

from ntk_dist.errors import InvalidInputError, StoreUnreachableError
from ntk_dist.store.place import ORPHAN_AGE_S, AbstractPlace, Draft, numbers_in, refusals

__all__ = ["Folder"]

_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}
_ABSENT = (FileNotFoundError, NotADirectoryError)
_DRAFT = re.compile(r"\.(?:(.+)\.)?[0-9a-f]{32}\.draft", re.DOTALL)
"""A folder that is being written, and the name of what it will replace, if anything."""


class Folder(AbstractPlace):
    """A path; renaming makes things appear whole.

    Raises
    ------
    InvalidInputError
        The text can be no path.
    """

    def __init__(self, location: str) -> None:
        if not location or "\0" in location:
            raise InvalidInputError(
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
        with refusals(self):
            return self.folder.is_file()

    def is_folder(self) -> bool:
        """Whether there is a folder."""
        with refusals(self):
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
        self.write_pieces([content], len(content))

    def write_pieces(self, pieces: Iterable[bytes], n_bytes: int) -> None:
        """Keep a file, written beside its place and renamed."""
        partial = self.folder.with_name(f".{self.name}.{uuid.uuid4().hex}.partial")
        with refusals(self):
            partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    file.writelines(pieces)
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

    def sweep_orphans(self, older_than_s: float = ORPHAN_AGE_S) -> None:
        """Remove old partial files and drafts; what is newer may still be at work.

        A draft stays while what it was to replace is absent: it may be all that there is of it.
        """
        before = time.time() - older_than_s
        with refusals(self):
            for root, folders, files in os.walk(self.folder):
                for name in files:
                    partial = Path(root, name)
                    if partial.suffix == ".partial" and _is_older(partial, before):
                        partial.unlink(missing_ok=True)
                drafts = [name for name in folders if _DRAFT.fullmatch(name)]
                for name in drafts:
                    folders.remove(name)
                    _sweep_draft(Path(root, name), before)

    def versions(self) -> tuple[int, ...]:
        """Numbered folders with something in them: a draft has its number once it is whole."""
        return tuple(n for n in numbers_in(self.names()) if _is_filled(self.folder / str(n)))

    def next_version(self) -> int:
        """The number after the last, whatever has it."""
        return max(numbers_in(self.names()), default=0) + 1

    @contextmanager
    def new_version(self) -> Iterator[Draft]:
        """A hidden folder, renamed to its number at the end."""
        self.sweep_orphans()
        draft = Draft(self / _draft_name())
        hidden = Path(draft.place.location)
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
        """A hidden folder beside this one; two renames put it in its place.

        A process that is killed between the two leaves nothing here; the old and the new are whole
        beside it, each as ``.NAME.HEX.draft``, and stay at least until something is here again.
        """
        with refusals(self):
            here = self.folder.resolve()  # what a link means is replaced, not the link
        draft, old = (here.with_name(_draft_name(here.name)) for _ in range(2))
        with refusals(self):
            draft.mkdir(parents=True)
            for other in here.parent.iterdir():
                if (match := _DRAFT.fullmatch(other.name)) and match[1] == here.name:
                    _sweep_draft(other, time.time() - ORPHAN_AGE_S)
            try:
                yield Folder(str(draft))
                if here.exists():
                    here.rename(old)
                    try:
                        draft.rename(here)
                    except OSError:
                        old.rename(here)
                        raise
                    shutil.rmtree(old, ignore_errors=True)  # what stays is swept another time
                else:
                    draft.rename(here)
            finally:
                shutil.rmtree(draft, ignore_errors=True)


def _is_filled(path: Path) -> bool:
    """Whether there is a folder with something in it, for all that can be seen."""
    try:
        with os.scandir(path) as entries:
            return any(entries)
    except OSError as error:
        return not isinstance(error, _ABSENT)


def _draft_name(replaced: str = "") -> str:
    return f".{replaced}{replaced and '.'}{uuid.uuid4().hex}.draft"


def _is_older(path: Path, moment: float) -> bool:
    """Whether a file or folder was last written to before; what is gone was."""
    try:
        return path.lstat().st_mtime < moment
    except FileNotFoundError:  # another process sweeps too
        return True


def _sweep_draft(draft: Path, before: float) -> None:
    """Remove a draft that nobody wrote to since, unless what it was to replace is absent."""
    match = _DRAFT.fullmatch(draft.name)
    replaced = match[1] if match else None
    if replaced and not draft.with_name(replaced).exists():
        return
    if _is_older(draft, before) and all(
        _is_older(Path(root, name), before)
        for root, folders, files in os.walk(draft)
        for name in (*folders, *files)
    ):
        # Another name first: a writer that slept all the time must not publish half of it now.
        doomed = draft.with_name(_draft_name(replaced or ""))
        with suppress(OSError):  # gone, or another user's: this is only for the space
            draft.rename(doomed)
            shutil.rmtree(doomed)
