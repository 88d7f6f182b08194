"""What is known of each row of a Gram matrix, stored: one Zarr array, one chunk per batch of rows.

The array is made by the first batch that is written, so that looking for one writes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError
from zarr.storage import StorePath

from ntk_dist.errors import (
    BlockCorruptError,
    BlockNotFoundError,
    ManifestMismatchError,
    StoreUnreachableError,
)
from ntk_dist.store.base import AbstractStatisticsStore
from ntk_dist.store.checked import UNDECODABLE, create_checked_array, list_chunks
from ntk_dist.store.location import Location, absolute, open_place, open_zarr_store
from ntk_dist.store.place import refusals

__all__ = ["ZarrStatisticsStore"]

FORMAT = 1
"""Of the numbers in a row; another one is refused."""


class ZarrStatisticsStore(AbstractStatisticsStore):
    """Batches as chunks of a Zarr array, each written whole under a checksum.

    Any number of threads and processes may share one; it is pickled as its location and sizes.

    Raises
    ------
    ManifestMismatchError
        What is at ``location`` has other sizes, or was written by another version.
    """

    def __init__(self, location: Location, n_rows: int, width: int, batch_rows: int) -> None:
        self.location = absolute(location)
        """The same in every process."""
        self.n_rows, self.width, self.batch_rows = n_rows, width, batch_rows
        self._array = self._open()

    def read(self, batch: int) -> np.ndarray:
        """One batch, its checksum tested; a damaged one is deleted before the error is raised."""
        rows = self.rows(batch)
        self._array = self._array or self._open()
        with refusals(self.location):
            # Zarr answers a missing chunk with fill values and says nothing.
            if self._array is None or not sync(_chunk(self._array, batch).exists()):
                raise BlockNotFoundError(
                    f"batch {batch} of the statistics is not at {self.location}; compute it first"
                )
            try:
                return np.asarray(self._array[rows])
            except ValueError as error:
                self.delete(batch)
                raise BlockCorruptError(
                    f"batch {batch} of the statistics at {self.location} was damaged ({error}) "
                    "and has been deleted; compute it again"
                ) from error

    def write(self, batch: int, values: np.ndarray) -> None:
        """Keep one batch; it becomes visible whole or not at all."""
        self.require_writable(batch, values)
        with refusals(self.location):
            self._array = self._array or self._create()
            self._array[self.rows(batch)] = values

    def delete(self, batch: int) -> None:
        """Forget one batch; absent is fine."""
        self._array = self._array or self._open()
        if self._array is not None:
            with refusals(self.location):
                sync(_chunk(self._array, batch).delete())

    def present(self) -> frozenset[int]:
        """Batches that are there: one listing, no look at any."""
        self._array = self._array or self._open()
        if self._array is None:
            return frozenset()
        with refusals(self.location):
            return frozenset(b for b, _ in list_chunks(self._array) if b < self.n_batches)

    def __reduce__(self) -> tuple[Any, tuple[str, int, int, int]]:
        return ZarrStatisticsStore, (self.location, self.n_rows, self.width, self.batch_rows)

    def __repr__(self) -> str:
        return f"ZarrStatisticsStore({self.location!r})"

    def _open(self) -> zarr.Array[Any] | None:
        """The array, if some batch was written before."""
        if not (open_place(self.location) / "zarr.json").is_file():
            return None
        store = open_zarr_store(self.location)
        with refusals(self.location):
            try:
                array = zarr.open_array(store, mode="r+").with_config({"write_empty_chunks": True})
                found = (array.shape, str(array.dtype), array.attrs.get("format"))
            except (FileNotFoundError, *UNDECODABLE) as error:
                raise StoreUnreachableError(
                    f"the metadata of the statistics at {self.location} is damaged ({error}); "
                    "remove that folder and compute them again"
                ) from error
        expected = ((self.n_rows, self.width), "float64", FORMAT)
        if found != expected or array.chunks[1] != self.width:
            raise ManifestMismatchError(
                f"the statistics at {self.location}: expected shape, dtype and format {expected}, "
                f"got {found} in chunks of {array.chunks}; remove that folder"
            )
        self.batch_rows = array.chunks[0]
        return array

    def _create(self) -> zarr.Array[Any]:
        store = open_zarr_store(self.location, create=True)
        with suppress(ContainsArrayError):  # another writer was first
            create_checked_array(
                store,
                name=None,
                shape=(self.n_rows, self.width),
                chunks=(self.batch_rows, self.width),
                dtype=np.dtype(np.float64),
                attributes={"format": FORMAT},
            )
        array = self._open()
        assert array is not None
        return array


def _chunk(array: zarr.Array[Any], batch: int) -> StorePath:
    return array.store_path / array.metadata.encode_chunk_key((batch, 0))
