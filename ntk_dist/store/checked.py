"""Zarr arrays whose every chunk carries a checksum, and the names of their chunks."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from ntk_dist.errors import NTKDistError
from ntk_dist.store.place import refusals

__all__ = [
    "CHUNK_BYTES",
    "UNDECODABLE",
    "chunk_keys",
    "create_checked_array",
    "create_checked_array_once",
    "list_chunks",
    "read_checked",
    "row_chunks",
]

CHUNK_BYTES = 16 * 2**20
"""Aimed-at size of one chunk of rows: large enough to hide the 0.9 ms that a chunk costs."""

UNDECODABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What Zarr raises of bytes that are not what it wrote: ``[]`` for a zarr.json has no ``get``."""

_NUMBER = re.compile(r"0|[1-9][0-9]*")
"""How Zarr writes an index into a file name; ``"²".isdigit()`` is true, and int refuses it."""


def row_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunk shape that cuts the first axis only, into pieces of about ``CHUNK_BYTES``."""
    if not shape:
        return ()
    row_bytes = max(1, math.prod(shape[1:]) * itemsize)
    rows = min(max(1, CHUNK_BYTES // row_bytes), max(1, shape[0]))
    return (rows, *(max(1, n) for n in shape[1:]))


def create_checked_array(
    store: Store,
    *,
    name: str | None,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype,
    fill_value: float = 0,
    overwrite: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> zarr.Array[Any]:
    """A new Zarr array whose every chunk carries a checksum.

    Nothing is compressed: a Gram matrix of floats shrinks by 1.2 to 1.3 at a third of the speed.
    """
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=fill_value,
        filters=None,
        compressors=[Crc32cCodec()],
        overwrite=overwrite,
        # Said twice, for no checksum covers the metadata: one flipped bit in the shape would cut
        # rows off, or add rows of zeros.
        attributes={"shape": list(shape), **(attributes or {})},
        # A chunk that happens to equal the fill value must exist: no file means lost, not zeros.
        config={"write_empty_chunks": True},
    )


def create_checked_array_once(
    store: Store, *, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype
) -> None:
    """Make sure of an array at the root of ``store``, whoever else does so at the same time.

    Zarr looks and then writes: of two writers the slower one would replace the metadata of an array
    that the other has filled meanwhile.
    """
    draft = MemoryStore()
    create_checked_array(draft, name=None, shape=shape, chunks=chunks, dtype=dtype)
    metadata = sync(draft.get("zarr.json", default_buffer_prototype()))
    assert metadata is not None
    sync(store.set_if_not_exists("zarr.json", metadata))


def read_checked(
    array: zarr.Array[Any], rows: slice | None, damaged: type[NTKDistError], what: str
) -> np.ndarray:
    """Rows of an array (None: all of it), every chunk of them present and with a right checksum.

    Raises
    ------
    damaged
        A chunk is missing or fails its checksum, or the shape is not the one that was written;
        the message begins with ``what``.
    StoreUnreachableError
        The store did not answer.
    """
    shape = list(array.shape)
    recorded = dict(array.attrs).get("shape", shape)
    if recorded != shape:
        raise damaged(f"{what} is damaged: expected shape {recorded}, got {shape}; write it again")
    with refusals(what):
        try:
            # Zarr answers a missing chunk with fill values and says nothing.
            keys = chunk_keys(array, rows)
            missing = next((k for k in keys if not sync((array.store_path / k).exists())), None)
            if missing is None:
                return np.asarray(array[...] if rows is None else array[rows])
        except UNDECODABLE as error:
            raise damaged(f"{what} is damaged ({error}); write it again") from error
    raise damaged(f"{what} is damaged: chunk {missing} is missing; write it again")


def chunk_keys(array: zarr.Array[Any], rows: slice | None = None) -> Iterator[str]:
    """Names below the array of the files that hold some rows (None: all of them)."""
    if 0 in array.shape:
        return
    extent = array.shards or array.chunks  # a shard is one file of many chunks
    counts = tuple(-(-n // c) for n, c in zip(array.shape, extent, strict=True))
    for chunk in np.ndindex(counts):
        first = chunk[0] * extent[0] if chunk else 0
        if rows is None or (first < rows.stop and first + extent[0] > rows.start):
            yield array.metadata.encode_chunk_key(chunk)


def list_chunks(array: zarr.Array[Any]) -> frozenset[tuple[int, int]]:
    """Indices of the chunks that an array of two axes has: one listing per row of chunks."""
    store, root = array.store_path.store, f"{array.store_path.path}/c".lstrip("/")

    async def columns(row: str) -> list[tuple[int, int]]:
        names = store.list_dir(f"{root}/{row}")
        return [(int(row), int(name)) async for name in names if _NUMBER.fullmatch(name)]

    async def everything() -> frozenset[tuple[int, int]]:
        rows = [name async for name in store.list_dir(root) if _NUMBER.fullmatch(name)]
        listed = await asyncio.gather(*map(columns, rows))
        return frozenset(index for indices in listed for index in indices)

    return sync(everything())
