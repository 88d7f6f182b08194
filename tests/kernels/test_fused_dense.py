"""The fused dense engine against the reference recursion, in both precisions."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels import fused_dense
from ntk_dist.kernels.dense_program import DenseProgram, compile_dense
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.stax import Network

S = 2**0.5
TOLERANCES = {"float32": 1e-6, "float64": 1e-12}
RELU = stax.Relu()


def dense(**more: object) -> Network:
    return stax.Dense(7, **{"W_std": S, "b_std": 0.1, **more})


def residual(*branch: Network, shortcut: Network | None = None) -> Network:
    return stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(*branch), shortcut or stax.Identity()),
        stax.FanInSum(),
    )


def deep(depth: int, b_std: float | None = 0.1) -> Network:
    return stax.serial(*[dense(b_std=b_std), RELU] * depth, stax.Dense(1))


NETS: dict[str, tuple[Network, ...]] = {
    "plain": (dense(), RELU, dense(), RELU, stax.Dense(1)),
    "no bias": (dense(b_std=None), RELU, dense(b_std=0.0), RELU, stax.Dense(1)),
    "large bias": (dense(b_std=5.0), RELU, dense(W_std=0.1, b_std=2.0), RELU, dense()),
    "linear": (stax.Flatten(), dense(), dense(W_std=0.7, b_std=0.3)),
    "ends with an activation": (dense(), RELU),
    "slopes of one sign": (dense(), stax.LeakyRelu(0.3), dense(), stax.ABRelu(1.0, 1.0), dense()),
    "slopes of both signs": (dense(), stax.Abs(), dense(), stax.ABRelu(-0.5, 2.0), dense()),
    "frozen": (dense(trainable=False), RELU, dense(), RELU, dense(trainable=False), RELU),
    "all frozen": (dense(trainable=False), RELU),
    "standard": (
        dense(parameterization="standard", s=(2, 3)),
        RELU,
        dense(parameterization="standard", b_std=None),
        RELU,
        dense(parameterization="standard", s=(1, 2), b_std=0.4),
    ),
    "layer norm": (
        dense(),
        stax.LayerNorm(),
        RELU,
        dense(),
        stax.LayerNorm(eps=0.0),
        stax.LeakyRelu(0.2),
        dense(),
    ),
    "residual": (dense(), residual(RELU, dense(), RELU, dense()), residual(RELU, dense()), RELU),
    "signed branches": (residual(dense(), stax.LeakyRelu(0.8), dense(), shortcut=dense()), RELU),
    "three branches of branches": (
        stax.FanOut(3),
        stax.parallel(dense(), stax.serial(dense(), residual(RELU, dense())), dense(W_std=0.1)),
        stax.FanInSum(),
        RELU,
        dense(),
    ),
    "nothing passes": (dense(W_std=0.0), RELU, dense(), stax.ABRelu(0.0, 0.0), dense()),
}


def program(net: Network, features: int) -> DenseProgram:
    found = compile_dense(net.layer, (features,))
    assert isinstance(found, DenseProgram)
    return found


def dense_block(net: Network, x1: np.ndarray, *more: Any, **named: Any) -> dict[str, np.ndarray]:
    return fused_dense.dense_block(program(net, x1.shape[1]), x1, *more, **named)


def compare(
    net: Network, x1: np.ndarray, x2: np.ndarray, reference: Any, **tolerances: float
) -> None:
    """Both precisions within their tolerances of the recursion, relative to the largest entry."""
    kernel = Kernel(net.layer, dtype="float64")
    expected = reference(net.layer, x1, x2, kernel.statistics(x1), kernel.statistics(x2))
    for dtype, tolerance in (TOLERANCES | tolerances).items():
        found = dense_block(net, x1, x2, np.dtype(dtype), threads=2)
        for name, values in found.items():
            assert values.dtype == dtype
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", NETS)
def test_equals_the_recursion(name: str, reference: Any) -> None:
    rng = np.random.default_rng(0)
    # Ragged: two panels of columns, the second one not full, and three of rows.
    x1, x2 = rng.standard_normal((17, 5)), rng.standard_normal((53, 5))
    x1[3], x2[7] = 0, 0
    compare(stax.serial(*NETS[name]), x1, x2, reference)


@pytest.mark.parametrize(("n1", "n2", "features"), [(1, 1, 1), (1, 33, 3), (33, 17, 1000)])
def test_any_size(n1: int, n2: int, features: int, reference: Any) -> None:
    rng = np.random.default_rng(1)
    x1, x2 = rng.standard_normal((n1, features)), rng.standard_normal((n2, features))
    # The reference itself is off by 1e-12 where correlations of one feature are not quite ±1.
    compare(deep(2), x1, x2, reference, float64=1e-8 if features == 1 else 1e-12)


@pytest.mark.parametrize("b_std", [None, 0.1])
@pytest.mark.parametrize("kind", ["generic", "close", "opposite"])
def test_float32_is_good_to_1e_6_at_depth_30(kind: str, b_std: float | None) -> None:
    net = deep(30, b_std)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((24, 784))
    apart = 1e-4 * rng.standard_normal(x.shape)
    y = {"generic": rng.standard_normal(x.shape), "close": x + apart, "opposite": apart - x}[kind]
    single, double = (dense_block(net, x, y, np.dtype(d)) for d in TOLERANCES)
    for name, values in single.items():
        np.testing.assert_allclose(values, double[name], rtol=1e-6)


def test_close_rows_keep_their_digits_where_the_recursion_loses_four() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((2, 20))
    y = x + 1e-4 * rng.standard_normal(x.shape)
    blocks = {dtype: dense_block(deep(30), x, y, dtype)["ntk"] for dtype in TOLERANCES}
    with mp.workdps(40):
        for i in range(2):
            a, b = (list(map(mp.mpf, side[i])) for side in (x, y))
            v1, v2, q = (mp.fdot(*pair) / 20 for pair in ((a, a), (b, b), (a, b)))
            ntk, weight, bias = mp.mpf(0), mp.mpf(S) ** 2, mp.mpf(0.1) ** 2
            for _ in range(30):
                v1, v2, q, ntk = weight * v1, weight * v2, weight * q, weight * ntk
                v1, v2, q, ntk = v1 + bias, v2 + bias, q + bias, ntk + q + bias
                s = mp.sqrt(v1 * v2)
                t = mp.acos(q / s)
                q = s * (mp.sin(t) + (mp.pi - t) * mp.cos(t)) / (2 * mp.pi)
                v1, v2, ntk = v1 / 2, v2 / 2, ntk * (mp.pi - t) / (2 * mp.pi)
            exact = q + ntk
            assert abs(mp.mpf(float(blocks["float64"][i, i])) / exact - 1) < 1e-13
            assert abs(mp.mpf(float(blocks["float32"][i, i])) / exact - 1) < 1e-6


def test_correlations_just_below_those_that_are_computed_again() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((24, 784))
    y = x + np.tan(np.arccos(0.975)) * rng.standard_normal(x.shape)
    single, double = (dense_block(deep(4), x, y, np.dtype(d)) for d in TOLERANCES)
    for name, values in single.items():
        np.testing.assert_allclose(values, double[name], rtol=1.5e-6)


def test_equal_and_opposite_rows_are_finite() -> None:
    x = np.random.default_rng(4).standard_normal((5, 3))
    for dtype in TOLERANCES:
        for values in dense_block(deep(3), x, np.concatenate([x, -x]), dtype).values():
            assert np.isfinite(values).all()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_bits_depend_on_the_two_samples_alone(dtype: str) -> None:
    net = stax.serial(*NETS["residual"])
    rng = np.random.default_rng(5)
    x = rng.standard_normal((77, 300))
    x[40:] = x[:37] + 1e-2 * x[40:]  # among them some that are computed again
    whole = dense_block(net, x, x, dtype)
    half = dense_block(net, x, None, dtype, threads=3)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, values.T)
        np.testing.assert_array_equal(values, half[name])
    cuts = [0, 1, 18, 51, 77]
    for rows, columns in itertools.product(itertools.pairwise(cuts), repeat=2):
        here = np.s_[slice(*rows), slice(*columns)]
        part = dense_block(net, x[here[0]], x[here[1]], dtype, 2, ("ntk",))
        assert list(part) == ["ntk"]
        np.testing.assert_array_equal(part["ntk"], whole["ntk"][here])


def test_samples_may_be_stored_in_float32_and_be_of_any_size() -> None:
    x = np.random.default_rng(6).standard_normal((9, 40)).astype(np.float32)
    net = deep(2, b_std=None)
    for dtype in TOLERANCES:
        stored, converted = (dense_block(net, a, None, dtype) for a in (x, x.astype(float)))
        np.testing.assert_array_equal(stored["ntk"], converted["ntk"])
    # Squares of these leave the range of float32.
    (huge,) = dense_block(net, x * np.float32(2.0**70), None, "float64", 1, ("ntk",)).values()
    np.testing.assert_allclose(huge, 2.0**140 * stored["ntk"], rtol=1e-13)


@pytest.mark.parametrize("symmetric", [False, True])
def test_memory_is_what_working_bytes_says(symmetric: bool) -> None:
    net, n, features = deep(3), 480, 768
    x = np.random.default_rng(7).standard_normal((n, features)).astype(np.float32)

    def run() -> None:
        dense_block(net, x, None if symmetric else x, np.dtype("float32"), 2)

    run()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1] - 2 * 4 * n * n
    tracemalloc.stop()
    projected = fused_dense.working_bytes(
        program(net, features), features, np.dtype("float32"), n, n, 2
    )
    assert 0.7 * projected < peak < 1.1 * projected


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("activation", [RELU, stax.Abs(), stax.LeakyRelu(0.1)], ids=repr)
def test_small_samples_beside_a_large_bias_keep_their_digits(
    activation: Network, scale: float, rng: np.random.Generator
) -> None:
    layers = [stax.serial(dense(W_std=1.4, b_std=0.3), activation)] * 5
    net = stax.serial(*layers, dense(W_std=1.4, b_std=0.3))
    x = (scale * rng.standard_normal((30, 20))).astype(np.float32)
    x[3], x[4] = 0, 1e-3 * x[4]
    single, double = (
        Kernel(net.layer, ("ntk",), dtype).block(x)["ntk"] for dtype in ("float32", "float64")
    )
    np.testing.assert_allclose(single, double, rtol=1e-6)
    assert np.linalg.eigvalsh(double).min() > 0


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150])
def test_norms_whose_squares_are_no_numbers(scale: float, rng: np.random.Generator) -> None:
    # The correlations are those of ordinary samples, whatever the norms.
    net = stax.serial(dense(b_std=None), stax.LayerNorm(eps=0.0), RELU, dense())
    x = rng.standard_normal((5, 7))
    huge, plain = (Kernel(net.layer, ("nngp",), "float64").block(each) for each in (scale * x, x))
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(huge["nngp"][off], plain["nngp"][off], rtol=1e-12)
