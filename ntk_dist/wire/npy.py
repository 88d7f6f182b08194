"""Arrays as bytes in NumPy's format."""

from __future__ import annotations

import ast
import io
import math
from typing import Any

import numpy as np

from ntk_dist.errors import RequestError

__all__ = ["from_npy", "to_npy"]


def to_npy(array: np.ndarray) -> bytes:
    """An array of numbers or text in NumPy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def from_npy(body: bytes) -> np.ndarray:
    """The array in ``body``; objects, which would have to be unpickled, are refused.

    Raises
    ------
    RequestError
        It is no such array, not all of it, or something follows it. Nothing is allocated before
        that is known: a header of 128 bytes may promise any number of rows.
    """
    try:
        shape, is_fortran, dtype, start = _npy_header(body)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise RequestError(f"expected an array in the .npy format, got: {error}") from error
    if dtype.hasobject:
        raise RequestError("expected an .npy array of numbers or text, got one of objects")
    expected, found = math.prod(shape) * dtype.itemsize, len(body) - start
    if found != expected:
        raise RequestError(
            f"expected {expected} bytes behind the header of the .npy array (shape {shape}, "
            f"{dtype}), got {found}"
        )
    try:
        flat = np.frombuffer(body, dtype, count=math.prod(shape), offset=start)
        return flat.reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, OverflowError) as error:  # entries of no bytes, or a side beyond 64 bits
        raise RequestError(
            f"expected an .npy array with entries, got shape {shape} of {dtype}"
        ) from error


_LONGEST_HEADER = 10_000
"""Bytes, as NumPy has it: what parses Python literals is not made for long ones."""


def _npy_header(body: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, dtype, and where the entries start.

    NumPy's own function takes headers that Python 2 wrote as well, and warns of them.
    """
    major, minor = np.lib.format.read_magic(io.BytesIO(body))
    if (major, minor) not in _LENGTHS:
        raise ValueError(f"version {major}.{minor}")
    length = _LENGTHS[major, minor]
    first = np.lib.format.MAGIC_LEN + length
    size = int.from_bytes(body[np.lib.format.MAGIC_LEN : first], "little")
    if size > min(_LONGEST_HEADER, len(body) - first):
        raise ValueError(f"a header of {size} bytes")
    header = ast.literal_eval(body[first : first + size].decode("latin1"))
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise ValueError("another header than descr, fortran_order and shape")
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a shape that is none")
    dtype = np.lib.format.descr_to_dtype(header["descr"])
    return shape, bool(header["fortran_order"]), dtype, first + size


_LENGTHS = {(1, 0): 2, (2, 0): 4}
"""Bytes that tell the length of the header, by version."""
