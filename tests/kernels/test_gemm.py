"""Panels and their products against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_dist.kernels.gemm import ROWS, WORDS, add_products, pack
from ntk_dist.kernels.lanes import aligned, lane_count

DTYPES = ("float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_added_to_a_tile_in_short_sums(dtype: str) -> None:
    terms, width = 1023, WORDS * lane_count(np.dtype(dtype).itemsize)
    rng = np.random.default_rng(0)
    left, right = rng.uniform(0.5, 1, (terms, ROWS)), rng.uniform(0.5, 1, (terms, width))
    rows, columns, tile = (
        aligned(size, dtype) for size in (terms * ROWS, terms * width, ROWS * width)
    )
    rows[:], columns[:], tile[:] = left.ravel(), right.ravel(), 3
    add_products(rows, 0, columns, 0, terms, 1, tile, 0)
    terms_of = (each.astype(np.longdouble) for each in (rows, columns))
    exact = 3 + np.matmul(next(terms_of).reshape(left.shape).T, next(terms_of).reshape(right.shape))
    error = np.abs(tile.reshape(exact.shape) / exact - 1).max()
    # One running sum of so many positive terms is off by 9 and more.
    assert error < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_are_packed_scaled_and_padded(dtype: str) -> None:
    rng = np.random.default_rng(1)
    samples, scales = rng.standard_normal((7, 37)).astype(dtype), rng.uniform(1, 2, 7)
    panels = np.full((2, 37, 4), np.nan, dtype)
    pack(samples, scales, 2, panels)
    expected = np.zeros((8, 37))
    expected[:5] = samples[2:] * scales[2:, None]
    np.testing.assert_array_equal(
        panels, expected.reshape(2, 4, 37).transpose(0, 2, 1).astype(dtype)
    )
