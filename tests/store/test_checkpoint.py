import hashlib
import io
import json
import os
import tracemalloc

import numpy as np
import pytest

from ntk_dist.errors import StoreFullError
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.store.location import open_place

IDENTITY = {"gram": "abc", "ridge": "0.5"}
ARRAYS = {
    "x": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "steps": np.array([3, 4]),
    "norm": np.asarray(2.5),
    "empty": np.empty((5, 0)),
}


def same(found):
    assert found is not None
    assert sorted(found) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.f_contiguous == array.flags.f_contiguous
    return True


def test_what_was_saved_last_comes_back(tmp_path):
    checkpoint = Checkpoint(open_place(tmp_path / "new"), IDENTITY)
    assert checkpoint.load() is None
    checkpoint.save({"other": np.ones(7)})
    checkpoint.save(ARRAYS)
    assert same(Checkpoint(open_place(tmp_path / "new"), dict(reversed(IDENTITY.items()))).load())
    assert [p.name for p in (tmp_path / "new").iterdir()] == [checkpoint.file.name]
    checkpoint.delete()
    checkpoint.delete()
    assert checkpoint.load() is None


def test_saving_takes_the_memory_of_the_arrays_once(tmp_path):
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    arrays = {str(k): np.ones(2**17) for k in range(20)}
    checkpoint.save(ARRAYS)
    tracemalloc.start()
    checkpoint.save(arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A buffer grows by an eighth at a time, and numpy copies one array (or 16 MiB of it).
    assert peak < 1.25 * 20 * 2**20


def test_an_archive_that_was_put_behind_its_digest_as_it_was_is_read(tmp_path):
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    identity = json.dumps(IDENTITY, sort_keys=True).encode()
    archive = io.BytesIO()
    np.savez(archive, identity=np.frombuffer(identity, np.uint8), **ARRAYS)
    body = archive.getvalue()
    digest = hashlib.blake2b(body, digest_size=32).digest()
    checkpoint.file.write_bytes(b"ntk_dist checkpoint 1\n" + digest + body)
    assert same(checkpoint.load())


def test_other_work_has_another_place(tmp_path):
    Checkpoint(open_place(tmp_path), IDENTITY).save(ARRAYS)
    assert Checkpoint(open_place(tmp_path), {**IDENTITY, "ridge": "0.6"}).load() is None


def test_what_belongs_to_other_work_is_never_used(tmp_path, caplog):
    ours, theirs = (Checkpoint(open_place(tmp_path), {"gram": name}) for name in ("ours", "theirs"))
    theirs.save(ARRAYS)
    (tmp_path / theirs.file.name).rename(tmp_path / ours.file.name)
    assert ours.load() is None
    assert 'belongs to {"gram": "theirs"}' in caplog.text


@pytest.mark.parametrize("place", [0, 30, 60, 200, -1])
def test_a_flipped_bit_is_found(tmp_path, place, caplog):
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    checkpoint.save(ARRAYS)
    data = bytearray(checkpoint.file.read_bytes())
    data[place] ^= 1
    checkpoint.file.write_bytes(data)
    assert checkpoint.load() is None
    assert "starting afresh" in caplog.text


@pytest.mark.parametrize("length", [0, 10, 54, 300])
def test_a_torn_file_is_found(tmp_path, length, caplog):
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    checkpoint.save(ARRAYS)
    checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:length])
    assert checkpoint.load() is None
    assert "it is damaged" in caplog.text


def test_a_full_disk_keeps_what_was_there(small_disk):
    checkpoint = Checkpoint(open_place(small_disk), IDENTITY)
    checkpoint.save(ARRAYS)
    with pytest.raises(StoreFullError, match="no space is left"):
        checkpoint.save({"big": np.random.default_rng(0).random(200_000)})
    assert same(checkpoint.load())
    assert len(list(small_disk.iterdir())) == 1


def test_half_written_drafts_of_killed_writers_go_with_it(tmp_path):
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    checkpoint.save(ARRAYS)
    half = tmp_path / f".{checkpoint.file.name}.0123.partial"
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    (tmp_path / "another").write_bytes(b"whole")
    checkpoint.delete()
    assert [p.name for p in tmp_path.iterdir()] == ["another"]
