"""Polynomials in place of layers."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_dist import NTKRegressor, stax
from ntk_dist.kernels.curves import fit
from ntk_dist.kernels.dense_program import compile_dense
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.evaluations import Recursion
from ntk_dist.kernels.fused_dense import _curves, dense_block
from ntk_dist.kernels.statistics import Side

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def smooth(angles: np.ndarray) -> np.ndarray:
    return 7 * np.array([3 + np.cos(angles), 5 + np.exp(-angles)])


@pytest.mark.parametrize(("dtype", "error"), [(SINGLE, 3e-7), (DOUBLE, 1e-13)])
def test_curves_go_through_smooth_kernels(dtype: np.dtype[np.floating], error: float) -> None:
    for largest in (np.pi, 0.7):
        curves = fit(smooth, dtype, largest)
        assert curves is not None
        assert curves.coefficients.dtype == dtype
        angles = np.linspace(0, largest, 77)
        exact = smooth(angles) / smooth(np.zeros(1))[0]
        assert np.abs(curves(angles) - exact).max() <= 2 * error * exact.max()


def test_what_is_too_bent_keeps_its_layers() -> None:
    assert fit(lambda t: np.exp(-np.stack([t, 400 * np.sin(t / 2)])), SINGLE) is None


FROZEN = stax.Dense(1, 1.2, trainable=False)


@pytest.mark.parametrize(
    "net",
    [
        FROZEN,
        stax.serial(FROZEN, stax.Relu()),
        stax.serial(FROZEN, stax.Relu(), FROZEN),
        stax.Identity(),
        stax.Flatten(),
        stax.serial(stax.Dense(1, 0.0), stax.Relu(), stax.Dense(1)),
        stax.serial(stax.Dense(1), stax.ABRelu(0, 0), stax.Dense(1)),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("error")
def test_kernels_may_be_zero_everywhere(net: stax.Network, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((3, 4))
    both = Recursion(net.layer, (4,))
    sides = [
        Side(each, tuple(both.each_with_itself(each, want_ntk=True, threads=1)[1]))
        for each in (x, y)
    ]
    expected = both.block(*sides, DOUBLE, ("nngp", "ntk"), 1)
    assert not expected["ntk"].any()
    for dtype, tolerance in ((SINGLE, 1e-6), (DOUBLE, 1e-12)):
        for names in (("nngp",), ("ntk",), ("nngp", "ntk")):
            found = Kernel(net.layer, names, dtype).block(x, y)
            for name in names:
                np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=1e-7)


def test_a_regressor_of_frozen_layers(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((5, 9)), rng.standard_normal(5)
    model = NTKRegressor(stax.serial(FROZEN, stax.Relu(), FROZEN), kernel="nngp").fit(x, y)
    np.testing.assert_allclose(model.predict(x), y, atol=1e-4)


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


@pytest.mark.parametrize("b_std", [0.05, 0.5, 5.0])
def test_samples_of_one_norm_have_curves_with_biases_too(
    b_std: float, rng: np.random.Generator
) -> None:
    layer = stax.serial(stax.Dense(1, 2**0.5, b_std), stax.Relu())
    net = stax.serial(*[layer] * 5, stax.Dense(1))
    program = compile_dense(net.layer, (9,))
    x, y = (rng.standard_normal((n, 9)) for n in (40, 30))
    y[0], y[1] = x[0] + 1e-5, -x[1] + 1e-5
    x, y = (3 * side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
    others = np.concatenate([x, 2 * x[:1]])  # another norm among them: every pair has its layers
    for dtype, tolerance in ((SINGLE, 1e-6), (DOUBLE, 1e-12)):
        curves = _curves(program, 1.0, dtype)
        assert curves is not None
        assert curves.lead == 1
        curved, layered = (dense_block(program, side, y, dtype) for side in (x, others))
        for name in ("nngp", "ntk"):
            a, b = curved[name], layered[name][:40]
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=0.3 * tolerance * b.max())
            assert (a != b).any(), "both went the same way"
