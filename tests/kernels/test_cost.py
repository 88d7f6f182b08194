"""Projected memory against what a process really takes."""

import subprocess
import sys

import pytest

from ntk_dist import stax
from ntk_dist.kernels.dispatch import Kernel

NETWORKS = {
    "fc": (
        stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1), stax.Relu(), stax.Dense(1)),
        (8,),
    ),
    "conv": (
        stax.serial(
            stax.Conv(1, (3, 3), padding="SAME", W_std=1.4),
            stax.Relu(),
            stax.Conv(1, (3, 3), padding="SAME", W_std=1.4),
            stax.Relu(),
            stax.GlobalAvgPool(),
            stax.Dense(1),
        ),
        (8, 8, 1),
    ),
}
MEASURE = """
import resource, sys
import numpy as np
from ntk_dist import stax
from ntk_dist.kernels.dispatch import Kernel

kernel = Kernel(stax.from_json(sys.argv[1]).layer)
shape, n = eval(sys.argv[2]), int(sys.argv[3])
x = np.random.default_rng(0).normal(size=(n, *shape)).astype("float32")
y = x[::-1] + 1
kernel.block(x[:3], y[:3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kernel.block(x, y)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_measured_memory_stays_under_the_projection(name):
    net, shape = NETWORKS[name]
    per_pair = Kernel(net.layer).bytes_per_pair(shape)
    n = int((400e6 / per_pair) ** 0.5)
    command = [sys.executable, "-c", MEASURE, net.to_json(), repr(shape), str(n)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    measured, projected = int(answer.stdout), n * n * per_pair
    # Compiling and the result of the block come on top of the projection.
    assert measured <= projected + 8 * n * n + 64e6
    assert measured >= 0.4 * projected  # a projection that never binds would be no projection


def test_costs_grow_with_what_is_computed():
    conv, shape = NETWORKS["conv"]
    both, nngp = Kernel(conv.layer, ("ntk",)), Kernel(conv.layer, ("nngp",))
    assert both.bytes_per_pair(shape) > nngp.bytes_per_pair(shape)
    assert both.flops_per_pair(shape) > nngp.flops_per_pair(shape)
    double = Kernel(conv.layer, ("ntk",), "float64")
    assert double.bytes_per_pair(shape) == 2 * both.bytes_per_pair(shape)
    # All pairs of positions: twice the side is sixteen times the work.
    assert both.flops_per_pair((16, 16, 1)) == pytest.approx(
        16 * both.flops_per_pair(shape), rel=0.01
    )
