import numpy as np
import pytest

from ntk_dist.errors import BreakdownError
from ntk_dist.solver.nystrom import PASSES, nystrom
from ntk_dist.solver.operators import DenseOperator


def test_it_is_exact_on_its_random_vectors_and_never_exceeds_the_matrix(systems):
    matrix = systems.kernel(120)
    found = nystrom(DenseOperator(matrix), 40, np.random.default_rng(0))
    assert (found.rank, found.passes) == (40, PASSES)
    left = matrix - found.factor @ found.factor.T
    generator = np.random.default_rng(0)
    w = np.hstack([generator.standard_normal((120, 10)) for _ in range(PASSES)])
    np.testing.assert_allclose(left @ w, 0, atol=1e-11)
    np.testing.assert_allclose(left.diagonal(), found.residual, atol=1e-12)
    assert np.linalg.eigvalsh(left).min() > -1e-11


@pytest.mark.parametrize("rank", [0, 1, 2, 7])
def test_every_rank_is_that_many_products(systems, rank):
    operator = systems.CountingOperator(DenseOperator(systems.kernel(30)))
    found = nystrom(operator, rank, np.random.default_rng(0))
    assert sum(operator.widths) == found.rank == rank
    assert len(operator.widths) == found.passes <= PASSES


def test_a_matrix_of_low_rank_is_found_whole_in_either_precision():
    root = np.random.default_rng(0).standard_normal((200, 7))
    for dtype in (np.float32, np.float64):
        matrix = (root @ root.T).astype(dtype)
        found = nystrom(DenseOperator(matrix), 20, np.random.default_rng(0))
        assert found.factor.dtype == dtype
        error = np.abs(found.factor @ found.factor.T - matrix).max()
        assert error <= 1000 * np.finfo(dtype).eps * matrix.max()


def test_nystrom_refuses_what_is_no_gram_matrix(systems):
    indefinite, _ = systems.with_spectrum(np.r_[-np.ones(20), np.linspace(0.1, 9, 40)])
    indefinite[np.diag_indices(60)] = np.abs(indefinite.diagonal())
    not_finite = np.eye(60)
    not_finite[1, 2] = not_finite[2, 1] = np.nan
    for matrix, words in ((indefinite - 2, "diagonal"), (not_finite, "finite products")):
        with pytest.raises(BreakdownError, match=words):
            nystrom(DenseOperator(matrix), 30, np.random.default_rng(0))
    indefinite[np.diag_indices(60)] = 1e-3
    with pytest.raises(BreakdownError, match="indefinite beyond rounding"):
        nystrom(DenseOperator(indefinite), 30, np.random.default_rng(0))
