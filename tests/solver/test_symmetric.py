import numpy as np
import pytest
import scipy.linalg
from scipy.linalg.lapack import dpocon

from ntk_dist.solver.symmetric import SymmetricMatrix, dense_bytes

SIZES = [(1, 7), (6, 7), (7, 7), (14, 7), (31, 7), (31, 1), (31, 100)]


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]} rows in panels of {size[1]}")
def case(request, systems):
    n, panel_rows = request.param
    entries = systems.kernel(n)
    return entries, SymmetricMatrix(entries.copy(), panel_rows)


def columns(n):
    return np.random.default_rng(0).standard_normal((n, 3))


def test_the_factor_solves_what_scipy_solves(case):
    entries, matrix = case
    matrix.factor()
    y = columns(len(entries))
    expected = scipy.linalg.solve(entries, y, assume_a="pos")
    np.testing.assert_allclose(matrix.solve(y), expected, rtol=1e-10, atol=1e-12)


def test_the_matrix_is_known_before_and_after_it_is_factored(case):
    entries, matrix = case
    x = columns(len(entries))
    assert matrix.norm == pytest.approx(np.linalg.norm(entries, 1), rel=1e-14)
    np.testing.assert_array_equal(matrix.diagonal, entries.diagonal())
    for spoil in (lambda: None, matrix.factor, matrix.eigenpairs):
        spoil()
        np.testing.assert_allclose(matrix @ x, entries @ x, rtol=0, atol=1e-13)


def test_eigenvalues_are_those_of_the_matrix_also_after_it_was_factored(case):
    entries, matrix = case
    matrix.factor()
    values, vectors = matrix.eigenpairs()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(entries), rtol=0, atol=1e-13)
    np.testing.assert_allclose((vectors * values) @ vectors.T, entries, rtol=0, atol=1e-13)


def test_the_condition_is_that_of_the_whole(case):
    entries, matrix = case
    matrix.factor()
    exact = 1 / np.linalg.cond(entries, 1)
    factor, norm = np.linalg.cholesky(entries), np.linalg.norm(entries, 1)
    theirs, _ = dpocon(factor, norm, uplo="L")
    estimate = matrix.reciprocal_condition()
    assert exact * (1 - 1e-9) <= estimate <= 3 * exact
    assert estimate == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("place", [0, 6, 7, 30])
def test_a_matrix_that_is_not_positive_definite_is_refused_wherever_it_shows(systems, place):
    entries = systems.kernel(31)
    entries[place, place] = -1.0
    matrix = SymmetricMatrix(entries.copy(), 7)
    with pytest.raises(scipy.linalg.LinAlgError):
        matrix.factor()
    np.testing.assert_allclose(matrix @ np.eye(31), entries, rtol=0, atol=1e-15)
    assert matrix.eigenpairs()[0][0] == pytest.approx(np.linalg.eigvalsh(entries)[0])


@pytest.mark.parametrize("place", [(0, 0), (3, 20), (30, 30)])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_the_norm_tells_of_an_entry_that_is_not_finite(systems, place, bad):
    entries = systems.kernel(31)
    entries[place] = entries[place[::-1]] = bad
    assert not np.isfinite(SymmetricMatrix(entries, 7).norm)


def test_the_factor_takes_the_place_of_the_matrix(systems):
    entries = systems.kernel(31)
    SymmetricMatrix(entries, 7).factor()
    expected = np.linalg.cholesky(systems.kernel(31))
    np.testing.assert_allclose(np.tril(entries), expected, rtol=0, atol=1e-13)


def test_a_matrix_and_its_eigenvectors_are_counted_and_some_panels():
    assert 2 * 3.2e9 < dense_bytes(20_000) < 2.5 * 3.2e9
    assert dense_bytes(10) < 10_000
