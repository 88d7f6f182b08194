"""Which architectures have a program, and what is known of it before it runs."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.program import Program, compile_program
from ntk_dist.stax import Network

RELU = stax.Relu()
GAP = stax.GlobalAvgPool()


def conv(padding: str = "SAME", stride: int = 1) -> Network:
    return stax.Conv(1, (3, 3), (stride, stride), padding)


def program(*layers: Network, shape: tuple[int, ...] = (32, 32, 3), lanes: int = 16) -> Program:
    found = compile_program(stax.serial(*layers).layer, shape, lanes)
    assert isinstance(found, Program), found
    return found


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ((conv(), RELU, conv()), "no Flatten or global pooling"),
        ((conv(), RELU, conv("CIRCULAR"), GAP), "wrap round stand beside"),
        ((conv("CIRCULAR", 3), GAP), "do not divide"),
        ((conv(), stax.AvgPool((2, 2), (2, 2), "CIRCULAR"), GAP), "wraps round"),
        ((conv(), stax.LayerNorm(eps=0.0), GAP), "may divide by zero"),
        (
            (
                stax.FanOut(2),
                stax.parallel(stax.serial(conv(), stax.AvgPool((2, 2), (2, 2))), conv(stride=2)),
                stax.FanInSum(),
                GAP,
            ),
            "AvgPool",
        ),
    ],
)
def test_what_cannot_be_fused_says_why(layers: tuple[Network, ...], why: str) -> None:
    reason = compile_program(stax.serial(*layers).layer, (32, 32, 3), 16)
    assert isinstance(reason, str)
    assert why in reason


def test_samples_without_or_with_three_spatial_axes_are_left_to_others() -> None:
    assert "0 spatial axes" in str(compile_program(stax.serial(stax.Flatten()).layer, (5,), 16))
    volume = stax.serial(stax.Conv(1, (2, 2, 2)), stax.GlobalAvgPool()).layer
    assert "3 spatial axes" in str(compile_program(volume, (3, 3, 3, 1), 16))


def test_an_activation_is_merged_into_the_layer_before_it_unless_others_read_that() -> None:
    assert len(program(conv(), RELU, conv(), RELU, GAP).steps) == 2
    branches = stax.parallel(stax.serial(RELU, conv()), stax.Identity())
    # The convolution, the activation, the convolution of the branch, a copy, the sum.
    assert len(program(conv(), stax.FanOut(2), branches, stax.FanInSum(), GAP).steps) == 5


def test_only_displacements_that_are_needed_are_computed() -> None:
    pool = stax.AvgPool((2, 2), (2, 2))
    flat = program(conv(), RELU, stax.Flatten())
    assert flat.segments[0]["reach_y"] == 0
    pooled = program(conv(), RELU, pool, conv(), RELU, pool, stax.Flatten())
    assert list(pooled.segments["reach_y"]) == [3, 1, 0]
    everywhere = program(conv(), RELU, pool, conv(), RELU, GAP)
    assert list(everywhere.segments["reach_x"]) == [31, 15]


def test_flops_count_every_pair_of_positions() -> None:
    # 1024² pairs of positions: 6 for the inputs; 8 + 8 for the layer, 46 for the activation; 4.
    assert program(conv(), RELU, GAP).flops == 1024**2 * (6 + 16 + 46 + 4)
    assert program(conv(), RELU, stax.Flatten()).flops == 1024 * (6 + 16 + 46 + 4)


def test_planes_stay_in_the_second_level_cache() -> None:
    deep = program(*[layer for _ in range(10) for layer in (conv(), RELU)], GAP)
    assert 4 * deep.layout["zero"][0] == 2 * 32 * 32 * 2 * 64


@pytest.mark.parametrize("activation", [RELU, stax.LeakyRelu(0.45)])
def test_scales_are_rounded_so_that_they_do_not_drift(activation: Network) -> None:
    layer = stax.Conv(1, (3, 3), padding="SAME", W_std=1.3), activation
    single, double = (program(*layer * 30, GAP, lanes=lanes).steps for lanes in (16, 8))
    assert (single["scale"] == single["scale"].astype(np.float32)).all()

    def slopes(scale: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
        """Of a perfectly correlated pair through each layer, with weights in this precision."""
        weight, level = (double[name].astype(dtype).astype(float) for name in ("weight", "level"))
        return scale * (weight / 4 + level)

    exact = slopes(double["scale"], np.float64)
    nearest = slopes(double["scale"].astype(np.float32).astype(float), np.float32)
    drift = np.cumprod(slopes(single["scale"], np.float32) / exact) - 1
    assert abs(np.prod(nearest / exact) - 1) > 5e-7
    assert np.abs(drift).max() < 2**-23


def test_kinks_after_sigmoids_need_more_digits() -> None:
    def blurs(*layers: Network) -> bool:
        return program(*layers).blurs_angles

    assert blurs(conv(), stax.Sigmoid_like(), conv(), RELU, GAP)
    assert blurs(conv(), stax.Cos(), GAP, stax.Dense(1), stax.Abs(), stax.Dense(1))
    assert not blurs(conv(), RELU, conv(), stax.Sigmoid_like(), GAP)
    assert not blurs(conv(), stax.Erf(), conv(), RELU, GAP)
    assert not blurs(conv(), stax.Sin(), conv(), stax.Gelu(), conv(), RELU, GAP, stax.Dense(1))
