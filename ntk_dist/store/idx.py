"""Reading IDX files, the format in which MNIST and its many descendants are handed on.

A header of two zero bytes, one byte for the type, one for the rank, and one big-endian 32-bit
length per axis; then the entries, big-endian, in C order.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path

import numpy as np

from ntk_dist.errors import UnreadableDataError

__all__ = ["is_idx", "read_idx"]

_NAME = re.compile(r".*[.-]idx\d?(-\w+)?(\.gz)?", re.IGNORECASE)
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(path: Path) -> bool:
    """Whether a file is named as IDX files are: ``t10k-labels-idx1-ubyte.gz``, ``x.idx``."""
    return _NAME.fullmatch(path.name) is not None


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, compressed or not, in native byte order.

    Raises
    ------
    UnreadableDataError
        The header is not one of IDX, or there are fewer or more bytes than it announces.
    """
    compressed = path.suffix.lower() == ".gz"
    with gzip.open(path) if compressed else path.open("rb") as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
            raise UnreadableDataError(
                f"{path}: expected an IDX header, got bytes {magic.hex(' ') or 'none'}"
            )
        dtype, rank = np.dtype(_TYPES[magic[2]]), magic[3]
        lengths = file.read(4 * rank)
        content = file.read()
    if len(lengths) < 4 * rank:
        raise UnreadableDataError(f"{path}: the file ends within the IDX header")
    shape = struct.unpack(f">{rank}I", lengths)
    expected = math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise UnreadableDataError(
            f"{path}: the IDX header announces {expected} bytes of shape {shape}, "
            f"got {len(content)} bytes; fetch the file again"
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
