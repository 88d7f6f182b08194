import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.gram.grid import BlockGrid, BlockIndex

sizes = st.integers(1, 40)


@given(n=sizes, m=sizes, block_rows=sizes)
def test_every_entry_is_covered_once(n, m, block_rows):
    grid = BlockGrid(n, m, block_rows)
    cover = np.zeros((n, m), int)
    for index in grid:
        cover[grid.rows(index), grid.cols(index)] += 1
        assert grid.block_shape(index) == cover[grid.rows(index), grid.cols(index)].shape
    assert (cover == 1).all()
    assert grid.n_blocks == len(list(grid))


@given(n=sizes, block_rows=sizes)
def test_the_upper_triangle_and_its_transpose_cover_a_symmetric_gram(n, block_rows):
    grid = BlockGrid(n, n, block_rows, symmetric=True)
    cover = np.zeros((n, n), int)
    for index in grid:
        cover[grid.rows(index), grid.cols(index)] += 1
        if not grid.is_diagonal(index):
            cover[grid.cols(index), grid.rows(index)] += 1
    assert (cover == 1).all()
    assert grid.n_blocks == len(list(grid))


def test_membership():
    grid = BlockGrid(10, 10, 4, symmetric=True)
    assert BlockIndex(0, 2) in grid
    assert (2, 0) not in grid
    assert (0, 3) not in grid
    assert "block" not in grid


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((0, 1, 1), "positive"), ((3, 3, 0), "positive"), ((3, 4, 2, True), "square")],
)
def test_impossible_grids_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        BlockGrid(*arguments)


def test_the_edges_are_ragged():
    grid = BlockGrid(10, 7, 4)
    assert grid.shape == (3, 2)
    assert grid.block_shape(BlockIndex(2, 1)) == (2, 3)
    assert str(BlockIndex(2, 1)) == "(2, 1)"
