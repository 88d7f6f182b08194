"""The law of statistics stores, held against both: a batch is either absent or right.

Files are looked at and damaged directly, so that a writer and a reader that are wrong together are
found out.
"""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from ntk_dist.errors import (
    BlockCorruptError,
    BlockNotFoundError,
    ManifestMismatchError,
    StoreUnreachableError,
)
from ntk_dist.store.base import AbstractStatisticsStore
from ntk_dist.store.location import open_place
from ntk_dist.store.memory import MemoryStatisticsStore
from ntk_dist.store.statistics import ZarrStatisticsStore

N_ROWS, WIDTH, BATCH_ROWS = 23, 5, 10


def batch_of(store: AbstractStatisticsStore, batch: int) -> np.ndarray:
    rows = store.rows(batch)
    return np.random.default_rng(batch).normal(size=(rows.stop - rows.start, store.width))


def fill(store: AbstractStatisticsStore) -> None:
    for batch in range(store.n_batches):
        store.write(batch, batch_of(store, batch))


class StatisticsStoreContract:
    """What every store must do; a subclass says how to make one."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> AbstractStatisticsStore:
        return self.make(tmp_path)

    def make(self, folder: Path) -> AbstractStatisticsStore:
        raise NotImplementedError

    def test_an_absent_batch_is_not_found(self, store):
        assert store.present() == frozenset()
        with pytest.raises(BlockNotFoundError, match="batch 1"):
            store.read(1)
        store.write(0, batch_of(store, 0))
        with pytest.raises(BlockNotFoundError, match="batch 1"):
            store.read(1)

    def test_reads_what_was_written_at_the_ragged_end_too(self, store):
        fill(store)
        assert store.n_batches == 3
        assert store.rows(2) == slice(20, 23)
        assert store.present() == {0, 1, 2}
        for batch in range(3):
            np.testing.assert_array_equal(store.read(batch), batch_of(store, batch))

    def test_batches_of_zeros_and_nans_are_present(self, store):
        store.write(0, np.zeros((10, 5)))
        store.write(1, np.full((10, 5), np.nan))
        assert store.present() == {0, 1}
        assert np.isnan(store.read(1)).all()

    def test_a_batch_can_be_replaced_and_deleted(self, store):
        fill(store)
        store.write(2, np.ones((3, 5)))
        np.testing.assert_array_equal(store.read(2), np.ones((3, 5)))
        store.delete(2)
        store.delete(2)
        assert store.present() == {0, 1}

    @pytest.mark.parametrize("values", [np.ones((9, 5)), np.ones((10, 4)), np.ones((10, 5), "f4")])
    def test_what_is_no_batch_is_refused(self, store, values):
        with pytest.raises(ValueError, match=r"expected float64 of shape \(10, 5\)"):
            store.write(0, values)
        assert store.present() == frozenset()

    @pytest.mark.parametrize("batch", [-1, 3])
    def test_there_are_no_other_batches(self, store, batch):
        with pytest.raises(ValueError, match="below 3"):
            store.read(batch)
        with pytest.raises(ValueError, match="below 3"):
            store.write(batch, np.ones((10, 5)))

    def test_what_was_written_stays_as_it_was(self, store):
        values = batch_of(store, 0)
        store.write(0, values)
        values[:] = 0
        np.testing.assert_array_equal(store.read(0), batch_of(store, 0))

    def test_a_pickled_store_has_the_same_batches(self, store):
        fill(store)
        copy = pickle.loads(pickle.dumps(store))
        np.testing.assert_array_equal(copy.read(1), store.read(1))


class TestMemoryStatisticsStore(StatisticsStoreContract):
    def make(self, folder):
        return MemoryStatisticsStore(N_ROWS, WIDTH, BATCH_ROWS)


class TestZarrStatisticsStore(StatisticsStoreContract):
    def make(self, folder):
        return ZarrStatisticsStore(folder / "statistics", N_ROWS, WIDTH, BATCH_ROWS)

    def test_looking_for_one_writes_nothing(self, store, tmp_path):
        assert not store.present()
        store.delete(0)
        assert not list(tmp_path.iterdir())

    def test_any_tool_that_reads_zarr_reads_them(self, store):
        fill(store)
        array = zarr.open_array(store.location, mode="r")
        np.testing.assert_array_equal(array[10:20], batch_of(store, 1))

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
    def test_a_damaged_batch_is_found_deleted_and_never_used(self, store, damage):
        fill(store)
        chunk = Path(store.location, "c", "1", "0")
        data = bytearray(chunk.read_bytes())
        if damage == "flip":
            data[7] ^= 1
        chunk.write_bytes({"flip": data, "cut": data[:-9], "empty": b""}[damage])
        with pytest.raises(BlockCorruptError, match=r"batch 1 .* deleted"):
            store.read(1)
        assert store.present() == {0, 2}
        with pytest.raises(BlockNotFoundError):
            store.read(1)

    def test_one_that_was_opened_before_it_was_made_sees_what_another_writes(self, store):
        early = pickle.loads(pickle.dumps(store))
        fill(store)
        assert early.present() == {0, 1, 2}
        np.testing.assert_array_equal(early.read(0), store.read(0))

    def test_threads_may_make_it_at_once(self, tmp_path):
        stores = [self.make(tmp_path) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fill, stores))
        assert self.make(tmp_path).present() == {0, 1, 2}
        for batch in range(3):
            np.testing.assert_array_equal(stores[0].read(batch), batch_of(stores[0], batch))

    def test_the_batches_of_an_earlier_run_stay_as_they_are(self, store):
        fill(store)
        again = ZarrStatisticsStore(store.location, N_ROWS, WIDTH, 7)
        assert again.batch_rows == BATCH_ROWS
        assert again.present() == {0, 1, 2}

    def test_those_of_something_else_are_refused(self, store):
        fill(store)
        with pytest.raises(ManifestMismatchError, match="expected shape"):
            ZarrStatisticsStore(store.location, N_ROWS, WIDTH + 1, BATCH_ROWS)
        metadata = Path(store.location, "zarr.json")
        record = json.loads(metadata.read_text())
        record["attributes"]["format"] = 99
        metadata.write_text(json.dumps(record))
        with pytest.raises(ManifestMismatchError, match="format"):
            self.make(Path(store.location).parent)
        metadata.write_text("[]")
        with pytest.raises(StoreUnreachableError, match="damaged"):
            self.make(Path(store.location).parent)


class TestStatisticsInObjectStorage(StatisticsStoreContract):
    @pytest.fixture(autouse=True)
    def storage(self, bucket: str) -> None:
        self.bucket = bucket

    def make(self, folder):
        return ZarrStatisticsStore(f"{self.bucket}/gram/statistics", N_ROWS, WIDTH, BATCH_ROWS)

    def test_a_damaged_batch_is_found_deleted_and_never_used(self, store):
        fill(store)
        chunk = open_place(store.location) / "c" / "1" / "0"
        chunk.write_bytes(chunk.read_bytes()[:-9])
        with pytest.raises(BlockCorruptError, match=r"batch 1 .* deleted"):
            store.read(1)
        assert store.present() == {0, 2}
