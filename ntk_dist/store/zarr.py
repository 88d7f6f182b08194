"""Stored blocks: one Zarr v3 group per Gram matrix, one array per kernel, one chunk per block.

Any tool that reads Zarr can open ``LOCATION/ntk``; entries of blocks that are absent (the lower
triangle of a symmetric Gram among them) read as NaN there. The group's attributes hold the
manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError

from ntk_dist.errors import (
    BlockCorruptError,
    BlockNotFoundError,
    ManifestMismatchError,
    StoreUnreachableError,
)
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.store.base import AbstractBlockStore
from ntk_dist.store.checked import UNDECODABLE, create_checked_array, list_chunks
from ntk_dist.store.location import Location, absolute, open_place, open_zarr_store
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.place import refusals
from ntk_dist.store.statistics import ZarrStatisticsStore

__all__ = ["ZarrBlockStore", "is_gram"]

CHECKSUM = np.dtype("<u4")
"""What follows the numbers of a chunk, as the codec has it."""
CODECS = (BytesCodec().to_dict(), Crc32cCodec().to_dict())
"""How a block is written: as it is in memory, and then its checksum."""

ORPHAN_AGE_S = 3600.0
"""A partial file this old has no writer any more: a block is written in seconds."""


class ZarrBlockStore(AbstractBlockStore):
    """Blocks as chunks of Zarr arrays, each written whole under a checksum.

    Any number of threads and processes may share one; it is pickled as its location.
    """

    in_memory = False

    def __init__(self, location: str, manifest: Manifest, arrays: Mapping[str, zarr.Array[Any]]):
        self.location = location
        """The same in every process."""
        self.manifest = manifest
        self._arrays = dict(arrays)

    @classmethod
    def create_or_open(cls, location: Location, manifest: Manifest) -> ZarrBlockStore:
        """The store at ``location``, made now if there is none.

        Several processes may do so at once: the first manifest stays, and the metadata they
        write for it is the same.

        Raises
        ------
        ManifestMismatchError
            The location holds the blocks of something else.
        StoreFullError, StoreUnreachableError
            The location cannot be written.
        """
        location = absolute(location)
        store = open_zarr_store(location, create=True)
        with _metadata(location):
            open_place(location).sweep_orphans(ORPHAN_AGE_S)
            # Zarr writes over metadata it cannot read, and adopts the chunks of who knows what.
            if not sync(store.exists("zarr.json")):
                with suppress(ContainsGroupError):
                    zarr.create_group(store, attributes={"manifest": manifest.to_dict()})
            manifest.require_same(_read_manifest(store, location), location)
            for kernel in manifest.kernels:
                with suppress(ContainsArrayError):
                    create_checked_array(
                        store,
                        name=kernel,
                        shape=(manifest.n_rows, manifest.n_cols),
                        chunks=_chunks(manifest),
                        dtype=np.dtype(manifest.dtype),
                        # Blocks are finite, so NaN can only mean absent.
                        fill_value=np.nan,
                    )
        return cls.open(location)

    @classmethod
    def open(cls, location: Location) -> ZarrBlockStore:
        """The store at ``location``.

        Raises
        ------
        ManifestMismatchError
            What is there is no Gram matrix of this version.
        StoreUnreachableError
            Nothing is there, or its metadata is damaged.
        """
        location = absolute(location)
        store = open_zarr_store(location)
        manifest = _read_manifest(store, location)
        with _metadata(location):
            arrays = {k: _open_kernel(store, location, k, manifest) for k in manifest.kernels}
        return cls(location, manifest, arrays)

    def read(self, kernel: str, index: BlockIndex) -> np.ndarray:
        """One block, its checksum tested; a damaged one is deleted before the error is raised."""
        self.require_block(index, kernel)
        with refusals(self.location):
            try:
                block = self._decoded(kernel, index)
            except ValueError as error:
                self._delete(kernel, index)
                raise BlockCorruptError(
                    f"block {index} of kernel {kernel} at {self.location} was damaged ({error}) "
                    "and has been deleted; compute it again"
                ) from error
        if block is None:
            raise BlockNotFoundError(
                f"block {index} of kernel {kernel} is not at {self.location}; compute it first"
            )
        return block

    def write(self, index: BlockIndex, blocks: Mapping[str, np.ndarray]) -> None:
        """Keep one block of every kernel; each becomes visible whole or not at all."""
        self.require_writable(index, blocks)
        with refusals(self.location):
            for kernel in self.kernels:
                self._arrays[kernel][self._slices(index)] = blocks[kernel]

    def delete(self, index: BlockIndex) -> None:
        """Forget one block of every kernel; absent is fine."""
        with refusals(self.location):
            for kernel in self.kernels:
                self._delete(kernel, index)

    def present(self) -> frozenset[BlockIndex]:
        """Blocks that are there for every kernel: one listing per row of blocks, no look at any."""
        with refusals(self.location):
            listed = [list_chunks(self._arrays[kernel]) for kernel in self.kernels]
        found = (BlockIndex(*index) for index in frozenset.intersection(*listed))
        return frozenset(index for index in found if index in self.grid)

    def free_bytes(self) -> int | None:
        """Bytes that this user can still write; None in object storage."""
        return open_place(self.location).free_bytes()

    def statistics(self, width: int, batch_rows: int) -> ZarrStatisticsStore:
        """What is known of each row, in the folder of the blocks."""
        place = open_place(self.location) / "statistics"
        return ZarrStatisticsStore(place, self.manifest.n_rows, width, batch_rows)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return ZarrBlockStore.open, (self.location,)

    def __repr__(self) -> str:
        return f"ZarrBlockStore({self.location!r})"

    def _slices(self, index: BlockIndex) -> tuple[slice, slice]:
        return self.grid.rows(index), self.grid.cols(index)

    def _decoded(self, kernel: str, index: BlockIndex) -> np.ndarray | None:
        """The block as the bytes that were read hold it, or None if there are none.

        Zarr would decode into a new array of NaN: 2.3 GB/s at best from the page cache, one block
        after another in its only thread, where this reads 4.3.

        Raises
        ------
        ValueError
            Those are not the bytes that were written.
        """
        array = self._arrays[kernel]
        raw = sync((array.store_path / array.metadata.encode_chunk_key(tuple(index))).get())
        if raw is None:
            return None
        data = raw.as_numpy_array().view(np.uint8)
        expected = math.prod(array.chunks) * array.dtype.itemsize + CHECKSUM.itemsize
        if len(data) != expected:
            raise ValueError(f"expected {expected} bytes, got {len(data)}")
        content, checksum = data[: -CHECKSUM.itemsize], data[-CHECKSUM.itemsize :]
        if google_crc32c.value(content) != checksum.view(CHECKSUM)[0]:
            raise ValueError("the checksum is not that of the content")
        chunk = content.view(array.dtype).reshape(array.chunks)
        rows, cols = self.grid.block_shape(index)
        return np.ascontiguousarray(chunk[:rows, :cols])

    def _delete(self, kernel: str, index: BlockIndex) -> None:
        array = self._arrays[kernel]
        sync((array.store_path / array.metadata.encode_chunk_key(tuple(index))).delete())


def is_gram(location: Location) -> bool:
    """Whether a Gram matrix of this package is at ``location``.

    Raises
    ------
    StoreUnreachableError
        Nobody can tell.
    """
    try:
        return b'"manifest"' in (open_place(location) / "zarr.json").read_bytes()
    except FileNotFoundError:
        return False


def _read_manifest(store: Store, location: str) -> Manifest:
    with _metadata(location):
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        record = dict(group.attrs).get("manifest")
    if not isinstance(record, dict):
        raise ManifestMismatchError(
            f"expected a Gram matrix of ntk_dist at {location}, got another Zarr group; "
            "use another workspace, or remove that folder"
        )
    return Manifest.from_dict(record)


def _open_kernel(store: Store, location: str, kernel: str, manifest: Manifest) -> zarr.Array[Any]:
    array = zarr.open_array(store, path=kernel, mode="r+")
    shape, dtype = (manifest.n_rows, manifest.n_cols), manifest.dtype
    expected = (shape, _chunks(manifest), dtype, "c/0/0", CODECS)
    first, codecs = array.metadata.encode_chunk_key((0, 0)), array.metadata.to_dict()["codecs"]
    got = (array.shape, array.chunks, str(array.dtype), first, codecs)
    if got != expected:
        raise ManifestMismatchError(
            f"kernel {kernel} at {location}: expected shape, blocks, dtype, first file and "
            f"codecs {expected}, got {got}; remove that folder"
        )
    return array


@contextmanager
def _metadata(location: str) -> Iterator[None]:
    with refusals(location):
        try:
            yield
        except FileNotFoundError as error:
            raise StoreUnreachableError(
                f"expected a Gram matrix at {location}, got none ({error}); check the path"
            ) from error
        except UNDECODABLE as error:
            raise StoreUnreachableError(
                f"the metadata of the Gram matrix at {location} is damaged ({error}); "
                "remove that folder and compute it again"
            ) from error


def _chunks(manifest: Manifest) -> tuple[int, int]:
    # Ragged edge blocks are padded by Zarr; a matrix of less than one block needs no padding.
    side = manifest.block_rows
    return min(side, manifest.n_rows), min(side, manifest.n_cols)
