"""The fused engine against the reference recursion, in both precisions."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.fused_cpu import fused_block, spatial_bytes
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.program import Programs, compile_both
from ntk_dist.kernels.statistics import Side
from ntk_dist.stax import Network

pytestmark = pytest.mark.usefixtures("recursion_on_numpy")

S = 2**0.5


def conv(window: int = 3, padding: str = "SAME", stride: int = 1, **more: object) -> Network:
    arguments = {"W_std": S, "b_std": 0.1, **more}
    return stax.Conv(7, (window, window), (stride, stride), padding, **arguments)


def residual(*branch: Network, shortcut: Network | None = None) -> Network:
    return stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(*branch), shortcut or stax.Identity()),
        stax.FanInSum(),
    )


def pool(window: int, stride: int, padding: str = "VALID", **more: bool) -> Network:
    return stax.AvgPool((window, window), (stride, stride), padding, **more)


RELU = stax.Relu()
HEAD = (stax.GlobalAvgPool(), stax.Dense(1, W_std=1.3, b_std=0.2), RELU, stax.Dense(1))
FLAT = (stax.Flatten(), stax.Dense(1))
NETS: dict[str, tuple[tuple[int, ...], tuple[Network, ...]]] = {
    "same": ((6, 5, 3), (conv(), RELU, conv(), RELU, *HEAD)),
    "valid": ((7, 6, 2), (conv(2, "VALID"), RELU, conv(3, "VALID"), RELU, *HEAD)),
    "flat": ((6, 5, 3), (conv(), RELU, conv(5), stax.Abs(), *FLAT)),
    "circular": ((6, 4, 2), (conv(3, "CIRCULAR"), RELU, conv(5, "CIRCULAR"), RELU, *HEAD)),
    "circular strides": ((8, 8, 2), (conv(3, "CIRCULAR", 2), RELU, conv(3, "CIRCULAR"), *HEAD)),
    "circular pooled": (
        (8, 4, 2),
        (conv(3, "CIRCULAR"), RELU, pool(2, 2), conv(3, "CIRCULAR"), RELU, *HEAD),
    ),
    "strides": (
        (11, 12, 2),
        (conv(3, "SAME", 2), RELU, conv(1, "SAME", 2), RELU, conv(4, "SAME", 3), RELU, *HEAD),
    ),
    "even filters, some beyond the image": (
        (3, 2, 2),
        (conv(4), RELU, conv(7), RELU, conv(2), RELU, *HEAD),
    ),
    "pooled": ((8, 8, 3), (conv(), RELU, pool(2, 2), conv(), RELU, pool(2, 2), conv(), *HEAD)),
    "pooled flat": ((8, 8, 3), (conv(), RELU, pool(2, 2), conv(), RELU, *FLAT)),
    "strides after pool": ((9, 8, 2), (conv(), RELU, pool(2, 1), conv(3, "SAME", 2), RELU, *HEAD)),
    "overlapping pool": ((7, 8, 2), (conv(), RELU, pool(3, 2, "SAME"), conv(), RELU, *HEAD)),
    "normalized edges": (
        (7, 6, 2),
        (conv(), RELU, pool(3, 2, "SAME", normalize_edges=True), conv(), RELU, *FLAT),
    ),
    "sums": (
        (6, 6, 2),
        (conv(), RELU, stax.SumPool((2, 3), (2, 3)), conv(), RELU, stax.GlobalSumPool()),
    ),
    "pool to one": ((4, 4, 2), (conv(), RELU, pool(4, 4), *FLAT)),
    "all frozen": ((4, 4, 2), (conv(trainable=False), RELU, stax.GlobalAvgPool())),
    "slopes, some frozen": (
        (5, 5, 2),
        (
            conv(trainable=False),
            stax.ABRelu(-0.5, 2.0),
            stax.Dense(4, W_std=1.1),
            stax.ABRelu(1.0, 1.0),
            conv(trainable=False),
            stax.LeakyRelu(0.3),
            *HEAD,
        ),
    ),
    "standard": (
        (5, 4, 3),
        (
            conv(parameterization="standard", s=(2, 3)),
            RELU,
            conv(parameterization="standard"),
            RELU,
            *FLAT,
        ),
    ),
    "residual": (
        (6, 6, 2),
        (
            conv(),
            residual(RELU, conv(), RELU, conv()),
            residual(RELU, conv(stride=2), RELU, conv(), shortcut=conv(stride=2)),
            RELU,
            *HEAD,
        ),
    ),
    "layer norm": (
        (5, 4, 3),
        (conv(), stax.LayerNorm(), RELU, conv(), stax.LayerNorm((1, -1)), RELU, *HEAD),
    ),
    "one axis": (
        (11, 3),
        (
            stax.Conv(3, (3,), padding="SAME", W_std=S, b_std=0.1),
            RELU,
            stax.AvgPool((2,), (2,)),
            stax.Conv(3, (4,), (2,), padding="SAME", W_std=S),
            RELU,
            *HEAD,
        ),
    ),
    "erf": ((5, 4, 3), (conv(), stax.Erf(1.3, 0.8, -0.2), conv(), stax.Sigmoid_like(), *HEAD)),
    "erf, flat": ((5, 4, 3), (conv(), stax.Erf(), conv(), stax.Erf(b=3.0), *FLAT)),
    "gelu": ((5, 4, 3), (conv(), stax.Gelu(), conv(b_std=None), stax.Gelu(), conv(), RELU, *HEAD)),
    "gelu, circular": (
        (6, 4, 2),
        (conv(3, "CIRCULAR"), stax.Gelu(), conv(3, "CIRCULAR", 2), stax.Gelu(), *HEAD),
    ),
    "sines": (
        (5, 4, 3),
        (conv(), stax.Sin(1.2, 0.9, 0.3), conv(), stax.Cos(1.1, 0.7), conv(), stax.Rbf(0.6), *HEAD),
    ),
    "smooth residual": (
        (6, 6, 2),
        (
            conv(),
            residual(stax.Gelu(), conv(), stax.Erf(), conv()),
            residual(stax.LayerNorm(), stax.Sin(), conv(trainable=False), RELU, conv()),
            stax.LayerNorm(),
            stax.Gelu(),
            *FLAT,
        ),
    ),
    "other activation at the end": (
        (4, 4, 2),
        (conv(), RELU, stax.GlobalAvgPool(), stax.Dense(1), stax.Erf(), stax.Dense(1)),
    ),
}  # fmt: skip


def programs(layer: Layer, shape: tuple[int, ...]) -> Programs:
    found = compile_both(layer, shape)
    assert not isinstance(found, str), found
    return found


@pytest.mark.parametrize("name", NETS)
def test_equals_the_recursion(name: str, reference: Any) -> None:
    shape, layers = NETS[name]
    net = stax.serial(*layers)
    rng = np.random.default_rng(0)
    # Ragged: two words of columns in float64, and two in float32.
    x1, x2 = rng.standard_normal((3, *shape)), rng.standard_normal((17, *shape))
    kernel = Kernel(net.layer, dtype="float64")
    first, second = kernel.statistics(x1), kernel.statistics(x2)
    expected = reference(net.layer, x1, x2, first, second)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        found = fused_block(
            programs(net.layer, shape),
            Side(x1, first.variances),
            Side(x2, second.variances),
            np.dtype(dtype),
            threads=2,
        )
        for which, values in zip(("nngp", "ntk"), found, strict=True):
            scale = np.abs(expected[which]).max()
            np.testing.assert_allclose(
                values, expected[which], rtol=tolerance, atol=tolerance * scale
            )


def deep(depth: int, *last: Network, b_std: float | None = 0.1, W_std: float = S) -> Network:
    layers = [(conv(b_std=b_std, W_std=W_std), RELU)] * depth
    return stax.serial(*itertools.chain(*layers), *last)


@pytest.mark.parametrize("last", [HEAD[:2], FLAT], ids=["pooled", "flat"])
# With W_std = 1.3 the scale of each layer, rounded to the nearest, is too small by 4e-8.
@pytest.mark.parametrize(("b_std", "W_std"), [(None, S), (0.1, S), (None, 1.3)])
def test_float32_is_good_to_1e_6_at_depth_20(
    last: tuple[Network, ...], b_std: float | None, W_std: float
) -> None:
    net = deep(20, *last, b_std=b_std, W_std=W_std)
    x = np.random.default_rng(1).standard_normal((20, 8, 8, 3))
    side = Side(x, Kernel(net.layer, dtype="float64").statistics(x).variances)
    both = programs(net.layer, x.shape[1:])
    blocks = [fused_block(both, side[:4], side[4:], np.dtype(d)) for d in ("float32", "float64")]
    for single, double in zip(*blocks, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-6)
        # Errors must not all point in one direction, or deeper networks would be worse.
        assert abs((single / double - 1).mean()) < 2e-7


@pytest.mark.parametrize("b_std", [None, 0.1])
@pytest.mark.parametrize("last", [HEAD[:2], FLAT], ids=["pooled", "flat"])
def test_patches_of_one_colour_are_perfectly_correlated(
    last: tuple[Network, ...], b_std: float | None, reference: Any
) -> None:
    net = deep(2, *last, b_std=b_std)
    x = np.ones((5, 8, 8, 3))  # white, but for a few pixels
    x[:, 3:6, 3:6] = np.random.default_rng(10).random((5, 3, 3, 3))
    known = Kernel(deep(2, *FLAT, b_std=b_std).layer, dtype="float64").statistics(x)
    side, both = Side(x, known.variances), programs(net.layer, x.shape[1:])
    expected = reference(net.layer, x[:2], x[2:], known[:2], known[2:])
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        found = fused_block(both, side[:2], side[2:], np.dtype(dtype))
        np.testing.assert_allclose(found[0], expected["nngp"], rtol=tolerance)
        np.testing.assert_allclose(found[1], expected["ntk"], rtol=tolerance)


def test_a_symmetric_block_is_the_block_with_itself() -> None:
    net = deep(2, *HEAD)
    x = np.random.default_rng(2).standard_normal((21, 5, 5, 2))
    side = Side(x, Kernel(net.layer, dtype="float64").statistics(x).variances)
    both = programs(net.layer, x.shape[1:])
    for half, whole in zip(
        fused_block(both, side, None, np.dtype("float64")),
        fused_block(both, side, side, np.dtype("float64")),
        strict=True,
    ):
        np.testing.assert_array_equal(half, half.T)
        np.testing.assert_array_equal(np.triu(half), np.triu(whole))


def test_threads_do_not_change_a_bit() -> None:
    net = deep(2, *HEAD)
    x = np.random.default_rng(3).standard_normal((19, 5, 5, 2))
    side = Side(x, Kernel(net.layer, dtype="float64").statistics(x).variances)
    both = programs(net.layer, x.shape[1:])
    one, three = (fused_block(both, side, None, np.dtype("float32"), threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_empty_patches_and_zero_samples_have_the_angle_of_no_correlation(reference: Any) -> None:
    net = stax.serial(stax.Conv(1, (3, 3), padding="SAME", W_std=S), RELU, conv(), *HEAD)
    x = np.random.default_rng(4).standard_normal((4, 6, 6, 2))
    x[0] = 0
    x[1, :3] = 0
    known = Kernel(net.layer, dtype="float64").statistics(x)
    expected = reference(net.layer, x[:2], x[2:], known[:2], known[2:])
    side = Side(x, known.variances)
    found = fused_block(programs(net.layer, x.shape[1:]), side[:2], side[2:], np.dtype("float64"))
    np.testing.assert_allclose(found[0], expected["nngp"], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected["ntk"], rtol=1e-12)


def test_memory_is_what_spatial_bytes_says() -> None:
    net = stax.serial(conv(), RELU, pool(2, 2), conv(), RELU, *FLAT)
    x = np.random.default_rng(6).standard_normal((60, 16, 16, 3))
    side = Side(x, [np.ones((60, 16, 16)), np.ones((60, 8, 8))])
    both = programs(net.layer, x.shape[1:])

    def run() -> None:
        fused_block(both, side, side, np.dtype("float32"), 2)

    run()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    projected = spatial_bytes(both[np.dtype("float32")], 60, 60, 4, 2)
    assert 0.5 * projected < peak < 1.2 * projected


def test_close_pairs_are_computed_in_float64() -> None:
    net = deep(3, *FLAT)
    x = np.random.default_rng(7).standard_normal((3, 6, 6, 2))
    x = np.concatenate([x, x + 1e-4 * np.random.default_rng(8).standard_normal(x.shape)])
    side = Side(x, Kernel(net.layer, dtype="float64").statistics(x).variances)
    both = programs(net.layer, x.shape[1:])
    single, double = (fused_block(both, side, None, np.dtype(d), 2) for d in ("float32", "float64"))
    known = np.eye(len(x), dtype=bool)
    for a, b in zip(single, double, strict=True):
        np.testing.assert_allclose(a[~known], b[~known], rtol=1e-6)


@pytest.mark.parametrize("distance", [1e-3, 1e-5])
def test_close_samples_in_float32_are_divided_by_channels_in_float64(distance: float) -> None:
    layers = [stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5), stax.Relu()] * 2
    layer = stax.serial(*layers, stax.Flatten(), stax.Dense(1)).layer
    numbers = np.random.default_rng(0).standard_normal((5, 6, 6, 3))
    x = (numbers[:1] + distance * numbers).astype(np.float32)
    names = ("nngp", "ntk")
    single = Kernel(layer, names, "float32").block(x)
    double = Kernel(layer, names, "float64").block(x.astype(np.float64))
    for name in names:
        np.testing.assert_allclose(single[name], double[name], rtol=2e-7)
