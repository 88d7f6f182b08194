"""The product of a block with both sides, against NumPy in float64."""

import itertools
import threading

import numpy as np
import pytest

from ntk_dist.gram.product import STRIP_ROWS, InOrder, multiply
from ntk_dist.kernels.both_sides import ROWS, run_columns

WIDEST = run_columns(1)
SHAPES = [
    (1, 1),
    (1, 9),
    (ROWS + 1, 7),
    (64, 64),
    (65, 129),
    (STRIP_ROWS + 3, WIDEST + 9),
    (2 * STRIP_ROWS, 256),
    (3, 2 * WIDEST),
]


def right(block, v, u):
    """Both products and the sums of the absolute values of their terms."""
    wide = block.astype(np.float64)
    pairs = ((wide, v), (wide.T, u))
    return [(a @ b, np.abs(a) @ np.abs(b)) for a, b in pairs]


def assert_close(got, exact, size):
    assert got.shape == exact.shape
    assert got.dtype == np.float64
    np.testing.assert_array_less(np.abs(got - exact), 1e-13 * size + 1e-300)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_products_are_those_of_float64(rng, shape, dtype):
    # Far from one scale, so that an entry in the wrong place shows in a sum.
    block = (rng.standard_normal(shape) * np.exp(3 * rng.standard_normal(shape))).astype(dtype)
    for targets in (*range(1, 13), 33):
        v, u = rng.standard_normal((shape[1], targets)), rng.standard_normal((shape[0], targets))
        down, across = multiply(block, v, u, 2)
        (exact_down, size_down), (exact_across, size_across) = right(block, v, u)
        assert_close(down, exact_down, size_down)
        assert_close(across, exact_across, size_across)
        alone, nothing = multiply(block, v, None, 2)
        np.testing.assert_array_equal(alone, down)
        assert nothing is None


def test_many_targets(rng):
    block = rng.standard_normal((70, 300)).astype(np.float32)
    v, u = rng.standard_normal((300, 200)), rng.standard_normal((70, 200))
    down, across = multiply(block, v, u, 1)
    (exact_down, size_down), (exact_across, size_across) = right(block, v, u)
    assert_close(down, exact_down, size_down)
    assert_close(across, exact_across, size_across)


def test_no_targets_are_no_numbers():
    down, across = multiply(np.ones((3, 5), np.float32), np.ones((5, 0)), np.ones((3, 0)), 1)
    assert down.shape == (3, 0)
    assert across.shape == (5, 0)


@pytest.mark.parametrize("targets", [1, 10])
def test_bits_do_not_depend_on_the_number_of_threads(rng, targets):
    n_rows, n_cols = 5 * STRIP_ROWS + 1, 300
    block = rng.standard_normal((n_rows, n_cols)).astype(np.float32)
    v, u = rng.standard_normal((n_cols, targets)), rng.standard_normal((n_rows, targets))
    expected = multiply(block, v, u, 1)
    for threads, _ in itertools.product((2, 5, 16), range(3)):
        for got, same in zip(multiply(block, v, u, threads), expected, strict=True):
            np.testing.assert_array_equal(got, same)


def test_zeros_beyond_the_edges_meet_no_infinities(rng):
    # One infinity makes what it belongs to infinite, and nothing else a NaN.
    block = np.ones((ROWS + 1, 11), np.float32)
    v, u = np.ones((11, 2)), np.ones((ROWS + 1, 2))
    v[-1, 0] = u[-1, 1] = np.inf
    down, across = multiply(block, v, u, 1)
    np.testing.assert_array_equal(down, [[np.inf, 11]] * (ROWS + 1))
    np.testing.assert_array_equal(across, [[ROWS + 1, np.inf]] * 11)


def test_vectors_of_any_layout_and_kind_are_taken(rng):
    block = rng.standard_normal((20, 30)).astype(np.float32)
    v, u = rng.standard_normal((2, 30)).T, rng.standard_normal((20, 4))[:, ::2]
    expected = multiply(block, np.ascontiguousarray(v), np.ascontiguousarray(u), 1)
    for got, same in zip(multiply(block, v, u, 1), expected, strict=True):
        np.testing.assert_array_equal(got, same)
    whole = np.ones((30, 1), np.int64)
    np.testing.assert_array_equal(
        multiply(block, whole, None, 1)[0], multiply(block, whole.astype(float), None, 1)[0]
    )


def test_a_block_that_may_not_be_written_to_is_multiplied_without_compiling_again(rng):
    block = rng.standard_normal((5, 6)).astype(np.float32)
    expected, _ = multiply(block, np.ones((6, 1)), None, 1)
    frozen = np.frombuffer(block.tobytes(), np.float32).reshape(5, 6)
    np.testing.assert_array_equal(multiply(frozen, np.ones((6, 1)), None, 1)[0], expected)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.ones((4, 8), np.float32)[:, ::2], "contiguous in memory"),
        (np.ones((4, 4), np.float32).T[:2], "contiguous in memory"),
        (np.ones((4, 4), np.int32), "float32 or float64 with two axes, got int32"),
        (np.ones((4, 4), ">f4"), "float32 or float64 with two axes, got >f4"),
        (np.ones(4), r"two axes, got float64 of shape \(4,\)"),
    ],
)
def test_what_is_no_block_is_refused(block, message):
    with pytest.raises(ValueError, match=message):
        multiply(block, np.ones((4, 1)), None, 1)


@pytest.mark.parametrize(
    ("v", "u"), [((5, 2), (4, 2)), ((6, 2), (4, 1)), ((6, 2), (3, 2)), ((6,), (4,))]
)
def test_vectors_that_do_not_fit_are_refused(v, u):
    with pytest.raises(ValueError, match=r"shape \(4, 6\): expected vectors of shape \(6, k\)"):
        multiply(np.ones((4, 6)), np.ones(v), np.ones(u), 1)


def test_terms_are_added_in_the_order_of_their_numbers():
    added = []
    ordered = InOrder(added.append)
    numbers = list(range(50))
    np.random.default_rng(3).shuffle(numbers)
    threads = [
        threading.Thread(target=lambda part=part: [ordered.put(n, n) for n in part])
        for part in np.array_split(numbers, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert added == sorted(numbers)
