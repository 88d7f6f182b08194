"""What every place that keeps things can do, and refusals of the file system in our words."""

from __future__ import annotations

import errno
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zarr.abc.store import Store

from ntk_dist.errors import StoreError, StoreFullError, StoreUnreachableError

__all__ = ["ORPHAN_AGE_S", "AbstractPlace", "Draft", "numbers_in", "refusals"]

ORPHAN_AGE_S = 3600.0
"""What was last written to so long ago has no writer any more: blocks take seconds."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_VERSION = re.compile(r"[1-9][0-9]*")


class AbstractPlace(ABC):
    """A folder, or what stands for one: named files and further places below it.

    Law: a file that is written is there whole or not at all, and every process that may reach the
    place finds it by ``location``, which is also all that is pickled.
    """

    location: str
    """As text, the same in every process."""
    folder: Path | None
    """As a folder of this machine; None where it is elsewhere."""

    @property
    def name(self) -> str:
        """The last part of the location."""
        return self.location.rpartition("/")[2]

    @abstractmethod
    def __truediv__(self, name: str) -> Self:
        """The place or file ``name`` below this one."""

    @abstractmethod
    def make(self) -> None:
        """Make sure that things can be written here, by writing something.

        Raises
        ------
        StoreFullError, StoreUnreachableError
            They cannot.
        """

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """What is directly here, files and places, sorted; nothing where there is no such place."""

    @abstractmethod
    def is_file(self) -> bool:
        """Whether a file is kept under exactly this name."""

    @abstractmethod
    def is_folder(self) -> bool:
        """Whether this is a place that was made, or has something in it."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The whole file.

        Raises
        ------
        FileNotFoundError
            There is none.
        StoreUnreachableError
            It cannot be read.
        """

    @abstractmethod
    def write_bytes(self, content: bytes) -> None:
        """Keep a file, replacing what was there; it appears whole or not at all."""

    @abstractmethod
    def write_pieces(self, pieces: Iterable[bytes], n_bytes: int) -> None:
        """Keep a file as :meth:`write_bytes` does, one piece in memory after the other.

        Parameters
        ----------
        pieces
            In their order. If they end with an error of this package, no file appears.
        n_bytes
            Of all of them.
        """

    @abstractmethod
    def delete(self) -> None:
        """Forget the file, or everything in the place; absent is fine."""

    @abstractmethod
    def zarr_store(self, *, create: bool = False) -> Store:
        """The Zarr store here.

        Raises
        ------
        StoreUnreachableError
            The place cannot be opened; or is a folder that is not there and ``create`` is false.
        """

    @abstractmethod
    def local_copy(self) -> AbstractContextManager[Path]:
        """The file or place as one of this machine, for as long as the body runs.

        Raises
        ------
        FileNotFoundError
            There is none.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where nobody knows."""

    @abstractmethod
    def sweep_orphans(self, older_than_s: float = ORPHAN_AGE_S) -> None:
        """Remove what killed writers left half-written, here and below, so long ago."""

    @abstractmethod
    def versions(self) -> tuple[int, ...]:
        """Published numbers below this place, ascending."""

    @abstractmethod
    def next_version(self) -> int:
        """The number that a draft published now would get."""

    @abstractmethod
    def new_version(self) -> AbstractContextManager[Draft]:
        """A draft to write into, published whole as the next number when the body ends.

        Readers never see half of it; two writers get two numbers; when the body raises, nothing is
        left.
        """

    @abstractmethod
    def replacing(self, last: str) -> AbstractContextManager[AbstractPlace]:
        """A draft to write into, which takes the place of what is here when the body ends.

        The draft is complete before the old goes; when the body raises, the old stays.

        Parameters
        ----------
        last
            The file that nobody reads anything here without: what is there is never half old.
        """

    def __str__(self) -> str:
        return self.location

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AbstractPlace) and self.location == other.location

    def __hash__(self) -> int:
        return hash(self.location)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return type(self), (self.location,)


@dataclass
class Draft:
    """A version while it is written."""

    place: AbstractPlace
    """Where to write; nobody else takes it for a version yet."""
    version: int | None = None
    """Its number, once published."""
    published: AbstractPlace | None = None
    """Its place, once published."""


def numbers_in(names: tuple[str, ...]) -> tuple[int, ...]:
    """The names that are version numbers, ascending."""
    return tuple(sorted(int(name) for name in names if _VERSION.fullmatch(name)))


@contextmanager
def refusals(location: str | Path | AbstractPlace) -> Iterator[None]:
    """Raise what the file system refuses in the body as an error of this package."""
    try:
        yield
    except StoreError:
        raise  # ours are OSErrors too
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_SPACE:
            raise StoreFullError(
                f"no space is left for {location} ({reason}); what was finished before is kept: "
                "free some space and run the same again"
            ) from error
        raise StoreUnreachableError(
            f"expected to read and write {location}, got: {reason}; "
            "check that the path exists and that this user may write there"
        ) from error
