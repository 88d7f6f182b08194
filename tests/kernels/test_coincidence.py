import numpy as np
import pytest

from ntk_dist.kernels.coincidence import coincidence, row_keys


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_opposite_and_zero_rows_are_found(dtype, rng):
    x1 = rng.normal(size=(5, 2, 3)).astype(dtype)
    x2 = rng.normal(size=(4, 2, 3)).astype(dtype)
    x1[4] = 0
    x2[0], x2[1], x2[2] = x1[1], -x1[3], -0.0
    found = coincidence(x1, x2)
    assert set(zip(*found.equal, strict=True)) == {(1, 0), (4, 2)}
    assert set(zip(*found.opposite, strict=True)) == {(3, 1)}


def test_a_set_with_itself_has_at_least_its_diagonal(rng):
    x = rng.normal(size=(4, 3))
    x[3] = -x[1]
    found = coincidence(x)
    assert set(zip(*found.equal, strict=True)) == {(i, i) for i in range(4)}
    assert set(zip(*found.opposite, strict=True)) == {(1, 3), (3, 1)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("largest", "n_features"), [(1, 3), (16, 2)])
def test_agrees_with_comparing_all_pairs_of_small_integers(dtype, largest, n_features, rng):
    x1, x2 = (
        rng.integers(-largest, largest + 1, size=(300, n_features)).astype(dtype) for _ in range(2)
    )
    found = coincidence(x1, x2)
    equal = (x1[:, None] == x2[None]).all(-1)
    opposite = (x1[:, None] == -x2[None]).all(-1) & ~equal
    assert set(zip(*found.equal, strict=True)) == set(zip(*equal.nonzero(), strict=True))
    assert set(zip(*found.opposite, strict=True)) == set(zip(*opposite.nonzero(), strict=True))


def test_nan_equals_nothing():
    x = np.array([[np.nan, 1.0], [np.nan, 1.0]])
    pairs = set(zip(*coincidence(x).equal, strict=True))
    assert (0, 1) not in pairs
    assert (1, 0) not in pairs


def test_keys_made_before_are_not_made_again(rng):
    x1, x2 = rng.normal(size=(6, 2, 3)), rng.normal(size=(4, 2, 3))
    x2[0], x2[1] = x1[1], -x1[3]
    keys1, keys2 = row_keys(x1), row_keys(x2)
    assert (keys1[1], keys1[3]) == (keys2[0], keys2[1])
    expected = coincidence(x1, x2)
    for known in [(keys1, keys2), (keys1, None), (None, keys2)]:
        found = coincidence(x1, x2, *known)
        np.testing.assert_array_equal(found.equal, expected.equal)
        np.testing.assert_array_equal(found.opposite, expected.opposite)
    # Keys that never meet: nothing is compared.
    assert not len(coincidence(x1, x2, np.arange(6, dtype="u8"), keys2).equal[0])
