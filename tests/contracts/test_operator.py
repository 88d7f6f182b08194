"""Every operator answers what the same question put to its dense matrix would answer."""

import numpy as np
import pytest

from ntk_dist.errors import InvalidInputError
from ntk_dist.gram.grid import BlockGrid
from ntk_dist.gram.shard import GramShard
from ntk_dist.solver.operators import (
    DenseOperator,
    RidgedOperator,
    ScaledOperator,
    StoredGramOperator,
)


class ShardsHere:
    """Shards as plain objects of this process, called in order."""

    def __init__(self, shards):
        self.shards = shards

    def call(self, method, *args):
        return [getattr(shard, method)(*args) for shard in self.shards]

    def sum(self, method, *args):
        return sum(self.call(method, *args))


def gram(n, dtype=np.float32):
    points = np.random.default_rng(n).standard_normal((n, 3))
    distance = ((points[:, None] - points[None]) ** 2).sum(-1)
    return np.exp(-distance / 2).astype(dtype)


def stored(matrix, block_rows, n_shards, max_bytes, reads=None):
    grid = BlockGrid(len(matrix), len(matrix), block_rows, symmetric=True)

    def read_block(index):
        if reads is not None:
            reads.append(index)
        return matrix[grid.rows(index), grid.cols(index)].copy()

    blocks = list(grid)
    shards = [GramShard(read_block, grid, blocks[k::n_shards], max_bytes) for k in range(n_shards)]
    return StoredGramOperator(ShardsHere(shards), len(matrix), matrix.dtype)


N = 37
CASES = {
    "dense-float32": lambda k: DenseOperator(k),
    "dense-float64": lambda k: DenseOperator(k.astype(np.float64)),
    "ridged": lambda k: RidgedOperator(DenseOperator(k), np.linspace(0, 1, N)),
    "stored-one-block": lambda k: stored(k, 64, 1, 2**20),
    "stored-more-shards-than-blocks": lambda k: stored(k, 30, 5, 2**20),
    "stored-ragged-resident": lambda k: stored(k, 8, 3, 2**20),
    "stored-ragged-streamed": lambda k: stored(k, 8, 2, 0),
    "stored-ragged-half-resident": lambda k: stored(k, 8, 1, 8 * 8 * 4 * 7),
    "stored-single-rows": lambda k: stored(k, 1, 4, 300),
    "stored-float64": lambda k: stored(k.astype(np.float64), 10, 2, 2000),
    "scaled": lambda k: ScaledOperator(DenseOperator(k), np.linspace(1, 3, N)),
    "scaled-ridged-stored": lambda k: RidgedOperator(
        ScaledOperator(stored(k, 9, 2, 0), np.linspace(1, 3, N)), 0.5
    ),
    "stored-ridged": lambda k: RidgedOperator(stored(k, 9, 2, 0), 0.5),
}


@pytest.fixture(params=CASES, name="operator")
def _operator(request):
    return CASES[request.param](gram(N))


class TestOperatorContract:
    @pytest.mark.parametrize("k", [0, 1, 7])
    def test_matmat_is_the_dense_product(self, operator, k):
        v = np.random.default_rng(k).standard_normal((N, k))
        product = operator.matmat(v)
        assert product.shape == (N, k)
        assert product.dtype == np.float64
        np.testing.assert_allclose(product, operator.as_dense() @ v, rtol=0, atol=1e-13)

    def test_a_product_is_the_same_bytes_each_time(self, operator):
        v = np.random.default_rng(0).standard_normal((N, 2))
        assert operator.matmat(v).tobytes() == operator.matmat(v).tobytes()

    def test_columns_and_diagonal_are_those_of_the_dense_matrix(self, operator):
        dense = operator.as_dense()
        indices = np.array([36, 0, 17, 17, 8])
        np.testing.assert_array_equal(operator.columns(indices), dense[:, indices])
        np.testing.assert_array_equal(operator.diagonal(), dense.diagonal())
        assert operator.columns(np.array([], dtype=np.intp)).shape == (N, 0)

    def test_dense_matrix_is_symmetric_and_answers_are_copies(self, operator):
        dense = operator.as_dense()
        np.testing.assert_array_equal(dense, dense.T)
        operator.diagonal()[:] = np.nan
        operator.columns(np.arange(3))[:] = np.nan
        np.testing.assert_array_equal(operator.as_dense(), dense)

    def test_vectors_of_any_layout_are_taken(self, operator):
        v = np.random.default_rng(1).standard_normal((3, N)).T
        np.testing.assert_allclose(
            operator.matmat(v), operator.matmat(np.ascontiguousarray(v)), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("stored")])
def test_stored_gram_is_the_matrix_that_was_stored(case):
    matrix = gram(N).astype(np.float64)
    ridge = 0.5 if case == "stored-ridged" else 0.0
    np.testing.assert_array_equal(CASES[case](gram(N)).as_dense(), matrix + ridge * np.eye(N))


@pytest.mark.parametrize(("max_bytes", "again"), [(2**20, 0), (8 * 8 * 4 * 7, 10), (0, 15)])
def test_blocks_that_fit_are_read_once_and_the_others_once_per_product(max_bytes, again):
    reads = []
    operator = stored(gram(40), 8, 1, max_bytes, reads)
    v = np.ones((40, 2))
    operator.matmat(v)
    assert len(reads) == 15
    reads.clear()
    operator.matmat(v)
    assert len(reads) == again


def test_diagonal_and_columns_read_only_the_blocks_they_cross():
    reads = []
    operator = stored(gram(40), 8, 2, 0, reads)
    operator.diagonal()
    assert sorted(reads) == [(i, i) for i in range(5)]
    reads.clear()
    operator.columns(np.array([17, 19]))
    assert sorted(reads) == [(0, 2), (1, 2), (2, 2), (2, 3), (2, 4)]


def test_sums_run_in_float64():
    # Entries 1 and 2^-20 add to a number that float32 cannot hold.
    matrix = np.full((600, 600), 2.0**-20, np.float32)
    matrix[:, 0] = matrix[0] = 1
    v = np.ones((600, 1))
    product = stored(matrix, 256, 1, 0).matmat(v)
    assert product[-1, 0] == 1 + 599 * 2.0**-20


def test_what_makes_no_sense_is_refused():
    operator = stored(gram(20), 8, 1, 0)
    with pytest.raises(InvalidInputError, match=r"\(20, k\), got \(19, 2\)"):
        operator.matmat(np.ones((19, 2)))
    with pytest.raises(InvalidInputError, match="from 0 to 19, got -1"):
        operator.columns(np.array([-1]))
    with pytest.raises(InvalidInputError, match="square"):
        DenseOperator(np.ones((2, 3)))
    for ridge in (-1.0, np.nan, np.ones(19)):
        with pytest.raises(InvalidInputError, match="ridge"):
            RidgedOperator(operator, ridge)


def test_scaling_by_counts_gives_the_spectrum_of_the_repeated_rows():
    k = gram(6).astype(np.float64)
    counts = np.array([1, 3, 1, 2, 1, 1])
    repeat = np.repeat(np.arange(6), counts)
    scaled = ScaledOperator(DenseOperator(k), np.sqrt(counts)).as_dense()
    whole = np.linalg.eigvalsh(k[np.ix_(repeat, repeat)])[-6:]
    np.testing.assert_allclose(np.linalg.eigvalsh(scaled), whole, atol=1e-12 * whole[-1])
