import gzip
import json
import pickle

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, GZip, Zstd
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from ntk_dist.errors import (
    DataShapeError,
    EmptyDataError,
    InvalidInputError,
    NonFiniteDataError,
    StoreFullError,
    StoreUnreachableError,
    UnreadableDataError,
)
from ntk_dist.store.inputs import check_output, check_rows, read_array, write_array

X = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
Y = np.array([3, 1, 2, 0, 1, 1])


class Bomb:
    """Pickled, it would leave a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


@pytest.fixture(params=[2, 3])
def zarr_group(request, tmp_path):
    group = zarr.create_group(tmp_path / "data.zarr", zarr_format=request.param)
    group.create_array("x", data=X)
    group.create_group("deep").create_array("y", data=Y)
    group.create_group("deep/deeper")
    return tmp_path / "data.zarr"


def test_npy(tmp_path):
    np.save(tmp_path / "x.npy", X)
    got = read_array(tmp_path / "x.npy")
    assert got.dtype == X.dtype
    np.testing.assert_array_equal(got, X)


def test_npz_by_name(npz):
    np.testing.assert_array_equal(read_array(f"{npz}:x"), X)
    np.testing.assert_array_equal(read_array(f"{npz}:y"), Y)


def test_npz_with_one_array_needs_no_name(tmp_path):
    np.savez_compressed(tmp_path / "one.npz", only=X)
    np.testing.assert_array_equal(read_array(str(tmp_path / "one.npz")), X)


def test_a_colon_in_the_path_is_no_separator(tmp_path):
    np.savez(tmp_path / "run 12:30.npz", x=X, y=Y)
    np.testing.assert_array_equal(read_array(f"{tmp_path}/run 12:30.npz:y"), Y)


def test_zarr_array_in_a_group(zarr_group):
    np.testing.assert_array_equal(read_array(f"{zarr_group}:x"), X)
    np.testing.assert_array_equal(read_array(f"{zarr_group}:deep/y"), Y)
    np.testing.assert_array_equal(read_array(zarr_group), X)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_array_alone(tmp_path, zarr_format):
    zarr.create_array(tmp_path / "x", data=X, zarr_format=zarr_format)
    np.testing.assert_array_equal(read_array(tmp_path / "x"), X)


def test_text_comes_back_as_text(tmp_path):
    labels = np.array(["cat", "žirafa"])
    np.save(tmp_path / "labels.npy", labels)
    np.testing.assert_array_equal(read_array(tmp_path / "labels.npy"), labels)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.npy", "does not exist"),
        ("nowhere.npz:x", "does not exist"),
        ("{npz}", "expected one to be named, there are: x, y"),
        ("{npz}:z", "expected array 'z', there are: x, y"),
        ("{npy}:x", "one array without a name"),
        ("{folder}", r"got .*/folder, a folder without zarr\.json, .*: name a file in it"),
        ("{folder}:x", "a folder without"),
        ("", "got no name"),
        ("x" * 300, "File name too long"),
        ("{folder}/" + "x" * 300 + ".npz:x", "File name too long"),
        ("{folder}/a\0b.npy", "expected a data file"),
        ("{npz}:a\0b", "expected array"),
        ("{text}", r"expected one of \.npy, \.npz, \.zarr"),
    ],
)
def test_wrong_names_say_what_there_is(tmp_path, npz, write, spec, message):
    np.save(tmp_path / "x.npy", X)
    text = write("x.txt", "1 2 3")
    folder = tmp_path / "folder"
    folder.mkdir()
    named = spec.format(npz=npz, npy=tmp_path / "x.npy", folder=folder, text=text)
    with pytest.raises(UnreadableDataError, match=message):
        read_array(named)


def test_a_zarr_group_says_what_there_is(zarr_group):
    with pytest.raises(UnreadableDataError, match=r"'z', there are: x"):
        read_array(f"{zarr_group}:z")
    with pytest.raises(UnreadableDataError, match="got a group"):
        read_array(f"{zarr_group}:deep/deeper")
    with pytest.raises(UnreadableDataError, match="single Zarr array"):
        read_array(f"{zarr_group / 'x'}:x")


@pytest.mark.parametrize("keep", [0, 3, 40, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_files_are_unreadable(tmp_path, write, suffix, keep):
    whole = tmp_path / f"whole{suffix}"
    save = np.save if suffix == ".npy" else np.savez
    save(whole, X)
    content = whole.read_bytes()
    cut = write(f"cut{suffix}", content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(UnreadableDataError, match=r"cannot be read .* damaged, cut off"):
        read_array(cut)


def test_a_flipped_bit_in_an_npz_is_found(npz, write):
    content = bytearray(npz.read_bytes())
    content[content.index(X.tobytes()) + 10] ^= 1
    with pytest.raises(UnreadableDataError, match="Bad CRC-32"):
        read_array(f"{write('flipped.npz', bytes(content))}:x")


@pytest.mark.parametrize("keep", [0, 10, 20, 0.5, 0.95])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("compressor", ["zstd", "blosc", "gzip", "none"])
def test_truncated_zarr_chunks_are_unreadable(tmp_path, compressor, zarr_format, keep):
    codecs = {2: {"zstd": Zstd(), "blosc": Blosc(), "gzip": GZip(), "none": None}}
    codecs[3] = {"zstd": ZstdCodec(), "blosc": BloscCodec(), "gzip": GzipCodec(), "none": None}
    zarr.create_array(
        tmp_path / "x.zarr",
        data=X,
        zarr_format=zarr_format,
        compressors=codecs[zarr_format][compressor],
    )
    np.testing.assert_array_equal(read_array(tmp_path / "x.zarr"), X)
    chunk = tmp_path / "x.zarr" / ("0.0.0" if zarr_format == 2 else "c/0/0/0")
    content = chunk.read_bytes()
    chunk.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(UnreadableDataError, match=r"cannot be read|announces"):
        read_array(tmp_path / "x.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_missing_zarr_chunks_are_counted_and_not_taken_for_zeros(tmp_path, zarr_format):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=X, chunks=(1, 2, 2), zarr_format=zarr_format)
    for row in (0, 4):
        (path / (f"{row}.0.1" if zarr_format == 2 else f"c/{row}/0/1")).unlink()
    message = r"2 of 12 chunks are missing; if they are really all 0\.0, .*write_empty_chunks=True"
    with pytest.raises(UnreadableDataError, match=message):
        read_array(path)


def test_zarr_chunks_of_zeros_are_read_when_they_are_there(tmp_path):
    written = {"write_empty_chunks": True}
    zeros = np.zeros((4, 3))
    zarr.create_array(tmp_path / "x.zarr", data=zeros, chunks=(1, 3), config=written)
    np.testing.assert_array_equal(read_array(tmp_path / "x.zarr"), zeros)


def test_a_zarr_shard_holds_many_chunks(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(1, 2, 3), shards=(3, 2, 3))
    np.testing.assert_array_equal(read_array(tmp_path / "x.zarr"), X)
    (tmp_path / "x.zarr/c/1/0/0").unlink()
    with pytest.raises(UnreadableDataError, match="1 of 2 chunks are missing"):
        read_array(tmp_path / "x.zarr")


@pytest.mark.parametrize("content", ["[]", "null", "5", "[" * 10_000])
def test_zarr_metadata_that_is_no_record(tmp_path, content):
    zarr.create_array(tmp_path / "x.zarr", data=X)
    (tmp_path / "x.zarr/zarr.json").write_text(content)
    with pytest.raises(UnreadableDataError, match="cannot be read"):
        read_array(tmp_path / "x.zarr")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_objects_are_refused_without_being_loaded(tmp_path, suffix):
    bomb = np.array([Bomb(tmp_path / "went off")], dtype=object)
    path = tmp_path / f"bomb{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, bomb)
    with pytest.raises(UnreadableDataError, match="Object arrays cannot be loaded"):
        read_array(path)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {"dtype": "|O", "filters": [{"id": "pickle"}], "compressor": None},
        {"dtype": "<f8", "filters": None, "compressor": {"id": "pickle"}},
        {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}},
    ],
)
def test_pickled_zarr_chunks_are_refused_without_being_loaded(tmp_path, metadata):
    folder = tmp_path / "bomb.zarr"
    folder.mkdir()
    common = {"zarr_format": 2, "shape": [1], "chunks": [1], "order": "C", "fill_value": None}
    (folder / ".zarray").write_text(json.dumps({**common, **metadata}))
    (folder / "0").write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    with pytest.raises(UnreadableDataError, match="pickle"):
        read_array(folder)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("array", [np.array([1 + 2j]), np.array(["2020"], "datetime64[D]")])
def test_neither_numbers_nor_text(tmp_path, array):
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(UnreadableDataError, match="numbers or text, got dtype"):
        read_array(tmp_path / "odd.npy")


# ---------------------------------------------------------------------------- rows are checked


@pytest.mark.parametrize("x", [X, X.astype(np.float16), np.zeros((1, 1), np.uint8), Y[:, None] > 1])
def test_good_rows_pass(x):
    check_rows(x, "inputs")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((0, 3)), EmptyDataError, r"training inputs: .* got shape \(0, 3\)"),
        (np.zeros((3, 0)), EmptyDataError, r"got shape \(3, 0\)"),
        (np.zeros(0), EmptyDataError, r"got shape \(0,\)"),
        (np.zeros(5), DataShapeError, r"got shape \(5,\); reshape"),
        (np.array(1.0), DataShapeError, r"got shape \(\)"),
        (np.array([["a"]]), DataShapeError, "real numbers, got dtype <U1"),
        (np.array([[None]]), DataShapeError, "real numbers, got dtype object"),
        (np.array([[1j]]), DataShapeError, "real numbers, got dtype complex128"),
    ],
)
def test_bad_rows_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        check_rows(x, "training inputs")


def test_non_finite_rows_are_counted_and_named():
    x = np.zeros((30, 4, 2), np.float32)
    x[[4, 7], 1, 1] = np.nan, -np.inf
    with pytest.raises(NonFiniteDataError, match=r"in 2 of 30 rows: 4, 7; remove"):
        check_rows(x, "inputs")
    x[10:25, 3] = np.inf
    with pytest.raises(NonFiniteDataError, match=r"in 17 of 30 rows: 4, 7, 10, .*, 17, \.\.\.;"):
        check_rows(x, "inputs")


def test_non_finite_rows_are_numbered_across_pieces():
    x = np.zeros((5, 2**21))
    x[4, -1] = np.nan
    with pytest.raises(NonFiniteDataError, match="in 1 of 5 rows: 4;"):
        check_rows(x, "inputs")


# ------------------------------------------------------------------------- predictions are kept


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
@pytest.mark.parametrize(
    "array", [Y, X[:, :, 0], X[:, 0, 0].astype(np.float64), np.array(["cat", "a,b", 'q"q'])]
)
def test_predictions_read_back(tmp_path, suffix, array):
    path = tmp_path / f"out{suffix}"
    write_array(path, array)
    write_array(path, array)
    one_column = array.ndim == 1 and suffix in {".csv", ".parquet"}
    got = read_array(f"{path}:y" if one_column else path)
    np.testing.assert_array_equal(got.astype(array.dtype), array)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_table_has_two_axes(tmp_path):
    with pytest.raises(DataShapeError, match=r"got shape \(6, 2, 3\); write \.npy"):
        write_array(tmp_path / "out.csv", X)
    assert list(tmp_path.iterdir()) == []


def test_output_is_refused_before_the_work(tmp_path):
    check_output(tmp_path / "out.npy")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidInputError, match=r"ends in \.npy, \.npz, \.csv, \.parquet"):
        check_output(tmp_path / "out.xlsx")
    with pytest.raises(InvalidInputError, match=r"got '.*a\\x00b\.npy'"):
        check_output(tmp_path / "a\0b.npy")
    with pytest.raises(StoreUnreachableError, match="No such file or directory"):
        check_output(tmp_path / "nowhere" / "out.npy")


def test_a_full_disk_keeps_the_old_predictions(small_disk):
    write_array(small_disk / "out.npy", Y)
    with pytest.raises(StoreFullError, match="no space is left"):
        write_array(small_disk / "out.npy", np.zeros(2**20))
    np.testing.assert_array_equal(read_array(small_disk / "out.npy"), Y)
    assert [p.name for p in small_disk.iterdir()] == ["out.npy"]


def test_gzip_is_for_tables_and_idx(write):
    with pytest.raises(UnreadableDataError, match="expected one of"):
        read_array(write("x.npy.gz", gzip.compress(b"")))
