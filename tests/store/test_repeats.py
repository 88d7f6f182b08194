import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntk_dist.errors import LabelError
from ntk_dist.store.repeats import average_targets, collapse, group_equal_rows

ROWS = np.random.default_rng(0).standard_normal((40, 5, 5, 3)).astype(np.float32)

small_rows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 3)),
    elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0]),
)


@given(small_rows)
def test_collapse_agrees_with_comparing_all_pairs(x):
    collapsed = collapse(x)
    np.testing.assert_array_equal(x[collapsed.unique][collapsed.inverse], x)
    first = [next(k for k in range(len(x)) if (x[k] == row).all()) for row in x]
    np.testing.assert_array_equal(collapsed.unique, sorted(set(first)))
    np.testing.assert_array_equal(collapsed.unique[collapsed.inverse], first)
    np.testing.assert_array_equal(collapsed.counts, np.bincount(collapsed.inverse))


@given(small_rows)
def test_colliding_hashes_merge_nothing(x):
    collided, right = group_equal_rows(x, np.zeros(len(x), np.int64)), collapse(x)
    for field in ("unique", "inverse", "counts"):
        np.testing.assert_array_equal(getattr(collided, field), getattr(right, field))


@given(small_rows, st.integers(1, 3))
def test_averaged_targets_are_the_pseudo_inverse_of_repetition(x, n_targets):
    collapsed = collapse(x)
    y = np.random.default_rng(len(x)).standard_normal((len(x), n_targets))
    repeat = np.eye(len(collapsed.unique))[collapsed.inverse]
    np.testing.assert_allclose(
        average_targets(y, collapsed), np.linalg.pinv(repeat) @ y, atol=1e-12
    )


def test_no_rows_collapse_to_no_rows():
    assert len(collapse(np.zeros((0, 3))).unique) == 0


def test_targets_of_distinct_rows_are_kept_bit_for_bit():
    y = np.random.default_rng(2).standard_normal(40)
    np.testing.assert_array_equal(average_targets(y, collapse(ROWS)), y)


def test_integer_targets_average_in_float64():
    collapsed = collapse(np.array([[1.0], [1.0], [2.0]]))
    means = average_targets(np.array([0, 1, 5], np.int8), collapsed)
    assert means.dtype == np.float64
    np.testing.assert_array_equal(means, [0.5, 5.0])


def test_a_target_for_every_row_is_required():
    with pytest.raises(LabelError, match="each of 40 rows, got 3"):
        average_targets(np.zeros(3), collapse(ROWS))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.bool_])
def test_collapse_takes_any_number(dtype):
    x = np.array([[0, 1], [1, 1], [0, 1]], dtype)
    np.testing.assert_array_equal(collapse(x).inverse, [0, 1, 0])
