import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import LocalStore

from ntk_dist.errors import StoreUnreachableError, UnreadableDataError
from ntk_dist.store.dataset import MemoryRows, ZarrRows, fingerprint, write_rows

IMAGES = np.random.default_rng(0).standard_normal((40, 5, 5, 3)).astype(np.float32)
WIDE = np.random.default_rng(1).integers(0, 255, (5, 2**22), np.uint8)
"""Twenty MiB: four rows to a chunk of sixteen."""


@pytest.fixture(params=["memory", "zarr"])
def make_rows(request, tmp_path):
    if request.param == "memory":
        return MemoryRows
    return lambda x: write_rows(tmp_path / "rows", x)


@pytest.mark.parametrize("x", [IMAGES, WIDE, np.zeros((3, 2))], ids=["images", "wide", "zeros"])
def test_rows_read_back(make_rows, x):
    rows = make_rows(x)
    assert (rows.shape, rows.dtype, len(rows)) == (x.shape, x.dtype, len(x))
    assert rows.fingerprint == fingerprint(x)
    for cut in (slice(0, len(x)), slice(2, len(x)), slice(1, 2), slice(None, 2), slice(2, 999)):
        np.testing.assert_array_equal(rows.read(cut), x[cut])


def test_rows_are_read_in_order_only(make_rows):
    with pytest.raises(ValueError, match="consecutive"):
        make_rows(IMAGES).read(slice(0, 10, 2))


def test_pickled_rows_are_the_same_rows(make_rows):
    again = pickle.loads(pickle.dumps(make_rows(IMAGES)))
    np.testing.assert_array_equal(again.read(slice(3, 7)), IMAGES[3:7])
    assert again.fingerprint == fingerprint(IMAGES)


def test_zarr_rows_travel_as_their_location(tmp_path):
    assert len(pickle.dumps(write_rows(tmp_path / "rows", WIDE))) < 500


def test_memory_rows_cannot_be_written_through():
    with pytest.raises(ValueError, match="read-only"):
        MemoryRows(IMAGES).read(slice(0, 1))[...] = 0


def test_writing_the_same_rows_again_writes_nothing(tmp_path):
    write_rows(tmp_path, IMAGES)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    write_rows(tmp_path, IMAGES)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_threads_write_the_same_rows_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(lambda _: write_rows(tmp_path / "rows", IMAGES), range(4)))
    for rows in stored:
        np.testing.assert_array_equal(rows.read(slice(0, 40)), IMAGES)


def spoil_missing(chunk: Path) -> None:
    chunk.unlink()


def spoil_bit(chunk: Path) -> None:
    content = bytearray(chunk.read_bytes())
    content[1000] ^= 4
    chunk.write_bytes(content)


def spoil_half(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:500])


@pytest.mark.parametrize("spoil", [spoil_missing, spoil_bit, spoil_half])
def test_damaged_rows_are_found_and_mended_by_writing_again(tmp_path, spoil):
    rows = write_rows(tmp_path, WIDE)
    spoil(tmp_path / "c" / "1" / "0")
    np.testing.assert_array_equal(rows.read(slice(0, 4)), WIDE[:4])
    with pytest.raises(UnreadableDataError, match=r"stored data set .* is damaged"):
        rows.read(slice(3, 5))
    mended = write_rows(tmp_path, WIDE)
    np.testing.assert_array_equal(mended.read(slice(3, 5)), WIDE[3:5])


def test_rows_of_zeros_that_were_cut_off_are_written_to_their_end(tmp_path):
    zeros = np.zeros((5, 3), np.float32)
    write_rows(tmp_path, zeros)
    metadata = tmp_path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"fingerprint"', '"other"'))
    (tmp_path / "c" / "0" / "0").unlink()
    np.testing.assert_array_equal(write_rows(tmp_path, zeros).read(slice(0, 5)), zeros)


def test_rows_without_the_mark_of_completion_are_refused_and_written_again(tmp_path):
    write_rows(tmp_path, IMAGES)
    metadata = tmp_path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"fingerprint"', '"other"'))
    with pytest.raises(UnreadableDataError, match="not written to their end"):
        ZarrRows(tmp_path)
    np.testing.assert_array_equal(write_rows(tmp_path, IMAGES).read(slice(0, 9)), IMAGES[:9])


def test_a_second_writer_does_not_delete_what_the_first_is_writing(tmp_path):
    write_rows(tmp_path, IMAGES)
    metadata = tmp_path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"fingerprint"', '"other"'))
    being_written = tmp_path / "c" / "0.0123.partial"
    being_written.touch()
    write_rows(tmp_path, IMAGES)
    assert being_written.exists()


def test_a_location_can_be_given_other_rows(tmp_path):
    for x in (IMAGES, WIDE[:2], WIDE[2:4]):
        np.testing.assert_array_equal(write_rows(tmp_path, x).read(slice(0, 2)), x[:2])


def test_damaged_metadata_is_refused_and_written_again(tmp_path):
    write_rows(tmp_path, IMAGES)
    metadata = tmp_path / "zarr.json"
    metadata.write_text(metadata.read_text()[:60])
    with pytest.raises(UnreadableDataError, match="expected stored rows"):
        ZarrRows(tmp_path)
    np.testing.assert_array_equal(write_rows(tmp_path, IMAGES).read(slice(0, 9)), IMAGES[:9])


@pytest.mark.parametrize("content", ["[]", "null", "{}", "[" * 10_000])
def test_metadata_that_is_no_record_is_refused_and_written_again(tmp_path, content):
    write_rows(tmp_path, IMAGES)
    (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(UnreadableDataError, match="expected stored rows"):
        ZarrRows(tmp_path)
    np.testing.assert_array_equal(write_rows(tmp_path, IMAGES).read(slice(0, 9)), IMAGES[:9])


@pytest.mark.parametrize("part", ["first", "last"])
def test_a_flipped_bit_in_the_shape_does_not_change_the_rows(tmp_path, part):
    write_rows(tmp_path, IMAGES)
    metadata = tmp_path / "zarr.json"
    text = metadata.read_text()
    k = text.index("40,") if part == "first" else text.rindex("40,")
    metadata.write_text(f"{text[:k]}41,{text[k + 3 :]}")
    with pytest.raises(UnreadableDataError, match=r"expected shape \[4., 5, 5, 3\], got \[4."):
        ZarrRows(tmp_path).read(slice(0, 40))
    np.testing.assert_array_equal(write_rows(tmp_path, IMAGES).read(slice(0, 40)), IMAGES)


def test_a_folder_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(StoreUnreachableError, match="got none"):
        ZarrRows(tmp_path / "nowhere")


def test_fingerprints_tell_shape_dtype_and_content_apart():
    x = np.arange(12.0)
    different = [x.reshape(3, 4), x.reshape(4, 3), x.astype(np.float32).reshape(3, 4)]
    different.append(x.reshape(3, 4) + np.eye(3, 4))
    assert len({fingerprint(y) for y in different}) == 4
    assert all(len(fingerprint(y)) == 32 for y in different)


def test_fingerprints_ignore_layout_and_byte_order():
    x = np.arange(12.0).reshape(3, 4)
    same = [x, np.asfortranarray(x), x.astype(">f8"), np.repeat(x, 2, axis=1)[:, ::2]]
    assert {fingerprint(y) for y in same} == {fingerprint(x)}


def test_a_fingerprint_does_not_change_between_versions():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert fingerprint(x) == "d57196c6a94f7da9d2e5d587454f4de2"


def test_a_slow_writer_takes_nothing_from_a_faster_one(tmp_path, monkeypatch):
    """Between the slow one's look and its first write the other one begins and ends."""
    seen = []
    write = LocalStore._set

    async def slow(self, key, value, exclusive=False):
        monkeypatch.undo()
        await asyncio.to_thread(write_rows, tmp_path / "rows", IMAGES)
        try:
            await write(self, key, value, exclusive)
        finally:
            seen.append(await asyncio.to_thread(lambda: ZarrRows(tmp_path / "rows").fingerprint))

    monkeypatch.setattr(LocalStore, "_set", slow)
    rows = write_rows(tmp_path / "rows", IMAGES)
    assert seen == [rows.fingerprint] == [fingerprint(IMAGES)]
    np.testing.assert_array_equal(rows.read(slice(0, len(IMAGES))), IMAGES)
