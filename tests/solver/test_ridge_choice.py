import dataclasses

import numpy as np
import pytest

from ntk_dist.errors import InvalidInputError, NotConvergedError
from ntk_dist.solver import (
    DenseOperator,
    RidgeScore,
    ScaledOperator,
    SubmatrixOperator,
    best_ridge,
    score_ridges,
)

RIDGES = (1e-6, 1e-2, 1.0, 100.0)


def scores(operator, y, ridges=RIDGES, **options):
    options = {"counts": np.ones(operator.n, int), "tol": 1e-10, **options}
    return score_ridges(operator, y, ridges, generator=np.random.default_rng(3), **options)


def test_a_part_of_an_operator_is_that_part(systems):
    whole = systems.kernel(30)
    rows = np.array([2, 3, 11, 29])
    part = SubmatrixOperator(DenseOperator(whole), rows)
    dense = whole[np.ix_(rows, rows)]
    np.testing.assert_allclose(part.as_dense(), dense)
    np.testing.assert_allclose(part.diagonal(), dense.diagonal())
    v = np.random.default_rng(0).standard_normal((4, 2))
    np.testing.assert_allclose(part.matmat(v), dense @ v, rtol=1e-12)
    np.testing.assert_array_equal(part.spread(v)[rows], v)
    np.testing.assert_array_equal(np.delete(part.spread(v), rows, axis=0), 0)


def test_errors_are_those_of_fits_without_the_rows_held_out(systems):
    matrix, y = systems.kernel(50), np.random.default_rng(0).standard_normal((50, 2))
    order = np.random.default_rng(3).permutation(50)
    out, kept = order[:10], order[10:]
    for score, ridge in zip(scores(DenseOperator(matrix), y), RIDGES, strict=True):
        fit = np.linalg.solve(matrix[np.ix_(kept, kept)] + ridge * np.eye(40), y[kept])
        error = np.sqrt(np.mean((matrix[np.ix_(out, kept)] @ fit - y[out]) ** 2))
        assert score.error == pytest.approx(error, rel=1e-7)
        assert score.ridge == ridge
        assert score.has_converged
        assert score.residual <= 1e-10


def test_rows_that_occur_often_count_often(systems):
    counts = np.random.default_rng(1).integers(1, 4, 40)
    matrix, y = systems.kernel(40), np.random.default_rng(0).standard_normal((40, 1))
    scale = np.sqrt(counts)
    scaled = ScaledOperator(DenseOperator(matrix), scale)
    (score,) = scores(scaled, scale[:, None] * y, [0.3], counts=counts)
    order = np.random.default_rng(3).permutation(40)
    out, kept = order[:8], order[8:]
    fit = np.linalg.solve(matrix[np.ix_(kept, kept)] + 0.3 * np.diag(1 / counts[kept]), y[kept])
    squares = (matrix[np.ix_(out, kept)] @ fit - y[out]) ** 2
    assert score.error == pytest.approx(np.sqrt(np.average(squares[:, 0], weights=counts[out])))


def test_noise_asks_for_a_ridge_and_a_smooth_target_for_none(systems):
    matrix = systems.kernel(120)
    generator = np.random.default_rng(0)
    smooth = matrix @ generator.standard_normal((120, 1))
    noise = generator.standard_normal((120, 1))
    assert best_ridge(scores(DenseOperator(matrix), smooth)) == 1e-6
    assert best_ridge(scores(DenseOperator(matrix), noise)) == 100.0


def test_all_ridges_together_read_the_matrix_once_per_pass(systems):
    operator = systems.CountingOperator(DenseOperator(systems.kernel(80)))
    scores(operator, np.random.default_rng(0).standard_normal((80, 2)))
    assert len(operator.widths) <= 5
    assert operator.widths[-2:] == [2 * len(RIDGES)] * 2


def score(ridge, error, has_converged=True):
    return RidgeScore(ridge=ridge, error=error, residual=0.5, has_converged=has_converged)


def test_the_larger_of_two_equals_is_taken_and_none_that_did_not_converge():
    good = [score(0.1, 2.0), score(1.0, 1.0), score(2.0, 1.0), score(1e-9, 0.1, False)]
    assert best_ridge(good) == 2.0
    bad = [dataclasses.replace(one, has_converged=False) for one in good]
    with pytest.raises(NotConvergedError, match=r"of 4 none .*5\.0e-01"):
        best_ridge(bad)


def test_one_row_cannot_be_held_out():
    with pytest.raises(InvalidInputError, match="two distinct rows or more"):
        scores(DenseOperator(np.eye(1)), np.ones((1, 1)))
    assert len(scores(DenseOperator(np.eye(2)), np.ones((2, 1)))) == len(RIDGES)


@pytest.mark.parametrize("scale", [1e155, 1e-170])
def test_scores_have_the_unit_of_the_targets(systems, scale):
    operator = DenseOperator(systems.kernel(50))
    y = np.random.default_rng(0).standard_normal((50, 2))
    usual, scaled = scores(operator, y), scores(operator, scale * y)
    errors = [score.error for score in usual]
    np.testing.assert_allclose([score.error / scale for score in scaled], errors, rtol=1e-6)
    assert best_ridge(scaled) == best_ridge(usual)


def test_an_error_that_is_no_number_is_not_the_best():
    known = RidgeScore(ridge=1.0, error=2.0, residual=0.0, has_converged=True)
    unknown = dataclasses.replace(known, ridge=0.5, error=np.nan)
    assert best_ridge([unknown, known]) == 1.0
