"""Fully connected kernels against the same recursion in 40-digit arithmetic, written anew."""

import json
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

from ntk_dist.kernels.architecture import from_json
from ntk_dist.kernels.dispatch import Kernel

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {
    name: case
    for name, case in json.loads((GOLDEN / "kernels.json").read_text()).items()
    if name.startswith("fc")
}


def relu_like(a, b, q, v, w):
    s = mp.sqrt(v * w)
    c = max(-1, min(1, q / s))
    t = mp.acos(c)
    slope = (a - b) ** 2 * (mp.pi - t) / (2 * mp.pi) + a * b
    return (a - b) ** 2 * s * (mp.sin(t) + (mp.pi - t) * c) / (2 * mp.pi) + a * b * q, slope


def erf(q, v, w):
    z = 2 * q / mp.sqrt((1 + 2 * v) * (1 + 2 * w))
    slope = 4 / mp.pi / mp.sqrt((1 + 2 * v) * (1 + 2 * w) - 4 * q * q)
    return 2 / mp.pi * mp.asin(z), slope


def sine(q, v, w):
    peak = mp.exp(-(v + w) / 2)
    return peak * mp.sinh(q), peak * mp.cosh(q)


def gelu_product(q, v, w):
    d2 = (1 + v) * (1 + w) - q * q
    both = mp.mpf(1) / 4 + mp.asin(q / mp.sqrt((1 + v) * (1 + w))) / (2 * mp.pi)
    return q * both + (q * q + v * w * d2) / (2 * mp.pi * (1 + v) * (1 + w) * mp.sqrt(d2))


def gelu(q, v, w):
    # The derivative of the product by the covariance is the product of the derivatives (Price).
    return gelu_product(q, v, w), mp.diff(lambda z: gelu_product(z, v, w), q, h=mp.mpf(10) ** -12)


def dual(name, arguments, q, v, w):
    match name:
        case "Relu":
            return relu_like(0, 1, q, v, w)
        case "LeakyRelu":
            return relu_like(mp.mpf(arguments["alpha"]), 1, q, v, w)
        case "Abs":
            return relu_like(-1, 1, q, v, w)
        case "Erf":
            return erf(q, v, w)
        case "Sin":
            return sine(q, v, w)
        case "Gelu":
            return gelu(q, v, w)
    raise AssertionError(name)


def walk(node, state, width):
    """(q, v, w, ntk) and the width after a node of the nested lists."""
    name, *rest = node
    if name == "serial":
        for each in rest:
            state, width = walk(each, state, width)
        return state, width
    if name == "parallel":
        return [
            walk(each, branch, width)[0] for each, branch in zip(rest, state, strict=True)
        ], width
    arguments = rest[0] if rest else {}
    if name == "FanOut":
        return [state] * arguments["num"], width
    if name == "FanInSum":
        return tuple(map(sum, zip(*state, strict=True))), width
    if name == "Identity":
        return state, width
    q, v, w, ntk = state
    if name == "Dense":
        scale = mp.mpf(arguments["W_std"]) ** 2
        bias = arguments["b_std"]
        shift = 0 if bias is None else mp.mpf(bias) ** 2
        if arguments.get("parameterization") == "standard":
            ntk = width * q + (bias is not None) + scale * ntk
        else:
            ntk = scale * q + shift + scale * ntk
        q, v, w = (scale * z + shift for z in (q, v, w))
        return (q, v, w, ntk), arguments.get("out_dim", 1)
    if name == "LayerNorm":
        norm = mp.sqrt((v + mp.mpf("1e-12")) * (w + mp.mpf("1e-12")))
        return (q / norm, v / (v + mp.mpf("1e-12")), w / (w + mp.mpf("1e-12")), ntk / norm), width
    product, slope = dual(name, arguments, q, v, w)
    return (
        product,
        dual(name, arguments, v, v, v)[0],
        dual(name, arguments, w, w, w)[0],
        slope * ntk,
    ), width


def forty_digits(node, x, y):
    x, y = [mp.mpf(float(a)) for a in x], [mp.mpf(float(a)) for a in y]
    q, v, w = (mp.fdot(a, b) / len(x) for a, b in ((x, y), (x, x), (y, y)))
    (nngp, _, _, ntk), _ = walk(node, (q, v, w, mp.mpf(0)), len(x))
    return float(nngp), float(ntk)


@pytest.mark.parametrize("name", CASES)
def test_equal_and_opposite_inputs_are_exact(name):
    case = CASES[name]
    with np.load(GOLDEN / "kernels.npz") as file:
        x1, x2 = file[f"{name}/x1"], file[f"{name}/x2"]
    kernel = Kernel(from_json(case["architecture"]), ("nngp", "ntk"), "float64")
    cross = kernel.block(x1, x2)
    symmetric = kernel.block(x1)
    with mp.workdps(40):
        for i, j in [(0, 0), (1, 1), (2, 1), (4, 2)]:
            nngp, ntk = forty_digits(case["architecture"], x1[i], x2[j])
            assert cross["nngp"][i, j] == pytest.approx(nngp, rel=1e-12, abs=1e-12)
            assert cross["ntk"][i, j] == pytest.approx(ntk, rel=1e-12, abs=1e-12)
        for i in range(len(x1)):
            nngp, ntk = forty_digits(case["architecture"], x1[i], x1[i])
            assert symmetric["nngp"][i, i] == pytest.approx(nngp, rel=1e-12)
            assert symmetric["ntk"][i, i] == pytest.approx(ntk, rel=1e-12)
