"""Polynomials in place of layers."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.curves import fit
from ntk_dist.kernels.dense_program import compile_dense
from ntk_dist.kernels.dispatch import Kernel

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def smooth(angles: np.ndarray) -> np.ndarray:
    return 7 * np.array([3 + np.cos(angles), 5 + np.exp(-angles)])


@pytest.mark.parametrize(("dtype", "error"), [(SINGLE, 3e-7), (DOUBLE, 1e-13)])
def test_curves_go_through_smooth_kernels(dtype: np.dtype[np.floating], error: float) -> None:
    curves = fit(smooth, dtype)
    assert curves.dtype == dtype
    angles = np.linspace(0, np.pi, 77)
    exact = smooth(angles) / smooth(np.zeros(1))[0]
    x = (2 / np.pi * angles - 1).astype(dtype)
    for kernel, curve in zip(exact, curves, strict=True):
        assert np.abs(np.polyval(curve, x) - kernel).max() <= 2 * error * kernel.max()


def test_what_is_too_bent_keeps_its_layers() -> None:
    bent = fit(lambda t: np.exp(-np.stack([t, 400 * np.sin(t / 2)])), SINGLE)
    assert bent.shape == (2, 0)


@pytest.mark.parametrize("depth", [2, 4, 8])
@pytest.mark.parametrize("activation", [stax.Relu(), stax.Abs(), stax.LeakyRelu(0.3)], ids=repr)
def test_kernels_equal_those_of_a_net_with_a_bias_of_nothing(
    depth: int, activation: stax.Network, rng: np.random.Generator
) -> None:
    def net(b_std: float | None) -> stax.Network:
        return stax.serial(*[stax.serial(stax.Dense(1, 2**0.5, b_std), activation)] * depth)

    # A bias that no digit shows sends every pair through the layers.
    curved, layered = net(None), net(1e-12)
    seen = [compile_dense(each.layer, (9,)).sees_angles_alone for each in (curved, layered)]
    assert seen == [True, False]
    x, y = rng.standard_normal((40, 9)), rng.standard_normal((30, 9))
    y[0], y[1] = x[0] + 1e-5, -x[1] + 1e-5
    for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-12)):
        pair = [
            Kernel(each.layer, ("nngp", "ntk"), dtype).block(x, y) for each in (curved, layered)
        ]
        for name in ("nngp", "ntk"):
            a, b = (each[name] for each in pair)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=0.3 * tolerance * b.max())
