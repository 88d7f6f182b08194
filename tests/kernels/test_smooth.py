"""Arcsine and exponentials of vectors, against 40 digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from ntk_dist.kernels.lanes import WORD_BYTES, aligned, compiled, load, spread, store
from ntk_dist.kernels.smooth import arc_sine, exponential, exponential_less_one

N = 96
SIZES = [0.0, 1e-30, *np.geomspace(1e-9, 0.5, 30), 0.5, *np.linspace(0.50001, 0.9999, 30), 1.0]
EXPONENTS = [0.0, -1e-30, *-np.geomspace(1e-9, 80, 60), 1e-7, -0.34657, -0.34658]


@compiled
def all_three(
    xs: np.ndarray, sizes: np.ndarray, angles: np.ndarray, powers: np.ndarray, rests: np.ndarray
) -> None:
    for at in range(0, len(xs), WORD_BYTES // xs.itemsize):
        size, x = load(sizes, at), load(xs, at)
        store(angles, at, arc_sine(xs, size, spread(xs, 1.0) - size))
        store(powers, at, exponential(xs, x))
        store(rests, at, exponential_less_one(xs, x))


def inputs_and_results(dtype: type[np.floating]) -> np.ndarray:
    rows = aligned(5 * N, dtype).reshape(5, N)
    rows[:] = 0
    return rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_lanes_agree_to_three_roundings(dtype: type[np.floating]) -> None:
    xs, sizes, angles, powers, rests = inputs_and_results(dtype)
    sizes[: len(SIZES)] = SIZES
    xs[: len(EXPONENTS)] = EXPONENTS
    all_three(xs, sizes, angles, powers, rests)
    check(angles, sizes, mpmath.asin, dtype)
    check(powers, xs, mpmath.exp, dtype)
    check(rests, xs, mpmath.expm1, dtype)


def check(
    found: np.ndarray, at: np.ndarray, exact: Callable[[Any], Any], dtype: type[np.floating]
) -> None:
    with mpmath.workdps(40):
        true = np.array([float(exact(mpmath.mpf(float(x)))) for x in at])
    np.testing.assert_allclose(found, true, rtol=3 * np.finfo(dtype).eps, atol=1e-37)


def test_exponentials_end_at_the_smallest_normal_numbers() -> None:
    xs, sizes, angles, powers, rests = inputs_and_results(np.float32)
    xs[:] = -1e30
    all_three(xs, sizes, angles, powers, rests)
    assert (powers > 0).all()
    assert (powers < 2e-38).all()
    assert (rests == -1).all()
