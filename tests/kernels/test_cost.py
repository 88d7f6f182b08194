"""Projected memory against what the compiled programs and the arrays between them take."""

import gc

import jax
import pytest

from ntk_dist import stax
from ntk_dist.kernels import recursion
from ntk_dist.kernels.cost import pair_cost
from ntk_dist.kernels.dispatch import Kernel

CONV = stax.Conv(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.1)
BLOCK = stax.serial(
    stax.FanOut(2), stax.parallel(stax.serial(stax.Relu(), CONV), stax.Identity()), stax.FanInSum()
)
NETWORKS = {
    "fc": (
        stax.serial(
            stax.Dense(1, b_std=0.1), stax.Relu(), stax.Dense(1), stax.Erf(), stax.Dense(1)
        ),
        (8,),
        200,
    ),
    "conv": (
        stax.serial(CONV, stax.Relu(), CONV, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)),
        (8, 8, 1),
        10,
    ),
    "circular": (
        stax.serial(
            stax.Conv(1, (3, 3), padding="CIRCULAR"),
            stax.LayerNorm(),
            stax.Relu(),
            stax.AvgPool((2, 2), (2, 2)),
            stax.Flatten(),
            stax.Dense(1),
        ),
        (6, 6, 1),
        12,
    ),
    "flatten": (stax.serial(CONV, stax.Relu(), CONV, stax.Gelu(), stax.Flatten()), (8, 8, 1), 64),
    "residual": (stax.serial(CONV, BLOCK, stax.GlobalSumPool()), (6, 6, 1), 10),
}
PROGRAMS = (
    "_activation",
    "_affine",
    "_convolve",
    "_diagonal",
    "_input_covariance",
    "_layer_norm",
    "_mean",
    "_pool",
    "_pool_globally",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_measured_memory_stays_under_the_projection(name, monkeypatch, rng, reference):
    net, shape, n = NETWORKS[name]
    kernel = Kernel(net.layer)
    x1, x2 = (rng.normal(size=(n, *shape)) for _ in range(2))
    statistics1, statistics2 = kernel.statistics(x1), kernel.statistics(x2)
    gc.collect()
    before = sum(a.nbytes for a in jax.live_arrays())
    peak = 0

    def measured(program):
        def run(*arguments):
            nonlocal peak
            analysis = program.lower(*arguments).compile().memory_analysis()
            result = program(*arguments)
            live = sum(a.nbytes for a in jax.live_arrays()) - before
            peak = max(peak, live + analysis.temp_size_in_bytes)
            return result

        return run

    for program in PROGRAMS:
        monkeypatch.setattr(recursion, program, measured(getattr(recursion, program)))
    reference(net.layer, x1, x2, statistics1, statistics2)
    per_sample = x1.nbytes + x2.nbytes + statistics1.nbytes + statistics2.nbytes
    projected = n * n * pair_cost(net.layer, shape, 8, 2).bytes
    assert peak - per_sample <= projected
    assert peak >= 0.5 * projected  # what never binds would be no projection


def test_costs_grow_with_what_is_computed():
    conv, shape, _ = NETWORKS["conv"]
    both, nngp = (pair_cost(conv.layer, shape, 8, n_kernels) for n_kernels in (2, 1))
    assert both.bytes > nngp.bytes
    assert both.flops > nngp.flops
    # All pairs of positions: twice the side is sixteen times the work.
    assert pair_cost(conv.layer, (16, 16, 1), 8, 2).flops == pytest.approx(
        16 * both.flops, rel=0.01
    )


def test_a_kernel_costs_what_its_path_costs():
    conv, shape, _ = NETWORKS["conv"]
    kernel = Kernel(conv.layer)
    assert kernel.flops_per_pair(shape, "gpu") == pair_cost(conv.layer, shape, 8, 2).flops
    assert kernel.flops_per_pair(shape, "cpu") == kernel.choice(shape, "cpu").evaluation.flops
    # The engine holds words of samples, and no pair of positions of most pairs of samples.
    big = (16, 16, 1)
    assert kernel.working_bytes(big, 100, 100) < 100 * 100 * pair_cost(conv.layer, big, 8, 2).bytes
    assert kernel.working_bytes(big, 200, 100) > kernel.working_bytes(big, 100, 100)
