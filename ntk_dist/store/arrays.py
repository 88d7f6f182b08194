"""A folder of named arrays, as a Zarr group with checksums: what fitted models are made of.

Nothing is ever pickled, so a model from elsewhere is data and not a program.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import zarr

from ntk_dist.errors import ArtifactError
from ntk_dist.store.checked import UNDECODABLE, create_checked_array, read_checked, row_chunks
from ntk_dist.store.location import Location, open_zarr_store
from ntk_dist.store.place import refusals

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(folder: Location, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep named arrays of numbers, booleans or text in ``folder``, replacing what was there.

    Raises
    ------
    ValueError
        An array holds objects, or its name contains a slash.
    StoreFullError, StoreUnreachableError
        The folder cannot be written; what is there so far is not taken for arrays.
    """
    for name, array in arrays.items():
        if "/" in name or not name or name.startswith("."):
            raise ValueError(f"expected a plain array name, got {name!r}")
        if array.dtype.kind not in "biufcU":
            raise ValueError(f"array {name}: expected numbers or text, got dtype {array.dtype}")
    store = open_zarr_store(folder, create=True)
    with refusals(folder):
        group = zarr.create_group(store, overwrite=True)
        for name, array in arrays.items():
            _write(group, name, array)
        # Written last: a group without this list was cut off.
        group.update_attributes({"arrays": list(arrays)})


def read_arrays(folder: Location, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays that :func:`write_arrays` kept in ``folder``, or those of some names.

    Raises
    ------
    ArtifactError
        An array is missing or damaged, or the folder was never finished.
    StoreUnreachableError
        The folder cannot be opened.
    """
    store = open_zarr_store(folder)
    with refusals(folder):
        try:
            group = zarr.open_group(store, mode="r", use_consolidated=False)
            names: Any = dict(group.attrs)["arrays"]
            # One flipped bit makes x_1 of x_0, which is there too.
            if len(set(names)) < len(names):
                raise ValueError(f"some are listed twice: {names}")
            wanted = names if only is None else [name for name in names if name in only]
            members = {str(name): _open_member(group, name) for name in wanted}
        except (FileNotFoundError, *UNDECODABLE) as error:
            raise ArtifactError(
                f"expected the arrays of a model at {folder}, got none or damaged ones ({error}); "
                "save the model again"
            ) from error
    return {name: _read(array, f"array {name} at {folder}") for name, array in members.items()}


def _write(group: zarr.Group, name: str, array: np.ndarray) -> None:
    text = array.dtype.kind == "U"
    # Zarr has no stable text type of fixed width: code points are kept, one more axis.
    stored = _code_points(array) if text else array
    member = create_checked_array(
        group.store,
        name=name,
        shape=stored.shape,
        chunks=row_chunks(stored.shape, stored.itemsize),
        dtype=stored.dtype.newbyteorder("="),
    )
    if 0 not in stored.shape:
        member[...] = stored
    member.update_attributes({"text": text})


def _open_member(group: zarr.Group, name: str) -> zarr.Array[Any]:
    member = group[name]
    if not isinstance(member, zarr.Array):
        raise TypeError(f"{name} is a group")
    if not isinstance(dict(member.attrs)["text"], bool):
        raise TypeError(f"whether {name} is text is not said")
    return member


def _read(member: zarr.Array[Any], what: str) -> np.ndarray:
    stored = read_checked(member, None, ArtifactError, what)
    if not dict(member.attrs)["text"]:
        return stored
    *shape, width = stored.shape
    return np.ascontiguousarray(stored).view(f"U{width}").reshape(shape)


def _code_points(array: np.ndarray) -> np.ndarray:
    width = max(1, array.itemsize // 4)
    flat = np.ascontiguousarray(array.astype(f"U{width}"))
    return flat.reshape(-1).view(np.uint32).reshape(*array.shape, width)
