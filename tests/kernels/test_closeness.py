"""Which pairs are left to float64, and that float32 is enough for the others."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.closeness import close_pairs
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.lanes import DOUBLE, SINGLE
from ntk_dist.kernels.program import Program, compile_both
from ntk_dist.kernels.statistics import Side
from ntk_dist.stax import Network

BOTH = ("nngp", "ntk")
RELU = stax.Relu()
ENDS = pytest.mark.parametrize("end", [stax.GlobalAvgPool(), stax.Flatten()], ids=repr)


def conv(b_std: float | None = None) -> Network:
    return stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=b_std)


def net(*layers: Network) -> Network:
    return stax.serial(conv(), RELU, conv(), RELU, *layers)


def program_and_side(network: Network, x: np.ndarray) -> tuple[Program, Side]:
    programs = compile_both(network.layer, x.shape[1:])
    assert not isinstance(programs, str)
    return programs[SINGLE], Side(x, Kernel(network.layer, BOTH).statistics(x).variances)


def n_close(network: Network, x: np.ndarray) -> int:
    """How many pairs of different samples are close."""
    return sum(map(len, close_pairs(*program_and_side(network, x), None).values()))


def test_close_pairs_are_found_and_equal_ones_left_out() -> None:
    x = np.random.default_rng(5).standard_normal((4, 3, 3, 2))
    y = np.stack([x[1], x[1] + 1e-3, -x[2] * 1.001, -x[2], x[3] + 1.0])
    program, side = program_and_side(net(stax.Flatten()), np.concatenate([x, y]))
    near = close_pairs(program, side[:4], side[4:])
    assert {i: list(columns) for i, columns in near.items()} == {1: [1], 2: [2]}
    assert close_pairs(program, side[np.array([0, 1, 5])], None).keys() == {1}
    assert close_pairs(program, side[:4], None) == {}


@pytest.mark.parametrize("b_std", [0.1, 0.5, 1.0, 3.0])
def test_biases_bring_small_samples_near(b_std: float) -> None:
    x = np.random.default_rng(5).standard_normal((6, 4, 4, 3))
    biased = stax.serial(conv(b_std), RELU, conv(b_std), RELU, stax.GlobalAvgPool())
    assert n_close(biased, x) == 0
    assert n_close(biased, 0.003 * b_std * x) == 15
    assert n_close(net(stax.Flatten()), 0.003 * b_std * x) == 0, "no bias"
    x[:3] *= 0.003 * b_std
    x[0] = 0
    assert n_close(biased, x) == 3
    assert n_close(net(stax.Flatten()), x) == 0


@pytest.mark.parametrize(
    ("network", "n"),
    [
        (net(conv(300.0), RELU, stax.Flatten()), 15),
        (net(stax.Flatten(), stax.Dense(1, 1.0, 300.0), RELU), 0),  # which is in float64
        (net(conv(300.0), stax.Flatten()), 0),  # no kink comes after it
        (stax.serial(conv(300.0), stax.ABRelu(1, 1), stax.Flatten()), 0),
        (stax.serial(conv(300.0), stax.LayerNorm(), RELU, stax.Flatten()), 15),
        (stax.serial(conv(300.0), conv(), RELU, stax.Flatten()), 15),
        (stax.serial(conv(1.0), stax.Erf(), stax.Flatten()), 0),
        (stax.serial(conv(300.0), stax.Erf(), stax.Flatten()), 15),
        (stax.serial(conv(300.0), stax.Gelu(), stax.Flatten()), 15),
        (
            stax.serial(
                stax.FanOut(2), stax.parallel(conv(300.0), conv()), stax.FanInSum(),
                RELU, stax.Flatten(),
            ),
            15,
        ),
    ],
)  # fmt: skip
def test_biases_count_from_where_they_are_to_kinks(network: Network, n: int) -> None:
    x = np.random.default_rng(5).standard_normal((6, 4, 4, 3))
    assert n_close(network, x) == n


@ENDS
@pytest.mark.parametrize("activation", [stax.Sin(1, 10, 0), stax.Cos(1, 10, 0.3), stax.Rbf(50.0)])
def test_sines_of_large_exponents(activation: Network, end: Network) -> None:
    network = stax.serial(conv(0.1), activation, conv(), activation, end, stax.Dense(1))
    x = np.random.default_rng(0).standard_normal((5, 6, 6, 3))
    x = (x[:1] + 0.02 * x).astype(np.float32)
    assert n_close(network, x) == n_close(network, -0.9 * x) == 10
    single = Kernel(network.layer, BOTH, SINGLE).block(x)
    double = Kernel(network.layer, BOTH, DOUBLE).block(x.astype(np.float64))
    for name in BOTH:
        np.testing.assert_allclose(single[name], double[name], rtol=1e-6)
    spread = np.random.default_rng(0).standard_normal((5, 6, 6, 3))
    for mild in (stax.Sin(), stax.Cos(), stax.Rbf()):
        assert n_close(stax.serial(conv(0.1), mild, end), spread) == 0


@ENDS
@pytest.mark.parametrize("b_std", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("size", [1.0, 0.1, 0.03, 0.01, 0.001])
def test_small_images_beside_biases(size: float, b_std: float, end: Network) -> None:
    network = stax.serial(conv(b_std), RELU, conv(b_std), RELU, end, stax.Dense(1))
    x = size * np.random.default_rng(0).random((5, 6, 6, 3))
    # All zero and nearly so, and one with a dark half.
    x[1], x[2] = 0, 1e-3 * x[2]
    x[3, 3:] *= 1e-3
    x = x.astype(np.float32)
    single = Kernel(network.layer, BOTH, SINGLE).block(x)
    double = Kernel(network.layer, BOTH, DOUBLE).block(x.astype(np.float64))
    for name in BOTH:
        np.testing.assert_allclose(single[name], double[name], rtol=1e-6)
