import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_dist.kernels.activations import dual, evaluate
from ntk_dist.kernels.architecture import build

SMOOTH = {
    "Erf": {"a": 1.3, "b": 0.7, "c": 0.2},
    "Sigmoid_like": {},
    "Gelu": {},
    "Sin": {"a": 1.2, "b": 0.8, "c": 0.5},
    "Cos": {"a": 0.9, "b": 1.1, "c": -0.3},
    "Rbf": {"gamma": 0.6},
}
PIECEWISE = {
    "Relu": {},
    "Abs": {},
    "LeakyRelu": {"alpha": 0.25},
    "ABRelu": {"a": -0.5, "b": 2.0},
}
ALL = {**SMOOTH, **PIECEWISE}


def duals(layer, q, v1, v2, dtype="float64"):
    with jax.enable_x64(dtype == "float64"):
        arrays = (jnp.asarray(np.atleast_1d(a), dtype) for a in (q, v1, v2))
        return tuple(np.asarray(a) for a in dual(layer, *arrays))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(("q", "v1", "v2"), [(0.3, 0.8, 1.4), (-0.9, 1.0, 1.1), (0.2, 0.2, 0.2)])
def test_smooth_duals_are_gaussian_integrals(name, q, v1, v2):
    layer = build(name, SMOOTH[name])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = np.outer(weights, weights) / (2 * np.pi)
    u = np.sqrt(v1) * nodes[:, None] + 0 * nodes[None, :]
    rest = np.sqrt(max(v2 - q * q / v1, 0))
    w = q / np.sqrt(v1) * nodes[:, None] + rest * nodes[None, :]
    with jax.enable_x64(True):
        slope = jax.vmap(jax.grad(lambda z: evaluate(layer, z)))
        values = [np.asarray(evaluate(layer, jnp.asarray(z))) for z in (u, w)]
        slopes = [np.asarray(slope(jnp.asarray(z).ravel())).reshape(z.shape) for z in (u, w)]
    product, derivative = duals(layer, q, v1, v2)
    assert product[0] == pytest.approx((weights * values[0] * values[1]).sum(), abs=1e-10)
    assert derivative[0] == pytest.approx((weights * slopes[0] * slopes[1]).sum(), abs=1e-9)


@pytest.mark.parametrize("name", PIECEWISE)
@pytest.mark.parametrize("c", [-0.95, -0.2, 0.0, 0.6, 0.999])
def test_piecewise_linear_duals_are_angular_integrals(name, c):
    layer = build(name, PIECEWISE[name])
    v1, v2 = 0.7, 1.9
    # In polar coordinates the radius integrates to 2, and the integrand is smooth between kinks.
    angle = np.arccos(c)
    kinks = np.unique(
        np.mod(
            [
                np.pi / 2,
                -np.pi / 2,
                angle + np.pi / 2,
                angle - np.pi / 2,
                0,
                angle - np.pi / 2 + np.pi,
            ],
            2 * np.pi,
        )
    )
    edges = np.concatenate([kinks, [kinks[0] + 2 * np.pi]])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total = np.zeros(2)
    for low, high in itertools.pairwise(edges):
        phi = (high - low) / 2 * nodes + (high + low) / 2
        u, w = np.cos(phi), np.cos(phi - angle)
        with jax.enable_x64(True):
            fu, fw = (np.asarray(evaluate(layer, jnp.asarray(z))) for z in (u, w))
        scale = (high - low) / 2 / (2 * np.pi)
        total += scale * np.array([2 * weights @ (fu * fw), weights @ (fu / u * fw / w)])
    product, slope = duals(layer, c * np.sqrt(v1 * v2), v1, v2)
    assert product[0] == pytest.approx(np.sqrt(v1 * v2) * total[0], abs=1e-13)
    assert slope[0] == pytest.approx(total[1], abs=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_is_exact_at_full_correlation(dtype):
    v = np.random.default_rng(0).uniform(0.01, 9, 1000).astype(dtype)
    product, slope = duals(build("Relu", {}), v, v, v, dtype)
    assert (product == v / 2).all()
    assert (slope == 0.5).all()
    product, slope = duals(build("Relu", {}), -v, v, v, dtype)
    assert (product == 0).all()
    assert (slope == 0).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_input_gives_nan(name, dtype):
    layer = build(name, ALL[name])
    v1, v2 = (
        a.ravel() for a in np.meshgrid([0, 1e-30, 1e-3, 1.0, 30.0], [0, 1e-30, 1e-3, 1.0, 30.0])
    )
    for c in (-1, -1 + 1e-7, 0, 1 - 1e-7, 1):
        for array in duals(layer, c * np.sqrt(v1 * v2), v1, v2, dtype):
            assert np.isfinite(array).all()


def test_float32_variances_may_be_extreme():
    for v in (1e30, 1e-30):
        product, slope = duals(build("Relu", {}), 0.5 * v, v, v, "float32")
        expected, expected_slope = duals(build("Relu", {}), 0.5, 1.0, 1.0)
        assert product[0] / v == pytest.approx(expected[0], rel=1e-6)
        assert slope[0] == pytest.approx(expected_slope[0], rel=1e-6)


def test_zero_variance_counts_as_uncorrelated():
    _, slope = duals(build("LeakyRelu", {"alpha": 0.5}), 0.0, 0.0, 1.0)
    assert slope[0] == pytest.approx((1 + 0.25) / 2 - 0.25 / 4)
