from pathlib import Path

import numpy as np
import pytest

from ntk_dist.errors import ArtifactError, StoreUnreachableError
from ntk_dist.store.arrays import read_arrays, write_arrays

ARRAYS = {
    "dual_coef": np.random.default_rng(0).standard_normal((30, 2)),
    "x": np.random.default_rng(1).standard_normal((30, 4, 4, 1)).astype(np.float32),
    "labels": np.array([["cat", "žluťoučký kůň"], ["", "dog 🐕"]]),
    "no_text": np.array([], dtype="U3"),
    "empty_text": np.array(["", ""]),
    "scalar": np.array(3.5),
    "one_word": np.array("word"),
    "empty": np.zeros((0, 3)),
    "mask": np.array([True, False]),
    "counts": np.arange(5),
    "zeros": np.zeros(4),
}


def test_every_kind_of_array_reads_back(tmp_path):
    write_arrays(tmp_path, ARRAYS)
    again = read_arrays(tmp_path)
    assert list(again) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert again[name].shape == array.shape, name
        assert again[name].dtype.kind == array.dtype.kind, name
        np.testing.assert_array_equal(again[name], array)
    assert again["x"].dtype == np.float32


def test_writing_again_replaces_everything(tmp_path):
    write_arrays(tmp_path, ARRAYS)
    write_arrays(tmp_path, {"only": np.ones(2)})
    assert list(read_arrays(tmp_path)) == ["only"]


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["2020"], "datetime64[Y]")])
def test_what_would_need_pickling_is_refused(tmp_path, array):
    with pytest.raises(ValueError, match="array odd: expected numbers or text"):
        write_arrays(tmp_path, {"odd": array})


@pytest.mark.parametrize("name", ["a/b", "", "..", ".hidden"])
def test_names_that_are_paths_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="plain array name"):
        write_arrays(tmp_path, {name: np.ones(2)})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, halve, Path.unlink])
@pytest.mark.parametrize("part", ["dual_coef/c/0/0", "zeros/c/0", "scalar/c"])
def test_damaged_arrays_are_no_artifact(tmp_path, part, damage):
    write_arrays(tmp_path, ARRAYS)
    damage(tmp_path / part)
    with pytest.raises(ArtifactError, match=f"array {part.split('/')[0]} at .* is damaged"):
        read_arrays(tmp_path)


@pytest.mark.parametrize("damage", [halve, Path.unlink])
@pytest.mark.parametrize("part", ["zarr.json", "x/zarr.json"])
def test_damaged_metadata_is_no_artifact(tmp_path, part, damage):
    write_arrays(tmp_path, ARRAYS)
    damage(tmp_path / part)
    with pytest.raises(ArtifactError, match="expected the arrays of a model"):
        read_arrays(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "{}", "[" * 10_000])
@pytest.mark.parametrize("part", ["zarr.json", "x/zarr.json"])
def test_metadata_that_is_no_record_is_no_artifact(tmp_path, part, content):
    write_arrays(tmp_path, ARRAYS)
    (tmp_path / part).write_text(content)
    with pytest.raises(ArtifactError, match="expected the arrays of a model"):
        read_arrays(tmp_path)


@pytest.mark.parametrize("part", ["zarr.json", "x_0/zarr.json"])
def test_no_flipped_bit_of_the_metadata_changes_an_array(tmp_path, part):
    arrays = {"x_0": np.ones((6, 2)), "x_1": np.array([["a"], ["b"]])}
    write_arrays(tmp_path, arrays)
    metadata = tmp_path / part
    good = metadata.read_bytes()
    refused = 0
    # Numbers, names and true are what still parses with a bit flipped; a third of the rest will do.
    for k in [k for k, byte in enumerate(good) if chr(byte).isalnum() or k % 3 == 0]:
        metadata.write_bytes(good[:k] + bytes([good[k] ^ 1]) + good[k + 1 :])
        try:
            again = read_arrays(tmp_path)
        except ArtifactError:
            refused += 1
            continue
        assert again.keys() == arrays.keys()
        for name, array in arrays.items():
            assert again[name].dtype == array.dtype
            np.testing.assert_array_equal(again[name], array)
    assert refused > 20


def test_what_is_text_must_be_said(tmp_path):
    write_arrays(tmp_path, ARRAYS)
    metadata = tmp_path / "labels" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"text"', '"tent"'))
    with pytest.raises(ArtifactError, match="text"):
        read_arrays(tmp_path)


def test_arrays_whose_writer_was_cut_off_are_no_artifact(tmp_path):
    write_arrays(tmp_path, ARRAYS)
    metadata = tmp_path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"arrays"', '"others"'))
    with pytest.raises(ArtifactError, match="expected the arrays of a model"):
        read_arrays(tmp_path)


def test_a_folder_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(StoreUnreachableError, match="got none"):
        read_arrays(tmp_path / "nowhere")
