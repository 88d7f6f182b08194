"""One shard alone; what several of them add up to is held against the operator contract."""

import numpy as np
import pytest

from ntk_dist.gram.grid import BlockGrid
from ntk_dist.gram.shard import GramShard


def test_a_shard_answers_only_for_rows_its_blocks_touch():
    grid = BlockGrid(100, 100, 10, symmetric=True)
    shard = GramShard(lambda index: np.ones(grid.block_shape(index)), grid, [(2, 5)], 0)
    product = shard.matmat(np.ones((100, 1)))
    assert product.shape == (100, 1)
    touched = np.repeat([20, 50], 10) + np.tile(np.arange(10), 2)
    np.testing.assert_array_equal(np.flatnonzero(product), touched)


def test_the_blocks_kept_fit_the_budget():
    grid = BlockGrid(40, 40, 10, symmetric=True)
    one_block = 10 * 10 * 8
    shard = GramShard(
        lambda index: np.ones(grid.block_shape(index)), grid, list(grid), 3 * one_block + 1
    )
    assert shard.resident_bytes == 0
    shard.matmat(np.ones((40, 1)))
    assert shard.resident_bytes == 3 * one_block


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
