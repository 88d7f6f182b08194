"""What people write for a place, and the place that it means."""

from __future__ import annotations

import re
from pathlib import Path

from zarr.abc.store import Store

from ntk_dist.errors import InvalidInputError, MissingDependencyError
from ntk_dist.store.folder import Folder
from ntk_dist.store.place import AbstractPlace

__all__ = ["Location", "absolute", "is_remote", "open_place", "open_zarr_store"]

Location = str | Path | AbstractPlace
"""A folder of this machine, or ``s3://BUCKET/PREFIX``."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def is_remote(location: Location) -> bool:
    """Whether a place is an address, and no path of this machine."""
    return _SCHEME.match(str(location)) is not None


def open_place(location: Location) -> AbstractPlace:
    """The place at ``location``; nothing is made or looked for.

    Raises
    ------
    InvalidInputError
        The location is neither text nor a Path, or means no place of a kind that is known here.
    MissingDependencyError
        The library for object storage is not installed.
    """
    if isinstance(location, AbstractPlace):
        return location
    if not isinstance(location, str | Path):
        raise InvalidInputError(
            "expected a folder as text or Path, or s3://BUCKET/PREFIX as text, got "
            f"{location!r} of type {type(location).__name__}"
        )
    text = str(location)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Folder(text)
    if scheme[1] != "s3" or isinstance(location, Path):
        # The rest is not quoted: people write credentials into addresses.
        raise InvalidInputError(
            "expected a folder of this machine, or s3://BUCKET/PREFIX as text, got an address "
            f"that begins with {scheme[0]!r}{' as a Path' if isinstance(location, Path) else ''}"
        )
    try:
        from ntk_dist.store.objects import Objects
    except ImportError as error:
        raise MissingDependencyError(
            f"{text.partition('@')[0]}: object storage needs a library that is not installed "
            f"({error.name}): pip install 'ntk_dist[s3]'"
        ) from error
    return Objects(text)


def absolute(location: Location) -> str:
    """The place as every process sees it, whatever folder that process works in.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        As for :func:`open_place`.
    """
    return open_place(location).location


def open_zarr_store(location: Location, *, create: bool = False) -> Store:
    """The Zarr store at ``location``.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        As for :func:`open_place`.
    StoreUnreachableError
        The place is not there and ``create`` is false.
    """
    return open_place(location).zarr_store(create=create)
