"""The polynomials behind the arc-cosine kernels, against 40 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from ntk_dist.kernels.arc_cosine import LIFT, TURN, lift, turn
from ntk_dist.kernels.lanes import WORD_BYTES, aligned, compiled, load, store

GAPS = [0.0, *np.geomspace(1e-12, 1, 40), *np.linspace(0.01, 0.99, 40)]


def exact(gap: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    with mpmath.workdps(40):
        g = mpmath.mpf(gap)
        if g == 0:
            return mpmath.sqrt(2) / (2 * mpmath.pi), mpmath.sqrt(2) / (3 * mpmath.pi)
        t = 2 * mpmath.asin(mpmath.sqrt(g / 2))
        area = mpmath.sin(t) - t * mpmath.cos(t)
        return t / (2 * mpmath.pi * mpmath.sqrt(g)), area / (2 * mpmath.pi * g**1.5)


@pytest.mark.parametrize(("bits", "worst"), [(32, (3.6e-9, 1.9e-8)), (64, (3e-17, 5e-17))])
def test_coefficients_are_as_good_as_they_say(bits: int, worst: tuple[float, float]) -> None:
    for gap in GAPS:
        for coefficients, truth, bound in zip(
            (TURN[bits], LIFT[bits]), exact(gap), worst, strict=True
        ):
            with mpmath.workdps(40):
                value = mpmath.fsum(
                    mpmath.mpf(c) * mpmath.mpf(gap) ** k for k, c in enumerate(coefficients)
                )
                # Coefficients are rounded to 17 digits.
                assert abs(value - truth) <= bound + 3e-17


@compiled
def both(gaps: np.ndarray, turns: np.ndarray, lifts: np.ndarray) -> None:
    for at in range(0, len(gaps), WORD_BYTES // gaps.itemsize):
        store(turns, at, turn(load(gaps, at)))
        store(lifts, at, lift(load(gaps, at)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_lanes_agree_to_two_roundings(dtype: type[np.floating]) -> None:
    n = 96
    gaps, turns, lifts = aligned(3 * n, dtype).reshape(3, n)
    gaps[:] = 0
    gaps[: len(GAPS)] = GAPS
    both(gaps, turns, lifts)
    eps = np.finfo(dtype).eps
    for g, t, value in zip(gaps, turns, lifts, strict=True):
        true_turn, true_lift = exact(float(g))
        assert abs(t - float(true_turn)) <= 2 * eps * float(true_turn)
        assert abs(value - float(true_lift)) <= 2 * eps * float(true_lift)


def test_a_word_is_one_vector_to_the_compiler() -> None:
    both.compile("(float32[::1], float32[::1], float32[::1])")
    text = "".join(both.inspect_llvm().values())
    assert "<16 x float>" in text
    assert "llvm.fmuladd.v16f32" in text or "llvm.fma.v16f32" in text
