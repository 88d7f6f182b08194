"""Each sample with itself and with its opposite, by the engine, against the recursion."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels import recursion
from ntk_dist.kernels.alone import (
    MatchedPrograms,
    compile_matched,
    each_with_itself,
    each_with_opposite,
)
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.statistics import Side
from ntk_dist.stax import Network

pytestmark = pytest.mark.usefixtures("recursion_on_numpy")

S = 2**0.5
RELU = stax.Relu()
HEAD = (stax.GlobalAvgPool(), stax.Dense(1, W_std=1.3, b_std=0.2), RELU, stax.Dense(1))
FLAT = (stax.Flatten(), stax.Dense(1))


def conv(window: int = 3, padding: str = "SAME", stride: int = 1, **more: object) -> Network:
    arguments = {"W_std": S, "b_std": 0.1, **more}
    return stax.Conv(7, (window, window), (stride, stride), padding, **arguments)


def pool(window: int, stride: int, padding: str = "VALID", **more: bool) -> Network:
    return stax.AvgPool((window, window), (stride, stride), padding, **more)


def residual(*branch: Network, shortcut: Network | None = None) -> Network:
    return stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(*branch), shortcut or stax.Identity()),
        stax.FanInSum(),
    )


def line(window: int, stride: int = 1) -> Network:
    return stax.Conv(3, (window,), (stride,), "SAME", W_std=S, b_std=0.1)


MYRTLE = (conv(), RELU, conv(), RELU, pool(2, 2), conv(), RELU, pool(2, 2), conv(), RELU, *HEAD)
NETS: dict[str, tuple[tuple[int, ...], tuple[Network, ...]]] = {
    "global": ((6, 5, 3), (conv(), RELU, conv(), RELU, *HEAD)),
    "global sum": ((5, 4, 2), (conv(), RELU, stax.GlobalSumPool(), *HEAD[1:])),
    "standard": ((5, 4, 3), (conv(parameterization="standard"), RELU, pool(2, 2), conv(), *HEAD)),
    "two poolings": ((8, 8, 3), MYRTLE),
    "flat behind them": ((8, 8, 3), (*MYRTLE[:8], conv(), RELU, *FLAT)),
    "valid": (
        (11, 10, 2),
        (conv(2, "VALID"), RELU, pool(2, 2), conv(3, "VALID"), RELU, pool(2, 1), *HEAD),
    ),
    "strides": (
        (11, 12, 2),
        (conv(3, "SAME", 2), RELU, pool(2, 2), conv(3, "SAME", 2), RELU, conv(), RELU, *HEAD),
    ),
    "overlapping windows": (
        (9, 8, 2),
        (conv(), RELU, pool(3, 2, "SAME", normalize_edges=True), conv(), RELU, pool(3, 1), *HEAD),
    ),
    "sums": (
        (6, 6, 2),
        (conv(), RELU, stax.SumPool((2, 3), (2, 3)), conv(), RELU, stax.GlobalSumPool()),
    ),
    "nothing before a pooling, or between two": (
        (9, 9, 3),
        (pool(2, 1), pool(2, 1), conv(b_std=None), RELU, pool(2, 2), pool(1, 2), *FLAT),
    ),
    "no bias": ((8, 8, 3), (conv(b_std=None), stax.Abs(), pool(2, 2), conv(b_std=None), *HEAD)),
    "circular": (
        (8, 4, 2),
        (conv(3, "CIRCULAR"), RELU, pool(2, 2), conv(3, "CIRCULAR"), RELU, *HEAD),
    ),
    "layer norm": (
        (6, 6, 3),
        (conv(), stax.LayerNorm(), RELU, pool(2, 2), conv(), stax.LayerNorm((1, -1)), RELU, *HEAD),
    ),
    "residual": (
        (8, 8, 2),
        (
            conv(),
            residual(RELU, conv(), RELU, conv()),
            pool(2, 2),
            residual(RELU, conv(stride=2), RELU, conv(), shortcut=conv(stride=2)),
            RELU,
            *HEAD,
        ),
    ),
    "smooth": (
        (6, 6, 3),
        (
            conv(),
            stax.Erf(1.3, 0.8, -0.2),
            pool(2, 2),
            conv(),
            stax.Gelu(),
            conv(),
            stax.Cos(1.1),
            *HEAD,
        ),
    ),
    "one axis": (
        (11, 3),
        (line(3), RELU, stax.AvgPool((2,), (2,)), line(4, 2), stax.Sin(1.2, 0.9, 0.3), *HEAD),
    ),
}


def matched(layer: Layer, shape: tuple[int, ...]) -> MatchedPrograms:
    programs = compile_matched(layer, shape)
    assert isinstance(programs, MatchedPrograms), programs
    return programs


@pytest.mark.parametrize("name", NETS)
def test_equal_the_recursion(name: str) -> None:
    shape, layers = NETS[name]
    layer = stax.serial(*layers).layer
    # A word of lanes, and one with some of them empty.
    x = np.random.default_rng(9).standard_normal((11, *shape))
    x[0] = 0
    x[1, :2] = 1
    with jax.enable_x64(True):
        samples = recursion.jnp.asarray(x)
        expected, variances = recursion.each_with_itself(layer, samples, True)
        opposite = recursion.each_with_opposite(layer, samples, True)
    programs = matched(layer, shape)
    nngp, ntk, met = each_with_itself(programs, x, threads=2)
    for ours, theirs in zip(met, variances, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for found, (q, t) in (
        ((nngp, ntk), expected),
        (each_with_opposite(programs, Side(x, met), threads=2), opposite),
    ):
        scale = np.abs(expected[0]).max()
        np.testing.assert_allclose(found[0], q, rtol=1e-12, atol=1e-14 * scale)
        np.testing.assert_allclose(found[1][2:], t[2:], rtol=1e-12)
        # Equal patches at different positions are no better known to the recursion.
        np.testing.assert_allclose(found[1][:2], t[:2], rtol=1e-7)


def test_bits_do_not_depend_on_threads_nor_on_the_samples_beside() -> None:
    programs = matched(stax.serial(*MYRTLE).layer, (8, 8, 3))
    x = np.random.default_rng(3).standard_normal((19, 8, 8, 3))
    nngp, ntk, met = each_with_itself(programs, x)
    for some, threads in ((slice(None), 3), (slice(3, 5), 1)):
        again = each_with_itself(programs, x[some], threads)
        np.testing.assert_array_equal(again[:2], (nngp[some], ntk[some]))
        opposite = each_with_opposite(programs, Side(x, met)[some], threads)
        np.testing.assert_array_equal(
            opposite, np.array(each_with_opposite(programs, Side(x, met)))[:, some]
        )


def test_a_variance_needs_few_displacements() -> None:
    programs = matched(stax.serial(*MYRTLE).layer, (32, 32, 3))
    reaches = [piece.before and piece.before.segments["reach_x"] for piece in programs.pieces]
    assert reaches[0] is None
    assert [reach.tolist() for reach in reaches[1:]] == [[1, 0], [3, 1, 0]]


def test_memory_is_far_below_that_of_all_pairs_of_positions() -> None:
    shape = (32, 32, 3)
    evaluation = Kernel(stax.serial(*MYRTLE).layer).choice(shape, "cpu").evaluation
    word = evaluation.statistics_working_bytes(1, True, threads=1)
    assert word < 16 * 2**20 < 64 * 2**20 < evaluation.recursion_bytes(True)
    # Two words, of whatever length, and what each sample more takes.
    assert evaluation.statistics_working_bytes(64, True, threads=2) < 2 * word + 64 * 2**17
