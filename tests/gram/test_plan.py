import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.errors import DiskBudgetError, MemoryBudgetError
from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.gram.plan import assign_blocks, default_block_rows, plan_gram, predict_rows


def plan(grid, present=(), **overrides):
    arguments = {
        "kernels": ("ntk",),
        "dtype": "float32",
        "input_shape": (10,),
        "flops_per_pair": 100.0,
        "working_bytes": 1000,
        "statistics_row_bytes": 0,
        "missing_statistics": 0,
    }
    return plan_gram(grid, present, **{**arguments, **overrides})


def test_what_is_present_is_not_planned():
    grid = BlockGrid(10, 10, 4, symmetric=True)
    planned = plan(grid, {BlockIndex(0, 1), BlockIndex(2, 2)})
    assert len(planned.missing) == 4
    assert BlockIndex(0, 1) not in planned.missing
    assert planned.block_bytes == 4 * 4 * 4
    assert planned.gram_bytes == 6 * planned.block_bytes
    assert planned.missing_bytes == 4 * planned.block_bytes


def test_flops_count_half_of_a_diagonal_block():
    planned = plan(BlockGrid(10, 10, 5, symmetric=True))
    assert planned.missing_flops == 100.0 * (25 + 2 * 12.5)


def test_both_kernels_double_the_bytes():
    grid = BlockGrid(10, 10, 5)
    both = plan(grid, kernels=("nngp", "ntk"))
    assert both.gram_bytes == 2 * plan(grid).gram_bytes


def test_too_little_disk_is_refused_in_words():
    planned = plan(BlockGrid(4096, 4096, 1024))
    planned.require_room(free_bytes=2**26, memory_bytes=2**30)
    with pytest.raises(DiskBudgetError, match=r"64\.0 MiB more .* got 1\.0 MiB free"):
        planned.require_room(free_bytes=2**20)


def test_too_little_memory_for_all_blocks_names_the_way_out():
    planned = plan(BlockGrid(4096, 4096, 1024))
    planned.require_room(free_bytes=2**26, in_memory=True)
    words = r"64\.0 MiB more of memory .* got 1\.0 MiB free: give a workspace folder"
    with pytest.raises(MemoryBudgetError, match=words):
        planned.require_room(free_bytes=2**20, in_memory=True)


def test_finished_blocks_need_no_disk():
    grid = BlockGrid(100, 100, 50)
    plan(grid, frozenset(grid)).require_room(free_bytes=0)


def test_too_little_memory_is_refused_in_words():
    with pytest.raises(MemoryBudgetError, match="choose fewer block_rows"):
        plan(BlockGrid(4096, 4096, 1024)).require_room(memory_bytes=2**20)


def test_a_worker_holds_its_inputs_again_in_float64():
    planned = plan(BlockGrid(10, 10, 5), input_shape=(3, 7))
    assert planned.input_bytes == 3 * 7 * (4 + 8)
    assert planned.worker_bytes == 2 * 5 * planned.input_bytes + 2 * 5 * 5 * 4 + 1000


@given(n=st.integers(1, 10**7), flops=st.floats(1, 1e12))
def test_default_block_rows_are_bounded_and_never_more_than_the_rows(n, flops):
    rows = default_block_rows(n, flops)
    assert 1 <= rows <= min(n, 4096)
    assert rows >= min(n, 32)


def test_dear_pairs_get_small_blocks():
    assert default_block_rows(50_000, 1e3) == 4096
    assert default_block_rows(50_000, 1.6e8) < 200


def test_dear_pairs_of_very_many_rows_stay_in_a_number_of_files_that_file_systems_bear():
    assert default_block_rows(250_000, 1.6e8) == default_block_rows(50_000, 1.6e8)
    side = default_block_rows(1_000_000, 1.6e8)
    assert BlockGrid(1_000_000, 1_000_000, side, symmetric=True).n_blocks < 2.2e6
    assert default_block_rows(5_000_000, 1.6e8) == 4 * default_block_rows(50_000, 1.6e8)


@given(n=st.integers(1, 60), block_rows=st.integers(1, 20), n_shards=st.integers(1, 9))
def test_every_block_has_one_owner_and_no_shard_is_idle(n, block_rows, n_shards):
    grid = BlockGrid(n, n, block_rows, symmetric=True)
    shards = assign_blocks(grid, n_shards)
    assert sorted(block for shard in shards for block in shard) == sorted(grid)
    assert len(shards) == min(n_shards, grid.n_blocks)
    assert all(shards)


def test_a_million_rows_are_planned_in_a_few_bytes_per_block():
    grid = BlockGrid(1_000_000, 1_000_000, 4096, symmetric=True)
    tracemalloc.start()
    try:
        planned = plan(grid)
        shards = assign_blocks(grid, 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(planned.missing) == sum(map(len, shards)) == 30_135
    assert peak < 500 * 30_135
    # What travels to a worker.
    assert len(pickle.dumps(shards[0])) < 20 * len(shards[0])


def test_shards_are_balanced():
    grid = BlockGrid(4000, 4000, 250, symmetric=True)
    loads = [sum(1 if i == j else 2 for i, j in shard) for shard in assign_blocks(grid, 7)]
    assert max(loads) - min(loads) <= 2


@pytest.mark.parametrize(
    ("n_rows", "n_slots", "expected"),
    [(1, 1, 256), (2000, 1, 500), (10_000, 1, 2048), (10_000, 64, 256)],
)
def test_large_predictions_read_the_training_rows_a_few_times_only(n_rows, n_slots, expected):
    assert predict_rows(n_rows, n_slots) == expected
