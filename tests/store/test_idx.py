import gzip
import struct

import numpy as np
import pytest

from ntk_dist.errors import UnreadableDataError
from ntk_dist.store.inputs import read_array

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def as_idx(array: np.ndarray) -> bytes:
    """An IDX file, written straight from its description."""
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 28)])
def test_every_type_and_rank(write, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype) - np.array(3).astype(dtype)
    got = read_array(write("x.idx", as_idx(array)))
    assert (got.dtype, got.dtype.isnative) == (array.dtype, True)
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    "name",
    ["train-images-idx3-ubyte", "train-images.idx3-ubyte", "t10k-labels-idx1-ubyte.gz", "X.IDX.GZ"],
)
def test_files_are_known_by_name(write, name):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = as_idx(array)
    path = write(name, gzip.compress(content) if name.lower().endswith("gz") else content)
    np.testing.assert_array_equal(read_array(path), array)


IMAGES = as_idx(np.ones((5, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX header, got bytes none"),
        (b"\x89PNG", "expected an IDX header, got bytes 89 50 4e 47"),
        (b"\0\0\x0a\x01" + bytes(8), "expected an IDX header"),
        (IMAGES[:10], "ends within the IDX header"),
        (IMAGES[:-1], r"announces 80 bytes of shape \(5, 4, 4\), got 79 bytes"),
        (IMAGES + b"\0", "got 81 bytes"),
        (IMAGES[:4] + b"\xff" * 12, "got 0 bytes"),
    ],
)
def test_damage_is_named(write, content, message):
    with pytest.raises(UnreadableDataError, match=message):
        read_array(write("x.idx", content))


def test_a_truncated_gzip_is_unreadable(write):
    with pytest.raises(UnreadableDataError, match="cannot be read"):
        read_array(write("x.idx.gz", gzip.compress(IMAGES)[:-9]))


def test_there_is_no_array_to_name(write):
    with pytest.raises(UnreadableDataError, match="leave out :x"):
        read_array(f"{write('x.idx', IMAGES)}:x")
