"""The rows of a data set: kept once, read a range at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from ntk_dist.errors import UnreadableDataError
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.checked import (
    UNDECODABLE,
    create_checked_array,
    create_checked_array_once,
    read_checked,
    row_chunks,
)
from ntk_dist.store.location import Location, absolute, open_zarr_store
from ntk_dist.store.place import refusals

__all__ = ["MemoryRows", "ZarrRows", "fingerprint", "row_pieces", "write_rows"]


class MemoryRows(AbstractRows):
    """Rows in the memory of this process; pickling it copies them."""

    def __init__(self, x: np.ndarray) -> None:
        self._x = x.view()
        self._x.setflags(write=False)
        self.shape = x.shape
        self.dtype = x.dtype
        self.fingerprint = fingerprint(x)

    def read(self, rows: slice) -> np.ndarray:
        """Inputs ``rows``, as a read-only view."""
        return self._x[_bounded(rows, len(self))]


class ZarrRows(AbstractRows):
    """Rows in a Zarr array whose chunks carry checksums; pickled as its location.

    Raises
    ------
    UnreadableDataError
        The location holds no rows, or rows that were never finished.
    StoreUnreachableError
        The location cannot be opened.
    """

    def __init__(self, location: Location) -> None:
        self.location = absolute(location)
        """The same in every process."""
        store = open_zarr_store(self.location)
        with refusals(self.location):
            try:
                array = zarr.open_array(store, mode="r")
            except (FileNotFoundError, *UNDECODABLE) as error:
                raise UnreadableDataError(
                    f"expected stored rows at {self.location}, got {error}; store them again"
                ) from error
        # The fingerprint is written last: without it the writer was cut off.
        stored = dict(array.attrs).get("fingerprint")
        if not isinstance(stored, str):
            raise UnreadableDataError(
                f"the rows at {self.location} were not written to their end; store them again"
            )
        self._array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.fingerprint = stored

    def read(self, rows: slice) -> np.ndarray:
        """Inputs ``rows``, every chunk's checksum tested.

        Raises
        ------
        UnreadableDataError
            A chunk is missing or damaged.
        StoreUnreachableError
            The store did not answer.
        """
        what = f"the stored data set {self.location}"
        return read_checked(self._array, _bounded(rows, len(self)), UnreadableDataError, what)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return ZarrRows, (self.location,)

    def __repr__(self) -> str:
        return f"ZarrRows({self.location!r})"


def write_rows(location: Location, x: np.ndarray, mark: str | None = None) -> ZarrRows:
    """The rows of ``x`` at ``location``; nothing is written when they are there already.

    Several processes may write the same rows at once.

    Parameters
    ----------
    location
        Where to.
    x
        An array of at least one axis.
    mark
        Its :func:`fingerprint`, from whoever knows it already.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        The location cannot be written; what is there so far is not taken for rows.
    """
    x, mark = _native(x), mark or fingerprint(x)
    store = open_zarr_store(location, create=True)
    with suppress(UnreadableDataError):  # then they are written, again where need be
        rows = ZarrRows(location)
        if rows.fingerprint == mark:
            # A look at every checksum costs less than the hash above, and what is damaged can
            # still be mended here: these are the rows.
            for piece in row_pieces(x):
                rows.read(piece)
            return rows
    with refusals(location):
        array = _array_for(x, mark, store)
        for piece in row_pieces(x):
            array[piece] = x[piece]
        array.update_attributes({"fingerprint": mark, "shape": list(x.shape)})
    return ZarrRows(location)


def row_pieces(x: np.ndarray | AbstractRows) -> Iterator[slice]:
    """Ranges of rows of about 16 MiB each, in order."""
    step = row_chunks(x.shape, x.dtype.itemsize)[0]
    for start in range(0, x.shape[0], step):
        yield slice(start, min(start + step, x.shape[0]))


def fingerprint(x: np.ndarray) -> str:
    """Thirty-two hexadecimal digits that tell one array from another: shape, dtype and bytes.

    Byte order and memory layout do not count, the sign of a zero does.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{x.shape} {x.dtype.newbyteorder('=').str}".encode())
    for piece in row_pieces(x):
        digest.update(np.ascontiguousarray(_native(x[piece])).data)
    return digest.hexdigest()


def _array_for(x: np.ndarray, mark: str, store: Store) -> zarr.Array[Any]:
    layout = (x.shape, row_chunks(x.shape, x.itemsize), x.dtype)
    shape, chunks, dtype = layout
    create_checked_array_once(store, shape=shape, chunks=chunks, dtype=dtype)
    with suppress(FileNotFoundError, *UNDECODABLE):  # its metadata is damaged
        array = zarr.open_array(store, mode="r+").with_config({"write_empty_chunks": True})
        ours = dict(array.attrs).get("fingerprint") in (None, mark)
        if ours and (array.shape, array.chunks, array.dtype) == layout:
            return array  # cut off, or still being written: its chunks will be the same as ours
    return create_checked_array(
        store, name=None, shape=shape, chunks=chunks, dtype=dtype, overwrite=True
    )


def _bounded(rows: slice, n_rows: int) -> slice:
    if rows.step not in (None, 1):
        raise ValueError(f"expected consecutive rows, got {rows}")
    start, stop, _ = rows.indices(n_rows)
    return slice(start, stop)


def _native(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder("="), copy=False)
