"""Rows and predictions as bytes: JSON, NumPy's format, or an Arrow stream.

Nothing is unpickled, and nothing is allocated because a few bytes promise that much will follow.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic_core import from_json, to_json

from ntk_dist.errors import RequestError, UnsupportedMediaTypeError
from ntk_dist.job_file import no_key_twice
from ntk_dist.wire import ARROW, JSON, NPY, from_npy, to_npy

__all__ = [
    "KINDS",
    "accepted",
    "as_numbers",
    "encode",
    "kind_of",
    "parse_json",
    "require_uncompressed",
    "rows_of",
]

KINDS = (JSON, NPY, ARROW)
_NUMBERS = "expected numbers"


def kind_of(content_type: str | None, encoding: str | None = None) -> str:
    """Which of the kinds a body says that it is.

    Parameters
    ----------
    content_type, encoding
        Headers ``Content-Type`` and ``Content-Encoding`` of the request.

    Raises
    ------
    UnsupportedMediaTypeError
        None of them; or it is compressed.
    """
    require_uncompressed(encoding)
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise UnsupportedMediaTypeError(
            f"Content-Type: expected one of {', '.join(KINDS)}, got {content_type!r}"
        )
    return kind


def require_uncompressed(encoding: str | None) -> None:
    """Refuse a body that is compressed: a small one may be any size then.

    Raises
    ------
    UnsupportedMediaTypeError
        Its ``Content-Encoding`` says so.
    """
    if encoding not in (None, "", "identity"):
        raise UnsupportedMediaTypeError(
            f"Content-Encoding: expected none, got {encoding!r}: send the body as it is"
        )


def accepted(header: str | None, sent: str) -> str:
    """In which kind to answer.

    Parameters
    ----------
    header
        ``Accept`` of the request: whichever of the kinds it likes best; where it takes anything,
        the kind that was sent.
    sent
        Kind of the body.

    Raises
    ------
    UnsupportedMediaTypeError
        It takes none of them.
    """
    best, wanted = 0.0, None
    for item in (header or "*/*").split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter.removeprefix("q="))
                except ValueError:
                    quality = 0.0
        kind = sent if name in {"*/*", "application/*"} else name
        if kind in KINDS and quality > best:
            best, wanted = quality, kind
    if wanted is None:
        raise UnsupportedMediaTypeError(
            f"Accept: expected one of {', '.join(KINDS)}, got {header!r}"
        )
    return wanted


def rows_of(body: bytes, kind: str) -> np.ndarray:
    """The rows in a body: an array of numbers, of whatever shape they came in.

    Raises
    ------
    RequestError
        It holds no array of numbers.
    """
    if kind == JSON:
        return _from_document(parse_json(body))
    if kind == NPY:
        return _numbers(from_npy(body), "the .npy array")
    return _from_arrow(body)


def parse_json(body: bytes) -> Any:
    """The value that a JSON document stands for.

    Raises
    ------
    RequestError
        It is none, or has a key twice.
    """
    try:
        found = from_json(body, allow_inf_nan=True, cache_strings="keys")
        if body.count(b":") != _n_keys(found):
            # A key that is lost, or a colon in some text: what tells them is several times slower.
            json.loads(body, parse_float=str, parse_int=str, object_pairs_hook=no_key_twice)
    except ValueError as error:
        raise RequestError(f"expected a JSON document, got: {error}") from error
    return found


def as_numbers(found: Any, what: str) -> np.ndarray:
    """Nested lists of numbers or booleans as an array.

    Raises
    ------
    RequestError
        They are something else, or rows differ in length.
    """
    if not isinstance(found, list):
        raise RequestError(f"{what}: expected a list of rows, got {_called(found)}")
    try:
        array = np.array(found)
    except ValueError as error:
        raise RequestError(f"{what}: expected rows of one shape, got: {_short(error)}") from error
    except OverflowError as error:
        raise RequestError(f"{what}: {_NUMBERS}, got one that is too large: {error}") from error
    if array.dtype.kind == "O":
        # NumPy makes objects of null, of what is nested unevenly, and of integers beyond 64 bits.
        raise RequestError(
            f"{what}: {_NUMBERS} of at most 64 bits in rows of one shape, got {_odd_one(found)}"
        )
    return _numbers(array, what)


def _from_document(document: Any) -> np.ndarray:
    if not isinstance(document, dict):
        raise RequestError(f'expected {{"rows": [...]}}, got {_called(document)}')
    if unknown := sorted(set(document) - {"rows"}):
        raise RequestError(f'expected {{"rows": [...]}} and nothing else, got {unknown[0]!r}')
    if "rows" not in document:
        raise RequestError('expected {"rows": [...]}, got no rows')
    return as_numbers(document["rows"], "rows")


def _numbers(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > np.float64().itemsize:
        raise RequestError(f"{what}: {_NUMBERS} of at most 64 bits, got dtype {array.dtype}")
    return array


def _n_keys(found: Any) -> int:
    """How many keys are in a document, but for lists that do not begin with an object: rows."""
    count, stack = 0, [found]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            count += len(value)
            stack += value.values()
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            stack += value
    return count


def _called(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _odd_one(found: Any) -> str:
    """The first thing in nested lists that is no number, in words."""
    stack = [found]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += reversed(value)
        elif not isinstance(value, bool | int | float):
            return _called(value)
        elif isinstance(value, int) and abs(value) >= 2**63:
            return "an integer of more"
    return "rows of several shapes"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


# Arrow.


def _from_arrow(body: bytes) -> np.ndarray:
    """Columns of numbers side by side, or a single column of lists of one length: (n, features)."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            _require_numbers(stream.schema)
            _require_uncompressed(body)
            table = stream.read_all()
        table.validate(full=True)
    except RequestError:
        raise
    except (pa.ArrowException, struct.error, ValueError, OSError) as error:
        raise RequestError(f"expected an Arrow IPC stream, got: {_short(error)}") from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            raise RequestError(f"column {name}: {_NUMBERS}, got {column.null_count} nulls")
    columns = [_column(column) for column in table.columns]
    if not columns:
        raise RequestError("expected an Arrow stream with columns, got none")
    return columns[0] if columns[0].ndim == 2 else np.stack(columns, axis=1)


def _column(column: Any) -> np.ndarray:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of no rows, or of too many for one
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
    if not pa.types.is_fixed_size_list(whole.type):
        return np.asarray(whole.to_numpy(zero_copy_only=False))
    flat = whole.flatten()
    if flat.null_count or len(flat) != len(whole) * whole.type.list_size:
        raise RequestError(f"{_NUMBERS} in the lists of a column, got nulls")
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    return values.reshape(len(whole), whole.type.list_size)


def _require_numbers(schema: Any) -> None:
    lists = [field for field in schema if pa.types.is_fixed_size_list(field.type)]
    if lists and len(schema) > 1:
        raise RequestError(
            f"expected columns of numbers, or one column of lists, got {len(schema)} columns with "
            f"lists in {lists[0].name!r}"
        )
    for field in schema:
        kind = field.type.value_type if lists else field.type
        if not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        ):
            raise RequestError(f"column {field.name}: {_NUMBERS}, got {str(field.type)[:100]}")


def _require_uncompressed(body: bytes) -> None:
    """Refuse record batches whose buffers are compressed: a few bytes may then be any number.

    pyarrow would have read them before it says so, so this looks into the flat buffers: a message
    has the kind of its header in field 1 and its header in field 2, and a record batch (kind 3) its
    compression in field 3 (``Message.fbs`` of the Arrow format, version 1.5).
    """
    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    for message in messages:
        if message.type != "record batch":
            continue
        found = message.metadata.to_pybytes()
        header = _field(found, struct.unpack_from("<I", found)[0], 2)
        if header is None:
            raise RequestError("expected an Arrow IPC stream, got a batch without a header")
        start = header + struct.unpack_from("<I", found, header)[0]
        if _field(found, start, 3) is not None:
            raise RequestError("expected an Arrow IPC stream without compression, got one with")


def _field(buffer: bytes, table: int, number: int) -> int | None:
    """Where a field of a table in a flat buffer is; None if it is not there."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    size, place = struct.unpack_from("<H", buffer, vtable)[0], 4 + 2 * number
    offset = struct.unpack_from("<H", buffer, vtable + place)[0] if place < size else 0
    return table + offset if offset else None


# Answers.


def encode(kind: str, y: np.ndarray, label: np.ndarray | None, about: Mapping[str, Any]) -> bytes:
    """Predictions as the body of an answer.

    Parameters
    ----------
    kind
        One of ``KINDS``. JSON has it all; an Arrow stream has columns ``y`` and ``label``; an array
        in NumPy's format is ``y`` alone.
    y : (n,) or (n, n_targets)
        Float64.
    label : (n,), optional
        Of a classifier.
    about
        What else JSON says: the model and its version.
    """
    if kind == NPY:
        return to_npy(y)
    if kind == JSON:
        named = {} if label is None else {"label": label.tolist()}
        return to_json({**about, "y": y.tolist(), **named})
    values = pa.array(y.reshape(-1))
    columns = {
        "y": values if y.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, y.shape[1])
    }
    if label is not None:
        columns["label"] = pa.array(label.tolist())
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded
