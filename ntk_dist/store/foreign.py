"""Reading Zarr arrays that others wrote, version 2 or 3, without trusting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from ntk_dist.errors import UnreadableDataError
from ntk_dist.store.checked import chunk_keys

__all__ = ["choose_array", "read_foreign_zarr"]

_BLOSC_HEADER_BYTES = 16
_METADATA = ("zarr.json", ".zarray", ".zgroup")


def read_foreign_zarr(path: Path, name: str | None) -> np.ndarray:
    """The array at ``path``, or the array ``name`` of the group there.

    A group of one array needs no name; ``group/array`` reaches into groups below.

    Raises
    ------
    UnreadableDataError
        No Zarr here or no such array, one of which chunks are missing, or one that cannot be read
        safely.
    """
    if not any((path / file).is_file() for file in _METADATA):
        raise UnreadableDataError(
            f"expected a data file or a Zarr folder, got {path}, a folder without "
            f"{', '.join(_METADATA[:-1])} or {_METADATA[-1]}: name a file in it"
        )
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Group):
        if name is None or name not in node:
            name = choose_array(path, name, sorted(key for key, _ in node.arrays()))
        node = node[name]
    elif name is not None:
        raise UnreadableDataError(f"{path} is a single Zarr array; leave out :{name}")
    if not isinstance(node, zarr.Array):
        raise UnreadableDataError(f"{path}:{name}: expected a Zarr array, got a group")
    _refuse_pickled(node, path)
    _refuse_missing(node, path)
    _refuse_cut_blosc(node, path)
    return np.asarray(node[...])


def choose_array(path: Path, name: str | None, names: list[str]) -> str:
    """The one of ``names`` that is meant; a single array need not be named.

    Raises
    ------
    UnreadableDataError
        There is no such array, or several and no name; the message lists them.
    """
    if name is None and len(names) == 1:
        return names[0]
    if name in names:
        return name
    wanted = "one to be named" if name is None else f"array {name!r}"
    raise UnreadableDataError(
        f"{path}: expected {wanted}, there are: {', '.join(names) or 'none'}; write {path}:NAME"
    )


def _refuse_pickled(array: zarr.Array[Any], path: Path) -> None:
    # Version 2 can name Pickle as the codec of an array, and decoding it would run the file.
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in _codecs(array)):
        raise UnreadableDataError(f"{path} holds pickled objects, which are never loaded")


def _refuse_missing(array: zarr.Array[Any], path: Path) -> None:
    # Zarr answers a missing chunk with fill values and says nothing: rows of zeros would be fitted.
    present = [(path / array.path / key).is_file() for key in chunk_keys(array)]
    if not all(present):
        raise UnreadableDataError(
            f"{path}: {present.count(False)} of {len(present)} chunks are missing; if they are "
            f"really all {array.fill_value}, write them with write_empty_chunks=True"
        )


def _refuse_cut_blosc(array: zarr.Array[Any], path: Path) -> None:
    # Blosc trusts the length in its header: of a chunk cut to 20 bytes it returned, without a
    # word, whatever lay behind it in memory.
    if not any(
        isinstance(codec, BloscCodec) or getattr(codec, "codec_id", None) == "blosc"
        for codec in _codecs(array)
    ):
        return
    for chunk in (path / array.path).rglob("*"):
        if not chunk.is_file() or chunk.name.startswith(".") or chunk.name == "zarr.json":
            continue
        with chunk.open("rb") as file:
            header = file.read(_BLOSC_HEADER_BYTES)
        announced = int.from_bytes(header[12:16], "little")
        got = chunk.stat().st_size
        if len(header) < _BLOSC_HEADER_BYTES or got != announced:
            raise UnreadableDataError(
                f"{path}: chunk {chunk.relative_to(path)} announces {announced} bytes, "
                f"got {got}; fetch the data again"
            )


def _codecs(array: zarr.Array[Any]) -> tuple[Any, ...]:
    return (*array.filters, *array.compressors)
