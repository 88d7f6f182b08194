"""The law of block stores, held against both: a block is either absent or right.

The stores' files are looked at and damaged directly, so that a writer and a reader that are wrong
together are found out.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import psutil
import pytest
import zarr

from ntk_dist.errors import (
    BlockCorruptError,
    BlockNotFoundError,
    ManifestMismatchError,
    StoreFullError,
    StoreUnreachableError,
)
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.store.base import AbstractBlockStore
from ntk_dist.store.location import open_place
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.memory import MemoryBlockStore
from ntk_dist.store.zarr import ZarrBlockStore

MANIFEST = Manifest(
    architecture="a1",
    data_rows="d1",
    data_cols="d1",
    n_rows=23,
    n_cols=23,
    block_rows=10,
    symmetric=True,
    kernels=("nngp", "ntk"),
    dtype="float32",
    device_kind="cpu",
)
CORNER, EDGE, LAST = BlockIndex(0, 0), BlockIndex(0, 2), BlockIndex(2, 2)


def blocks_of(manifest: Manifest, index: BlockIndex, seed: int = 0) -> dict[str, np.ndarray]:
    """Blocks of every kernel, drawn from the index."""
    rng = np.random.default_rng([seed, *index])
    shape = manifest.grid.block_shape(index)
    return {k: rng.standard_normal(shape).astype(manifest.dtype) for k in manifest.kernels}


def fill(store: AbstractBlockStore) -> None:
    for index in store.grid:
        store.write(index, blocks_of(store.manifest, index))


def chunk(store: ZarrBlockStore, kernel: str, index: BlockIndex) -> Path:
    return Path(store.location, kernel, "c", str(index.i), str(index.j))


WRITER = """
import json, sys
import numpy as np
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.zarr import ZarrBlockStore

location, manifest, first, last = sys.argv[1:]
store = ZarrBlockStore.create_or_open(location, Manifest.from_dict(json.loads(manifest)))
for _ in range(5):
    for index in list(store.grid)[int(first) : int(last)]:
        block = np.full(store.grid.block_shape(index), 10 * index.i + index.j, np.float32)
        store.write(index, {kernel: block for kernel in store.kernels})
"""
"""What another process does: it creates the store or joins it, and writes some of its blocks."""


class BlockStoreContract:
    """What every store must do; a subclass says how to make one."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> AbstractBlockStore:
        return self.make(MANIFEST, tmp_path)

    def make(self, manifest: Manifest, folder: Path) -> AbstractBlockStore:
        raise NotImplementedError

    def test_an_absent_block_is_not_found(self, store):
        with pytest.raises(BlockNotFoundError, match=r"\(0, 2\) of kernel ntk"):
            store.read("ntk", EDGE)
        assert store.present() == frozenset()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("block_rows", [1, 10, 23, 50])
    def test_reads_what_was_written_at_ragged_edges_too(self, tmp_path, dtype, block_rows):
        store = self.make(replace(MANIFEST, dtype=dtype, block_rows=block_rows), tmp_path)
        fill(store)
        for index in store.grid:
            for kernel, expected in blocks_of(store.manifest, index).items():
                got = store.read(kernel, index)
                assert got.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(got, expected)
        assert store.present() == frozenset(store.grid)

    def test_a_rectangular_gram_has_every_block(self, tmp_path):
        manifest = replace(MANIFEST, n_cols=7, data_cols="d2", symmetric=False)
        store = self.make(manifest, tmp_path)
        fill(store)
        assert store.present() == frozenset(store.grid)
        assert len(store.present()) == 3

    def test_blocks_of_zeros_are_present(self, store):
        zeros = np.zeros((10, 10), np.float32)
        store.write(CORNER, {"ntk": zeros, "nngp": zeros})
        assert store.present() == {CORNER}
        np.testing.assert_array_equal(store.read("ntk", CORNER), zeros)

    def test_writing_again_replaces(self, store):
        store.write(EDGE, blocks_of(MANIFEST, EDGE, seed=1))
        store.write(EDGE, blocks_of(MANIFEST, EDGE, seed=2))
        expected = blocks_of(MANIFEST, EDGE, seed=2)["ntk"]
        np.testing.assert_array_equal(store.read("ntk", EDGE), expected)

    def test_the_writer_may_reuse_its_buffer(self, store):
        blocks = blocks_of(MANIFEST, EDGE)
        store.write(EDGE, blocks)
        for block in blocks.values():
            block[:] = 0
        expected = blocks_of(MANIFEST, EDGE)["ntk"]
        np.testing.assert_array_equal(store.read("ntk", EDGE), expected)

    def test_a_transposed_view_is_written_right(self, store):
        blocks = {k: b.T.copy().T for k, b in blocks_of(MANIFEST, EDGE).items()}
        store.write(EDGE, blocks)
        np.testing.assert_array_equal(store.read("ntk", EDGE), blocks["ntk"])

    def test_delete_forgets_one_block_and_takes_absent_ones(self, store):
        fill(store)
        store.delete(EDGE)
        store.delete(EDGE)
        assert store.present() == frozenset(store.grid) - {EDGE}
        for kernel in MANIFEST.kernels:
            with pytest.raises(BlockNotFoundError):
                store.read(kernel, EDGE)

    @pytest.mark.parametrize("index", [BlockIndex(1, 0), BlockIndex(0, 3), BlockIndex(-1, 0)])
    def test_blocks_outside_the_triangle_are_refused(self, store, index):
        with pytest.raises(ValueError, match="expected a block of"):
            store.read("ntk", index)
        with pytest.raises(ValueError, match="expected a block of"):
            store.write(index, blocks_of(MANIFEST, CORNER))

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda b: {"ntk": b["ntk"]}, "expected a block of"),
            (lambda b: {**b, "rbf": b["ntk"]}, "expected a block of"),
            (lambda b: {**b, "ntk": b["ntk"].T}, r"shape \(10, 3\), got .*\(3, 10\)"),
            (lambda b: {**b, "ntk": b["ntk"].astype(np.float64)}, "expected float32"),
            (lambda b: {**b, "ntk": b["ntk"] * np.float32(np.nan)}, "holds NaN"),
            (lambda b: {**b, "ntk": b["ntk"] + np.float32(np.inf)}, "holds NaN"),
        ],
    )
    def test_wrong_blocks_are_refused_and_leave_nothing(self, store, spoil, message):
        with pytest.raises(ValueError, match=message):
            store.write(EDGE, spoil(blocks_of(MANIFEST, EDGE)))
        assert store.present() == frozenset()

    def test_an_unknown_kernel_is_refused(self, store):
        with pytest.raises(ValueError, match="one of the kernels"):
            store.read("rbf", CORNER)

    def test_eight_threads_share_a_store(self, store):
        indices = list(store.grid) * 8

        def write_and_read(index: BlockIndex) -> bool:
            expected = blocks_of(MANIFEST, index)
            store.write(index, expected)
            return all(np.array_equal(store.read(k, index), b) for k, b in expected.items())

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(write_and_read, indices))
        assert store.present() == frozenset(store.grid)


class TestMemoryBlockStore(BlockStoreContract):
    def make(self, manifest: Manifest, folder: Path) -> MemoryBlockStore:
        return MemoryBlockStore(manifest)

    def test_refuses_to_be_pickled_in_words(self, store):
        with pytest.raises(TypeError, match="give a workspace folder"):
            pickle.dumps(store)

    def test_has_room_for_what_memory_is_available(self, store):
        assert store.in_memory
        assert 0 < store.free_bytes() <= psutil.virtual_memory().total


class TestZarrBlockStore(BlockStoreContract):
    def make(self, manifest: Manifest, folder: Path) -> ZarrBlockStore:
        return ZarrBlockStore.create_or_open(folder / "gram", manifest)

    def test_is_pickled_as_its_location(self, store):
        fill(store)
        pickled = pickle.dumps(store)
        assert len(pickled) < 1000
        again = pickle.loads(pickled)
        assert again.manifest == MANIFEST
        np.testing.assert_array_equal(again.read("ntk", LAST), store.read("ntk", LAST))

    def test_has_room_for_what_its_disk_has(self, small_disk):
        store = self.make(MANIFEST, small_disk)
        assert not store.in_memory
        assert 2**18 < store.free_bytes() < 2**19

    def test_a_relative_location_is_kept_as_an_absolute_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        store = ZarrBlockStore.create_or_open("gram", MANIFEST)
        assert store.location == str(tmp_path / "gram")

    def test_any_zarr_tool_reads_the_matrix(self, store):
        fill(store)
        matrix = zarr.open_array(store.location, path="ntk", mode="r")[...]
        np.testing.assert_array_equal(matrix[0:10, 20:23], blocks_of(MANIFEST, EDGE)["ntk"])
        assert np.isnan(matrix[10:20, 0:10]).all()

    def test_a_chunk_is_plain_bytes_and_a_checksum(self, store):
        fill(store)
        stored = chunk(store, "ntk", CORNER).read_bytes()
        expected = blocks_of(MANIFEST, CORNER)["ntk"].astype("<f4").tobytes()
        assert stored == expected + google_crc32c.value(expected).to_bytes(4, "little")

    def test_opening_again_finds_the_blocks(self, store):
        fill(store)
        again = ZarrBlockStore.create_or_open(store.location, MANIFEST)
        assert again.present() == frozenset(MANIFEST.grid)

    def test_another_package_version_may_go_on(self, store):
        again = ZarrBlockStore.create_or_open(
            store.location, replace(MANIFEST, package_version="99")
        )
        assert again.manifest == MANIFEST

    def test_the_gram_of_another_data_set_is_refused_and_kept(self, store):
        fill(store)
        with pytest.raises(ManifestMismatchError, match="data_rows: expected d2, got d1"):
            ZarrBlockStore.create_or_open(store.location, replace(MANIFEST, data_rows="d2"))
        assert ZarrBlockStore.open(store.location).present() == frozenset(MANIFEST.grid)

    def test_a_zarr_group_of_someone_else_is_refused(self, tmp_path):
        zarr.create_group(tmp_path / "theirs", attributes={"title": "weather"})
        with pytest.raises(ManifestMismatchError, match="another Zarr group"):
            ZarrBlockStore.create_or_open(tmp_path / "theirs", MANIFEST)

    def test_an_array_of_another_shape_is_refused(self, store):
        zarr.create_array(store.location, name="ntk", shape=(5, 5), dtype="f4", overwrite=True)
        with pytest.raises(ManifestMismatchError, match=r"kernel ntk .* got \(\(5, 5\)"):
            ZarrBlockStore.open(store.location)

    def test_nothing_to_open(self, tmp_path):
        with pytest.raises(StoreUnreachableError, match="got none"):
            ZarrBlockStore.open(tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()
        with pytest.raises(StoreUnreachableError, match="expected a Gram matrix"):
            ZarrBlockStore.open(tmp_path)

    @pytest.mark.parametrize("part", ["zarr.json", "ntk/zarr.json"])
    def test_damaged_metadata_is_named(self, store, part):
        path = Path(store.location, part)
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(StoreUnreachableError, match=r"metadata .* is damaged"):
            ZarrBlockStore.open(store.location)

    @pytest.mark.parametrize("content", ["[]", "null", "5", "[" * 10_000])
    @pytest.mark.parametrize("part", ["zarr.json", "ntk/zarr.json"])
    def test_metadata_that_is_no_record_is_named(self, store, part, content):
        Path(store.location, part).write_text(content)
        with pytest.raises(StoreUnreachableError, match=r"metadata .* is damaged"):
            ZarrBlockStore.open(store.location)

    def test_a_manifest_of_other_types_is_named(self, store):
        metadata = Path(store.location, "zarr.json")
        record = json.loads(metadata.read_text())
        record["attributes"]["manifest"]["block_rows"] = None
        metadata.write_text(json.dumps(record))
        with pytest.raises(StoreUnreachableError, match=r"metadata .* is damaged"):
            ZarrBlockStore.open(store.location)

    def test_blocks_under_other_names_are_refused(self, store):
        metadata = Path(store.location, "ntk", "zarr.json")
        metadata.write_text(metadata.read_text().replace('"separator": "/"', '"separator": "."'))
        with pytest.raises(ManifestMismatchError, match="'c/0/0'"):
            ZarrBlockStore.open(store.location)

    @pytest.mark.parametrize("name", ["²", "٣", "02", "1a"])
    def test_files_of_other_names_are_no_blocks(self, store, name):
        store.write(CORNER, blocks_of(MANIFEST, CORNER))
        for kernel in MANIFEST.kernels:
            chunk(store, kernel, CORNER).with_name(name).touch()
            chunk(store, kernel, CORNER).parent.with_name(name).mkdir()
        assert store.present() == {CORNER}

    @pytest.mark.parametrize("content", [b"", b'{"zarr_format": 3, "node'])
    def test_blocks_whose_manifest_is_damaged_are_not_adopted(self, store, content):
        fill(store)
        Path(store.location, "zarr.json").write_bytes(content)
        with pytest.raises(StoreUnreachableError, match=r"metadata .* is damaged"):
            ZarrBlockStore.create_or_open(store.location, MANIFEST)

    def test_damaged_metadata_of_a_kernel_is_mended_by_the_manifest(self, store):
        fill(store)
        Path(store.location, "ntk", "zarr.json").write_bytes(b'{"zarr_fo')
        again = ZarrBlockStore.create_or_open(store.location, MANIFEST)
        assert again.present() == frozenset(MANIFEST.grid)
        np.testing.assert_array_equal(again.read("ntk", EDGE), blocks_of(MANIFEST, EDGE)["ntk"])

    def test_a_kernel_whose_creator_was_killed_is_made_up_for(self, store):
        Path(store.location, "ntk", "zarr.json").unlink()
        fill(ZarrBlockStore.create_or_open(store.location, MANIFEST))

    def test_a_missing_file_is_an_absent_block(self, store):
        fill(store)
        chunk(store, "ntk", EDGE).unlink()
        assert store.present() == frozenset(MANIFEST.grid) - {EDGE}
        with pytest.raises(BlockNotFoundError):
            store.read("ntk", EDGE)

    @pytest.mark.parametrize("index", [CORNER, EDGE, LAST])
    @pytest.mark.parametrize("damage", ["half", "empty", "first bit", "checksum bit", "longer"])
    def test_damage_is_found_named_and_deleted(self, store, damage, index):
        fill(store)
        path = chunk(store, "ntk", index)
        content = bytearray(path.read_bytes())
        if damage == "half":
            content = content[: len(content) // 2]
        elif damage == "empty":
            content = bytearray()
        elif damage == "first bit":
            content[0] ^= 1
        elif damage == "checksum bit":
            content[-1] ^= 128
        else:
            content += b"\0\0\0\0"
        path.write_bytes(content)

        with pytest.raises(BlockCorruptError, match=rf"\({index.i}, {index.j}\) of kernel ntk"):
            store.read("ntk", index)

        assert not path.exists()
        assert store.present() == frozenset(MANIFEST.grid) - {index}
        with pytest.raises(BlockNotFoundError):
            store.read("ntk", index)
        store.write(index, blocks_of(MANIFEST, index))
        expected = blocks_of(MANIFEST, index)["ntk"]
        np.testing.assert_array_equal(store.read("ntk", index), expected)

    def test_a_damaged_block_can_be_written_over(self, store):
        fill(store)
        for index in MANIFEST.grid:
            chunk(store, "ntk", index).write_bytes(b"torn")
        fill(store)
        for index in MANIFEST.grid:
            expected = blocks_of(MANIFEST, index)["ntk"]
            np.testing.assert_array_equal(store.read("ntk", index), expected)

    def test_partial_files_are_no_blocks_and_old_ones_are_swept(self, store):
        fill(store)
        store.delete(EDGE)
        old = chunk(store, "ntk", EDGE).with_name("2.0123456789abcdef.partial")
        new = chunk(store, "nngp", EDGE).with_name("2.fedcba9876543210.partial")
        for path in (old, new):
            path.write_bytes(b"half a block")
        two_hours_ago = time.time() - 7200
        os.utime(old, (two_hours_ago, two_hours_ago))
        assert EDGE not in store.present()

        again = ZarrBlockStore.create_or_open(store.location, MANIFEST)

        assert not old.exists()
        assert new.exists(), "its writer may still be at work"
        assert again.present() == frozenset(MANIFEST.grid) - {EDGE}

    def test_two_processes_write_the_same_and_different_blocks(self, tmp_path):
        location = str(tmp_path / "gram")
        blocks = list(MANIFEST.grid)
        manifest = json.dumps(MANIFEST.to_dict())
        command = [sys.executable, "-c", WRITER, location, manifest]
        writers = [subprocess.Popen([*command, *cut]) for cut in (("0", "4"), ("2", "6"))]
        assert [writer.wait(60) for writer in writers] == [0, 0]
        store = ZarrBlockStore.open(location)
        assert store.present() == frozenset(blocks)
        for index in blocks:
            for kernel in MANIFEST.kernels:
                assert (store.read(kernel, index) == 10 * index.i + index.j).all()

    def test_many_threads_create_one_store(self, tmp_path):
        def create(_: int) -> Manifest:
            return ZarrBlockStore.create_or_open(tmp_path / "gram", MANIFEST).manifest

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(create, range(16))) == {MANIFEST}

    def test_a_full_disk_loses_nothing(self, small_disk):
        manifest = replace(MANIFEST, n_rows=512, n_cols=512, block_rows=128, kernels=("ntk",))
        store = ZarrBlockStore.create_or_open(small_disk / "gram", manifest)
        with pytest.raises(StoreFullError, match="no space is left"):
            fill(store)
        kept = list(manifest.grid)[: len(store.present())]

        assert 0 < len(kept) < manifest.grid.n_blocks
        assert store.present() == frozenset(kept)
        assert not list(small_disk.rglob("*.partial"))
        for index in kept:
            expected = blocks_of(manifest, index)["ntk"]
            np.testing.assert_array_equal(store.read("ntk", index), expected)


class TestBlockStoreInObjectStorage(BlockStoreContract):
    @pytest.fixture(autouse=True)
    def storage(self, bucket: str) -> None:
        self.bucket = bucket

    def make(self, manifest: Manifest, folder: Path) -> ZarrBlockStore:
        return ZarrBlockStore.create_or_open(f"{self.bucket}/ws/gram", manifest)

    @pytest.mark.parametrize(("dtype", "block_rows"), [("float32", 10), ("float64", 50)])
    def test_reads_what_was_written_at_ragged_edges_too(self, tmp_path, dtype, block_rows):
        super().test_reads_what_was_written_at_ragged_edges_too(tmp_path, dtype, block_rows)

    def test_is_pickled_as_its_location(self, store):
        fill(store)
        pickled = pickle.dumps(store)
        assert len(pickled) < 1000
        again = pickle.loads(pickled)
        assert again.manifest == MANIFEST
        np.testing.assert_array_equal(again.read("ntk", LAST), store.read("ntk", LAST))

    def test_nobody_knows_how_much_it_has_room_for(self, store):
        assert store.free_bytes() is None

    def test_a_block_is_one_object_of_plain_bytes_and_a_checksum(self, store):
        fill(store)
        stored = (open_place(store.location) / "ntk" / "c" / "0" / "0").read_bytes()
        expected = blocks_of(MANIFEST, CORNER)["ntk"].astype("<f4").tobytes()
        assert stored == expected + google_crc32c.value(expected).to_bytes(4, "little")

    @pytest.mark.parametrize("damage", ["half", "empty", "bit"])
    def test_damage_is_found_named_and_deleted(self, store, damage):
        fill(store)
        place = open_place(store.location) / "ntk" / "c" / "0" / "2"
        content = bytearray(place.read_bytes())
        content[7] ^= 1
        spoilt = {"half": content[: len(content) // 2], "empty": b"", "bit": content}[damage]
        place.write_bytes(bytes(spoilt))
        with pytest.raises(BlockCorruptError, match=r"\(0, 2\) of kernel ntk at s3://"):
            store.read("ntk", EDGE)
        assert not place.is_file()
        assert store.present() == frozenset(MANIFEST.grid) - {EDGE}
        store.write(EDGE, blocks_of(MANIFEST, EDGE))
        np.testing.assert_array_equal(store.read("ntk", EDGE), blocks_of(MANIFEST, EDGE)["ntk"])

    def test_the_gram_of_another_data_set_is_refused_and_kept(self, store):
        fill(store)
        with pytest.raises(ManifestMismatchError, match="data_rows: expected d2, got d1"):
            ZarrBlockStore.create_or_open(store.location, replace(MANIFEST, data_rows="d2"))
        assert ZarrBlockStore.open(store.location).present() == frozenset(MANIFEST.grid)

    def test_nothing_to_open(self):
        with pytest.raises(StoreUnreachableError, match="expected a Gram matrix"):
            ZarrBlockStore.open(f"{self.bucket}/nowhere")

    @pytest.mark.parametrize("part", ["zarr.json", "ntk/zarr.json"])
    def test_damaged_metadata_is_named(self, store, part):
        place = open_place(f"{store.location}/{part}")
        place.write_bytes(place.read_bytes()[:50])
        with pytest.raises(StoreUnreachableError, match=r"metadata .* is damaged"):
            ZarrBlockStore.open(store.location)

    def test_many_threads_create_one_store(self):
        def create(_: int) -> Manifest:
            location = f"{self.bucket}/gram"
            return ZarrBlockStore.create_or_open(location, MANIFEST).manifest

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(create, range(16))) == {MANIFEST}

    def test_two_processes_write_the_same_and_different_blocks(self):
        location = f"{self.bucket}/gram"
        command = [sys.executable, "-c", WRITER, location, json.dumps(MANIFEST.to_dict())]
        writers = [subprocess.Popen([*command, *cut]) for cut in (("0", "4"), ("2", "6"))]
        assert [writer.wait(60) for writer in writers] == [0, 0]
        store = ZarrBlockStore.open(location)
        assert store.present() == frozenset(MANIFEST.grid)
        for index in MANIFEST.grid:
            for kernel in MANIFEST.kernels:
                assert (store.read(kernel, index) == 10 * index.i + index.j).all()
