import numpy as np
import pytest
from scipy.linalg import LinAlgError

from ntk_dist.solver import block_lanczos
from ntk_dist.solver.block_lanczos import KrylovSpace


@pytest.fixture(autouse=True, params=[block_lanczos.PANEL, 8], ids=["one panel", "many panels"])
def _panels(request, monkeypatch):
    monkeypatch.setattr(block_lanczos, "PANEL", request.param)


def grown(matrix, y, extra, passes):
    space = KrylovSpace(y, extra)
    blocks = []
    for _ in range(passes):
        blocks.append(space.newest)
        space.grow(matrix @ space.newest)
    return space, np.concatenate(blocks, axis=1)


@pytest.fixture(name="problem")
def _problem(systems):
    generator = np.random.default_rng(0)
    y = generator.standard_normal((90, 3))
    return systems.kernel(90), y / np.linalg.norm(y, axis=0), generator.standard_normal((90, 4))


@pytest.mark.parametrize("passes", [1, 2, 6, 11])
def test_answers_are_those_of_the_projected_matrix(problem, passes):
    matrix, y, extra = problem
    space, basis = grown(matrix, y, extra, passes)
    assert space.size == 7 * passes
    np.testing.assert_allclose(basis.T @ basis, np.eye(space.size), atol=1e-13)
    projected = basis.T @ matrix @ basis
    inner, residuals = space.solve(0.1)
    expected = np.linalg.solve(projected + 0.1 * np.eye(space.size), basis.T @ y)
    np.testing.assert_allclose(inner, expected, atol=1e-9)
    answer = space.combine(inner)
    np.testing.assert_allclose(answer, basis @ inner, atol=1e-12)
    true = np.linalg.norm(y - matrix @ answer - 0.1 * answer, axis=0)
    np.testing.assert_allclose(residuals, true, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(space.extremes(), np.linalg.eigvalsh(projected)[[0, -1]], atol=1e-11)


def test_earlier_answers_are_still_understood(problem):
    matrix, y, extra = problem
    space = KrylovSpace(y, extra)
    for _ in range(3):
        space.grow(matrix @ space.newest)
    inner, _ = space.solve(1.0)
    before = space.combine(inner)
    space.grow(matrix @ space.newest)
    np.testing.assert_array_equal(space.combine(inner), before)


def test_repeated_zero_and_dependent_columns_are_carried_once(problem):
    matrix, y, extra = problem
    again = np.stack([y[:, 0], y[:, 1], y[:, 0], np.zeros(90), y[:, 0] + y[:, 1]], axis=1)
    space = KrylovSpace(again, extra[:, :1])
    assert space.width == 3
    for _ in range(30):
        space.grow(matrix @ space.newest)
    assert space.size == 90
    assert space.width == 0
    inner, residuals = space.solve(0.5)
    np.testing.assert_allclose(residuals, 0, atol=1e-12)
    expected = np.linalg.solve(matrix + 0.5 * np.eye(90), again)
    np.testing.assert_allclose(space.combine(inner), expected, atol=1e-10)


def test_a_matrix_of_few_eigenvalues_is_known_after_as_many_passes(systems):
    matrix, basis = systems.with_spectrum(np.repeat([1.0, 5.0, 20.0], 20))
    y = basis.sum(axis=1, keepdims=True) / np.sqrt(60)
    space, _ = grown(matrix, y, np.empty((60, 0)), 3)
    assert (space.size, space.width) == (3, 0)
    np.testing.assert_allclose(space.extremes(), [1, 20])


def test_a_matrix_that_is_not_positive_definite_is_refused(systems):
    matrix, basis = systems.with_spectrum(np.linspace(-1, 10, 30))
    space, _ = grown(matrix, basis @ np.full((30, 1), 30**-0.5), np.empty((30, 0)), 30)
    with pytest.raises(LinAlgError):
        space.solve(0.5)
    space.solve(1.5)
