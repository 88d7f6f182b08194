"""Columns of CSV and Parquet files as arrays."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from ntk_dist.errors import UnreadableDataError
from ntk_dist.units import first_few

__all__ = ["read_csv", "read_parquet", "write_csv", "write_parquet"]

_MISSING = {"", "na", "n/a", "nan", "null"}


def read_csv(path: Path, columns: str | None) -> np.ndarray:
    """Columns of a CSV file, compressed by gzip or not; see :func:`read_columns`.

    Commas, semicolons and tabs are known as separators. The first line is a header when none of
    its cells is a number, when it has text above a number, or when it counts 0, 1, 2, ...;
    without a header the columns are called so. Text alone in a file needs a header.
    """
    head = _first_lines(path)
    if not head:
        raise UnreadableDataError(f"{path}: expected a table, got an empty file")
    delimiter = max(",;\t", key=head[0].count)
    first, *rest = csv.reader(head, delimiter=delimiter)
    header = _is_header(first, rest[0] if rest else [])
    table = pa_csv.read_csv(
        _without_python(path),
        read_options=pa_csv.ReadOptions(
            use_threads=False,
            column_names=None if header else [str(k) for k in range(len(first))],
        ),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter),
    )
    return read_columns(table, columns, path)


def read_parquet(path: Path, columns: str | None) -> np.ndarray:
    """Columns of a Parquet file; see :func:`read_columns`."""
    table = pa_parquet.read_table(path, use_threads=False)
    return read_columns(table, columns, path)


def read_columns(table: Any, columns: str | None, path: Path) -> np.ndarray:
    """Columns of a table.

    Parameters
    ----------
    table
        Anything pyarrow read.
    columns
        One name: that column, ``(n_rows,)``, numbers in their own type or text. Several, with
        commas between: ``(n_rows, n_columns)`` float64. None: all of them, likewise.
    path
        Where the table comes from, for messages.

    Raises
    ------
    UnreadableDataError
        No such column, or a column is neither numbers nor (alone) text; the message names it.
    """
    names = table.column_names
    if columns is not None and columns in names:
        return _column(table, columns, path, text=True)
    wanted = names if columns is None else [name.strip() for name in columns.split(",")]
    return np.stack(
        [_column(table, name, path, text=False).astype(np.float64) for name in wanted], axis=1
    )


def write_csv(file: BinaryIO, array: np.ndarray) -> None:
    """Write ``(n_rows,)`` as column ``y``, ``(n_rows, n_columns)`` as ``y0``, ``y1``, ..."""
    pa_csv.write_csv(_table(array), file)


def write_parquet(file: BinaryIO, array: np.ndarray) -> None:
    """Write ``(n_rows,)`` as column ``y``, ``(n_rows, n_columns)`` as ``y0``, ``y1``, ..."""
    pa_parquet.write_table(_table(array), file)


def _column(table: Any, name: str, path: Path, *, text: bool) -> np.ndarray:
    matches = table.column_names.count(name)
    if matches != 1:
        raise UnreadableDataError(
            f"{path}: expected one column {name!r}, got {matches}; "
            f"the columns are {first_few(table.column_names)}"
        )
    column = table.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
        kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        if column.null_count:  # become NaN, which is refused later with its rows
            column = column.cast(pa.float64())
        return np.asarray(column.to_numpy())
    if text and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        if column.null_count:
            missing = np.flatnonzero(column.is_null().to_numpy())
            raise UnreadableDataError(
                f"{path}: column {name!r} has no text in {len(missing)} rows: {first_few(missing)}"
            )
        return np.asarray(column.to_pylist(), dtype=np.str_)
    raise UnreadableDataError(
        f"{path}: column {name!r}: expected numbers, got {kind}; "
        "select columns with PATH:name or PATH:name,name"
    )


def _table(array: np.ndarray) -> Any:
    if array.ndim == 1:
        return pa.table({"y": array})
    return pa.table({f"y{k}": array[:, k] for k in range(array.shape[1])})


def _open_csv(path: Path) -> gzip.GzipFile | io.BufferedReader:
    # Python's gzip says when a file is cut off.
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _without_python(path: Path) -> pa.NativeFile:
    """The bytes of a CSV file, held by pyarrow alone.

    It reads ahead in a thread of its own, asked to or not. While that holds an object of Python, a
    process that ends, as after an error, may be aborted.
    """
    if path.suffix.lower() != ".gz":
        return pa.OSFile(str(path))
    memory = pa.BufferOutputStream()
    with _open_csv(path) as file:
        shutil.copyfileobj(file, memory)
    return pa.BufferReader(memory.getvalue())


def _first_lines(path: Path) -> list[str]:
    with _open_csv(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        return list(islice((line for line in text if line.strip()), 2))


def _is_header(first: list[str], second: list[str]) -> bool:
    numbers = [_is_number(cell) for cell in first]
    if not any(numbers):
        return True
    if any(_is_number(b) and not a for a, b in zip(numbers, second, strict=False)):
        return True
    # Tables written without names count their columns; three in order are no accident.
    return len(first) >= 3 and first == [str(k) for k in range(len(first))]


def _is_number(cell: str) -> bool:
    if cell.strip().lower() in _MISSING:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
