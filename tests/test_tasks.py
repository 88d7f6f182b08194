import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.errors import InvalidInputError
from ntk_dist.events import MemoryEvent, RepairEvent, collected
from ntk_dist.gram.block import compute_statistics
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.gram import gram_task
from ntk_dist.settings import Settings
from ntk_dist.shards import RecomputedShardFactory, ShardFactory
from ntk_dist.store.dataset import MemoryRows
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.memory import MemoryBlockStore
from ntk_dist.store.workspace import Workspace
from ntk_dist.tasks import PredictTask, RecentRows, RowBatch

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
MIB = 2**20


@pytest.fixture
def x(rng):
    return rng.normal(size=(25, 3))


@pytest.fixture
def manifest(x):
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float64")
    fingerprint = MemoryRows(x).fingerprint
    return Manifest(
        architecture=kernel.fingerprint,
        data_rows=fingerprint,
        data_cols=fingerprint,
        n_rows=25,
        n_cols=25,
        block_rows=10,
        symmetric=True,
        kernels=kernel.kernels,
        dtype="float64",
        device_kind=device_kind(),
    )


def task_of(x, store):
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float64")
    return gram_task(kernel, MemoryRows(x), store, Settings(block_max_bytes=MIB))


def test_a_task_stores_its_block_of_every_kernel(x, manifest):
    store = MemoryBlockStore(manifest)
    record = task_of(x, store)(BlockIndex(0, 2))
    expected = NET.kernel_fn(x[:10], x[20:], ("nngp", "ntk"))
    np.testing.assert_allclose(store.read("nngp", BlockIndex(0, 2)), expected.nngp, rtol=1e-13)
    np.testing.assert_allclose(store.read("ntk", BlockIndex(0, 2)), expected.ntk, rtol=1e-13)
    assert store.present() == {BlockIndex(0, 2)}
    assert record.n_bytes == 2 * 10 * 5 * 8


def test_a_repeated_task_gives_the_same_bytes(x, manifest):
    stores = [MemoryBlockStore(manifest) for _ in range(2)]
    for store in stores:
        task_of(x, store)(BlockIndex(1, 1))
    first, second = (store.read("ntk", BlockIndex(1, 1)) for store in stores)
    np.testing.assert_array_equal(first, second)


def test_a_worker_on_another_kind_of_device_is_refused(x, manifest):
    store = MemoryBlockStore(replace(manifest, device_kind="quantum"))
    with pytest.raises(InvalidInputError, match=r"compute on quantum, got \w+ on"):
        task_of(x, store)(BlockIndex(0, 0))
    assert not store.present()


def test_a_shard_computes_lost_blocks_again_and_only_those(x, manifest, caplog):
    store = MemoryBlockStore(manifest)
    task = task_of(x, store)
    for index in manifest.grid:
        task(index)
    store.delete(BlockIndex(0, 1))
    shard = ShardFactory(task, "ntk", MIB)(list(manifest.grid))
    v = np.ones((25, 1))
    np.testing.assert_allclose(shard.matmat(v), NET.kernel_fn(x) @ v, rtol=1e-12)
    assert [r.message.split(":")[0] for r in caplog.records] == ["recomputing block (0, 1)"]
    assert store.present() == set(manifest.grid)


class RacedStore(MemoryBlockStore):
    """A store in which another reader of old damage deletes every block as soon as it is there."""

    def write(self, index, blocks):
        super().write(index, blocks)
        self.delete(index)


def test_a_block_that_is_computed_again_is_not_read_again(x, manifest):
    task = task_of(x, RacedStore(manifest))
    shard = ShardFactory(task, "ntk", MIB)(list(manifest.grid))
    v = np.ones((25, 1))
    with collected() as events:
        np.testing.assert_allclose(shard.matmat(v), NET.kernel_fn(x) @ v, rtol=1e-12)
    repaired = [event.item for event in events if isinstance(event, RepairEvent)]
    assert sorted(repaired) == [str(index) for index in manifest.grid]


def test_shards_of_both_precisions_hold_memory_apart(x, manifest):
    task = task_of(x, MemoryBlockStore(manifest))
    blocks = list(manifest.grid)
    with collected() as events:
        for factory in (ShardFactory, RecomputedShardFactory):
            factory(task, "ntk", MIB)(blocks).diagonal()
    holders = [event.holder for event in events if isinstance(event, MemoryEvent)]
    assert holders == ["shard of (0, 0)", "float64 shard of (0, 0)"]


def test_recomputed_shards_multiply_by_the_float64_kernel_and_store_nothing(x, manifest):
    store = MemoryBlockStore(replace(manifest, dtype="float32"))
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float32")
    task = gram_task(kernel, MemoryRows(x), store, Settings(block_max_bytes=MIB))
    expected = NET.kernel_fn(x, None, "ntk")
    v = np.random.default_rng(0).standard_normal((25, 2))
    for max_bytes in (0, MIB):
        factory = RecomputedShardFactory(task, "ntk", max_bytes)
        shard = factory(list(manifest.grid))
        product = shard.matmat(v)
        np.testing.assert_allclose(product, expected @ v, rtol=1e-13)
        whole = np.concatenate([values for _, values in shard.diagonal()])
        np.testing.assert_allclose(whole, expected.diagonal(), rtol=1e-15)
        assert shard.resident_bytes == (425 * 8 if max_bytes else 0)
    assert not store.present()


def statistics_of(kernel, x):
    layout = kernel.statistics_layout(x.shape[1:])
    return MemoryRows(layout.pack(compute_statistics(kernel, x)))


def test_predictions_never_need_all_training_rows_at_once(x, rng):
    new, dual_coef = rng.normal(size=(7, 3)), rng.normal(size=(25, 2))
    kernel = Kernel(NET.layer, ("ntk",), "float64")
    rows = MemoryRows(x)
    task = PredictTask(kernel, rows, statistics_of(kernel, x), MemoryRows(dual_coef), 4, MIB)
    values = task(RowBatch(30, new))
    np.testing.assert_allclose(values, NET.kernel_fn(new, x) @ dual_coef, rtol=1e-12)
    assert str(RowBatch(30, new)) == "rows 30 to 36"


def test_tasks_travel_by_location(x, manifest, tmp_path):
    workspace = Workspace(tmp_path)
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float64")
    task = gram_task(kernel, workspace.rows(x), workspace.gram(manifest), Settings())
    pickled = pickle.dumps(task)
    assert len(pickled) < 5000
    pickle.loads(pickled)(BlockIndex(2, 2))
    assert task.store.present() == {BlockIndex(2, 2)}
    assert len(pickle.dumps(RecomputedShardFactory(task, "ntk", MIB))) < 5000


def test_a_block_finds_the_statistics_of_its_rows_and_computes_only_missing_ones(
    x, manifest, tmp_path, caplog, monkeypatch
):
    counted = []
    plain = Kernel.statistics
    monkeypatch.setattr(
        Kernel, "statistics", lambda self, x: counted.append(len(x)) or plain(self, x)
    )
    workspace = Workspace(tmp_path)
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float64")
    store = workspace.gram(manifest)
    task = gram_task(kernel, workspace.rows(x), store, Settings())
    task(BlockIndex(0, 1))
    assert counted == [10, 10]
    task(BlockIndex(0, 2))
    task(BlockIndex(1, 2))
    assert counted == [10, 10, 10]  # the ragged batch is padded to the others
    before = store.read("ntk", BlockIndex(0, 1))
    chunk = next(p for p in tmp_path.glob("grams/*/statistics/c/1/0"))
    data = bytearray(chunk.read_bytes())
    data[3] ^= 16
    chunk.write_bytes(data)
    task(BlockIndex(0, 1))
    assert counted == [10, 10, 10, 10]
    np.testing.assert_array_equal(store.read("ntk", BlockIndex(0, 1)), before)
    assert "computing the statistics of batch 1 again" in caplog.text
    assert bytearray(chunk.read_bytes()) != data


def test_the_batch_of_other_rows_is_not_taken(x, manifest, tmp_path, caplog):
    workspace = Workspace(tmp_path)
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float64")
    task = gram_task(kernel, workspace.rows(x), workspace.gram(manifest), Settings())
    task(BlockIndex(0, 1))
    before = task.statistics.read(slice(0, 20))
    first, second = (next(tmp_path.glob(f"grams/*/statistics/c/{i}/0")) for i in (0, 1))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    np.testing.assert_array_equal(task.statistics.read(slice(0, 20)), before)
    assert "batch 0 holds the statistics of other rows" in caplog.text


def test_rows_of_statistics_are_read_across_batches(x, manifest):
    store = MemoryBlockStore(manifest)
    rows = task_of(x, store).statistics
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float64")
    whole = statistics_of(kernel, x).read(slice(0, 25))
    np.testing.assert_allclose(rows.read(slice(7, 24)), whole[7:24], rtol=1e-14)
    assert rows.read(slice(9, 10)).shape == (1, rows.shape[1])
    assert rows.read(slice(4, 4)).shape == (0, rows.shape[1])


class CountedRows(MemoryRows):
    def __init__(self, x):
        super().__init__(x)
        self.reads = []

    def read(self, rows):
        self.reads.append((rows.start, rows.stop))
        return super().read(rows)


def test_a_band_of_rows_is_read_once_and_two_ranges_are_remembered(x):
    rows = CountedRows(x)
    recent = RecentRows(rows)
    assert (recent.shape, recent.fingerprint) == (x.shape, rows.fingerprint)
    for j in range(5):  # blocks (1, j): the band, then another range, then one row of either
        np.testing.assert_array_equal(recent.read(slice(5, 10)), x[5:10])
        np.testing.assert_array_equal(recent.read(slice(5 * j, 5 * j + 5)), x[5 * j : 5 * j + 5])
        np.testing.assert_array_equal(recent.read(slice(7, 8)), x[7:8])
        assert not recent.read(slice(5 * j, 5 * j + 1)).flags.writeable
    assert rows.reads == [(5, 10), (0, 5), (10, 15), (15, 20), (20, 25)]
    recent.read(slice(0, 5))
    recent.read(slice(0, 10))  # neither holds all of it
    assert rows.reads[-2:] == [(0, 5), (0, 10)]


def test_threads_remember_rows_apart_and_none_are_pickled(x):
    rows = CountedRows(x)
    recent = RecentRows(rows)
    recent.read(slice(0, 25))
    with ThreadPoolExecutor(1) as other:
        other.submit(recent.read, slice(0, 3)).result()
    recent.read(slice(0, 3))
    assert rows.reads == [(0, 25), (0, 3)]
    assert len(pickle.dumps(recent)) < len(pickle.dumps(rows)) + 200


def test_blocks_of_one_band_read_its_rows_once(x, manifest, monkeypatch):
    rows = CountedRows(x)
    kernel = Kernel(NET.layer, ("nngp", "ntk"), "float64")
    task = gram_task(kernel, rows, MemoryBlockStore(manifest), Settings(block_max_bytes=MIB))
    task.statistics.read(slice(0, 25))
    rows.reads.clear()
    for index in manifest.grid:
        task(index)
    # For blocks (0, 0), (0, 1), (0, 2) and (1, 1); the others find theirs, as statistics do.
    assert rows.reads == [(0, 10), (10, 20), (20, 25), (10, 20)]
