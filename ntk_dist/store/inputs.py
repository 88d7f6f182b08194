"""Reading the files that users bring, and writing the predictions they take away.

A file is named as ``PATH`` (or ``s3://BUCKET/KEY``) or ``PATH:array``, where the array is one
inside an ``.npz`` or a Zarr group, or a column (or columns, ``PATH:a,b``) of a table.
"""

from __future__ import annotations

import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ntk_dist.errors import (
    DataShapeError,
    EmptyDataError,
    InvalidInputError,
    NonFiniteDataError,
    StoreError,
    UnreadableDataError,
)
from ntk_dist.store.checked import UNDECODABLE
from ntk_dist.store.dataset import row_pieces
from ntk_dist.store.folder import Folder
from ntk_dist.store.foreign import choose_array, read_foreign_zarr
from ntk_dist.store.idx import is_idx, read_idx
from ntk_dist.store.location import is_remote, open_place
from ntk_dist.store.place import AbstractPlace, refusals
from ntk_dist.store.tables import read_csv, read_parquet, write_csv, write_parquet
from ntk_dist.units import first_few

__all__ = ["check_output", "check_rows", "read_array", "write_array"]

_KNOWN = ".npy, .npz, .zarr (or a Zarr folder), .csv, .csv.gz, .parquet, .idx (or *-idx3-ubyte.gz)"


def read_array(spec: str | Path) -> np.ndarray:
    """The array that ``PATH`` or ``PATH:array`` names, whole, in memory.

    Arrays come in their own dtype. A table without a column name comes as
    ``(n_rows, n_columns)`` float64, a single column as ``(n_rows,)`` numbers or text.

    Raises
    ------
    UnreadableDataError
        The file is missing, truncated, of an unknown format, or holds no such array; objects
        are refused, and nothing in a file is ever executed.
    StoreUnreachableError
        Object storage does not answer.
    """
    place, name = _split(str(spec))
    try:
        with place.local_copy() as path:
            array = _read(place, path, name)
    except (UnreadableDataError, StoreError):
        raise
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        *UNDECODABLE,
    ) as error:
        raise UnreadableDataError(
            f"{place} cannot be read ({type(error).__name__}: {error}); "
            "it is damaged, cut off, or not what its name says"
        ) from error
    if array.dtype.kind == "T":
        array = array.astype(np.str_)
    if array.dtype.kind not in "biufU":
        raise UnreadableDataError(
            f"{spec}: expected an array of numbers or text, got dtype {array.dtype}"
        )
    return array


def check_rows(x: np.ndarray, what: str) -> None:
    """Refuse inputs that no kernel can take.

    Parameters
    ----------
    x
        Rows first.
    what
        What the rows are, for messages: ``"training inputs"``.

    Raises
    ------
    EmptyDataError
        No rows, or rows without features.
    DataShapeError
        Rank below 2, or entries that are not real numbers.
    NonFiniteDataError
        Rows with NaN or infinity: how many, and the first ten of them.
    """
    if x.dtype.kind not in "biuf":
        raise DataShapeError(f"{what}: expected real numbers, got dtype {x.dtype}")
    if x.size == 0:
        raise EmptyDataError(f"{what}: expected rows with features, got shape {x.shape}")
    if x.ndim < 2:
        raise DataShapeError(
            f"{what}: expected rows first and then features or pixels, got shape {x.shape}; "
            "reshape to (n_rows, 1) if each row is one number"
        )
    if x.dtype.kind != "f":
        return
    # Piece by piece: a mask of all of x would cost a quarter of its memory again.
    bad = np.concatenate(
        [
            piece.start + np.flatnonzero(~np.isfinite(x[piece]).reshape(len(x[piece]), -1).all(1))
            for piece in row_pieces(x)
        ]
    )
    if len(bad):
        raise NonFiniteDataError(
            f"{what}: expected finite numbers, got NaN or infinity in {len(bad)} of {len(x)} "
            f"rows: {first_few(bad)}; remove or impute them"
        )


def check_output(path: str | Path) -> None:
    """Refuse a file that :func:`write_array` could not write, before hours of work for it.

    Raises
    ------
    InvalidInputError
        No such format.
    StoreUnreachableError
        Its folder does not exist or cannot be written.
    """
    if is_remote(path):
        raise InvalidInputError("expected an output file of this machine, got an address")
    path = Path(path)
    if path.suffix.lower() not in _WRITERS or "\0" in str(path):
        raise InvalidInputError(
            f"expected an output file that ends in {', '.join(_WRITERS)}, got {str(path)!r}"
        )
    with refusals(path):
        probe = _beside(path)
        probe.touch()
        probe.unlink()


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write predictions as ``.npy``, ``.npz`` (array ``y``), ``.csv`` or ``.parquet``.

    The file appears whole or not at all.

    Raises
    ------
    InvalidInputError
        No such format.
    DataShapeError
        Tables take ``(n_rows,)`` or ``(n_rows, n_columns)``.
    StoreFullError, StoreUnreachableError
        The file cannot be written.
    """
    path = Path(path)
    check_output(path)
    if path.suffix.lower() in {".csv", ".parquet"} and array.ndim not in {1, 2}:
        raise DataShapeError(
            f"{path}: a table takes one or two axes, got shape {array.shape}; write .npy"
        )
    partial = _beside(path)
    with refusals(path):
        try:
            with partial.open("wb") as file:
                _WRITERS[path.suffix.lower()](file, array)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


Reader = Callable[[Path, str | None], np.ndarray]


def _split(spec: str) -> tuple[AbstractPlace, str | None]:
    # A path may contain colons itself: the shortest part that exists is the path.
    start = spec.find("://") + 3 if is_remote(spec) else 1
    for k, character in enumerate(spec):
        if character == ":" and k >= start and (place := _found(spec[:k])):
            return place, spec[k + 1 :]
    if spec and (place := _found(spec)):
        return place, None
    raise UnreadableDataError(
        f"expected a data file, got {spec or 'no name'}, which does not exist"
    )


def _found(path: str) -> AbstractPlace | None:
    if is_remote(path):
        place = open_place(path)
        return place if place.is_file() or place.is_folder() else None
    try:
        return Folder(path) if Path(path).expanduser().exists() else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableDataError(f"expected a data file, got {path!r}: {reason}") from error


def _read(place: AbstractPlace, path: Path, name: str | None) -> np.ndarray:
    """The array in ``path``, which is ``place`` or a copy of it; messages say the place."""
    try:
        return _reader(path)(path, name)
    except UnreadableDataError as error:
        raise UnreadableDataError(str(error).replace(str(path), str(place))) from error


def _reader(path: Path) -> Reader:
    name = path.name.lower()
    if path.is_dir():
        return read_foreign_zarr
    if is_idx(path):
        return _read_only_array(read_idx)
    if name.endswith((".csv", ".csv.gz")):
        return read_csv
    if name.endswith((".parquet", ".pq")):
        return read_parquet
    if name.endswith(".npz"):
        return _read_npz
    if name.endswith(".npy"):
        return _read_only_array(_read_npy)
    raise UnreadableDataError(f"{path}: expected one of {_KNOWN}")


def _read_only_array(read: Callable[[Path], np.ndarray]) -> Reader:
    def reader(path: Path, name: str | None) -> np.ndarray:
        if name is not None:
            raise UnreadableDataError(f"{path} holds one array without a name; leave out :{name}")
        return read(path)

    return reader


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.asarray(np.load(file, allow_pickle=False))


def _read_npz(path: Path, name: str | None) -> np.ndarray:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return np.asarray(archive[choose_array(path, name, archive.files)])


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def _write_npy(file: BinaryIO, array: np.ndarray) -> None:
    # np.save would do, but of a full disk it says only how many bytes it could not write.
    array = np.asarray(array, order="C")
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(array.data)


def _write_npz(file: BinaryIO, array: np.ndarray) -> None:
    np.savez_compressed(file, y=array)


_WRITERS: dict[str, Callable[[BinaryIO, np.ndarray], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
