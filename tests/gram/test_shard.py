"""One shard alone; what several of them add up to is held against the operator contract."""

import itertools
import threading
import weakref
from collections import Counter

import numpy as np
import pytest

from ntk_dist.events import MemoryEvent, RepairEvent, collected, report
from ntk_dist.gram import shard as shard_module
from ntk_dist.gram.grid import BlockGrid
from ntk_dist.gram.shard import MOST_STREAMED, GramShard
from ntk_dist.settings import get_settings


def test_a_shard_answers_only_for_rows_its_blocks_touch():
    grid = BlockGrid(100, 100, 10, symmetric=True)
    shard = GramShard(lambda index: np.ones(grid.block_shape(index)), grid, [(2, 5)], 0)
    product = shard.matmat(np.ones((100, 1)))
    assert product.shape == (100, 1)
    touched = np.repeat([20, 50], 10) + np.tile(np.arange(10), 2)
    np.testing.assert_array_equal(np.flatnonzero(product), touched)


class Watched:
    """A grid's blocks, of which it is known how often each was read and how many are in memory."""

    def __init__(self, grid):
        self.grid = grid
        self.reads = Counter()
        self.most = 0
        self._alive = 0
        self._lock = threading.RLock()  # a block may die while another one is counted

    def __call__(self, index):
        values = np.random.default_rng(tuple(index)).standard_normal(self.grid.block_shape(index))
        with self._lock:
            self.reads[index] += 1
            self._alive += 1
            self.most = max(self.most, self._alive)
        block = values.astype(np.float32)
        weakref.finalize(block, self._gone)
        return block

    def _gone(self):
        with self._lock:
            self._alive -= 1


GRID = BlockGrid(60, 60, 10, symmetric=True)
ONE_BLOCK = 10 * 10 * 4


def test_the_blocks_kept_and_those_on_their_way_fit_the_budget():
    watched = Watched(GRID)
    shard = GramShard(watched, GRID, list(GRID), 5 * ONE_BLOCK + 1)
    assert shard.resident_bytes == 0
    assert shard.streamed_blocks == 2
    for _ in range(3):
        shard.matmat(np.ones((60, 1)))
    assert shard.resident_bytes == 3 * ONE_BLOCK
    assert watched.most <= 5
    # 3 of 21 once, the others for every product.
    assert sorted(watched.reads.values()) == [1] * 3 + [3] * 18


def test_blocks_that_are_kept_lie_between_those_that_are_read():
    watched = Watched(GRID)
    shard = GramShard(watched, GRID, list(GRID), 12 * ONE_BLOCK)
    shard.matmat(np.ones((60, 1)))
    shard.matmat(np.ones((60, 1)))
    kept = [n for n, index in enumerate(GRID) if watched.reads[index] == 1]
    assert len(kept) == 10
    assert max(np.diff(kept)) <= 3


def test_all_are_kept_and_read_once_if_they_just_fit():
    watched = Watched(GRID)
    shard = GramShard(watched, GRID, list(GRID), 21 * ONE_BLOCK)
    for _ in range(3):
        shard.matmat(np.ones((60, 2)))
    shard.columns(np.arange(60))
    assert set(watched.reads.values()) == {1}
    assert shard.resident_bytes == 21 * ONE_BLOCK
    assert watched.most == 21


@pytest.mark.parametrize(("max_bytes", "streamed"), [(0, 2), (1, 2), (2**30, MOST_STREAMED)])
def test_blocks_on_their_way_are_few_however_much_memory_there_is(max_bytes, streamed):
    grid = BlockGrid(60, 60, 2, symmetric=True)
    watched = Watched(grid)
    shard = GramShard(watched, grid, list(grid), max_bytes)
    assert shard.streamed_blocks == streamed
    shard.diagonal()
    shard.matmat(np.ones((60, 1)))
    if max_bytes < 4 * 4:
        assert watched.most <= streamed


def test_bits_depend_on_neither_threads_nor_what_is_resident(monkeypatch, rng):
    grid = BlockGrid(1300, 1300, 600, symmetric=True)
    v = rng.standard_normal((1300, 10))
    answers = []
    for threads, max_bytes in itertools.product((1, 2, 5), (0, 2 * 600 * 600 * 4, 2**30)):
        monkeypatch.setenv("NTK_DIST_THREADS", str(threads))
        get_settings.cache_clear()
        shard = GramShard(Watched(grid), grid, list(grid), max_bytes)
        answers += [shard.matmat(v), shard.matmat(v)]
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])


def test_a_failure_in_one_thread_lets_the_others_go(monkeypatch):
    monkeypatch.setenv("NTK_DIST_THREADS", "3")
    get_settings.cache_clear()
    monkeypatch.setattr(shard_module, "multiply_strip", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        GramShard(Watched(GRID), GRID, list(GRID), 0).matmat(np.ones((60, 1)))


@pytest.mark.parametrize(
    "block", [np.ones((3, 3), np.float32), np.ones((10, 10), np.int64), np.ones((10, 10), ">f4")]
)
def test_a_block_of_the_wrong_shape_or_kind_is_refused(block):
    grid = BlockGrid(10, 10, 10, symmetric=True)
    shard = GramShard(lambda index: block, grid, list(grid), 0)
    with pytest.raises(ValueError, match=r"block \(0, 0\): expected float32 or float64"):
        shard.matmat(np.ones((10, 1)))


def test_a_failing_read_reaches_the_caller():
    def read_block(index):
        raise OSError(f"block {index} is gone")

    grid = BlockGrid(30, 30, 10, symmetric=True)
    with pytest.raises(OSError, match=r"block \(0, 0\) is gone"):
        GramShard(read_block, grid, list(grid), 0).matmat(np.ones((30, 1)))


def test_a_gram_that_is_not_symmetric_is_refused():
    with pytest.raises(ValueError, match="symmetric grid"):
        GramShard(lambda index: None, BlockGrid(4, 4, 2), [], 0)


def test_a_shard_reports_what_it_keeps_once_and_what_reading_reports():
    grid = BlockGrid(40, 40, 10, symmetric=True)
    repair = RepairEvent(item="(0, 1)", reason="checksum")

    def read_block(index):
        if index == (0, 1):
            report(repair)
        return np.ones(grid.block_shape(index))

    shard = GramShard(read_block, grid, list(grid), 10**6)
    with collected() as events:
        for _ in range(3):
            shard.matmat(np.ones((40, 1)))
    assert events == [repair, MemoryEvent(n_bytes=8000, holder="shard of (0, 0)")]
