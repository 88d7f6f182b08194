"""Statistics in rows of numbers, and back."""

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.dispatch import Kernel

AFFINE = stax.Conv(1, (3, 3), padding="VALID", W_std=1.4, b_std=0.1)
NETWORKS = {
    "dense": (stax.serial(stax.Flatten(), stax.Dense(1), stax.Relu(), stax.Dense(1)), (4, 4, 2)),
    "fused": (stax.serial(AFFINE, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)), (5, 6, 2)),
    "recursion": (
        stax.serial(
            AFFINE,
            stax.FanOut(2),
            stax.parallel(
                stax.serial(stax.Erf(), AFFINE), stax.serial(stax.LayerNorm(), stax.Erf(), AFFINE)
            ),
            stax.FanInSum(),
            stax.Erf(),
            stax.GlobalAvgPool(),
            stax.Dense(1),
            stax.Erf(),
        ),
        (6, 5, 2),
    ),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_packed_comes_back_bit_for_bit(name, dtype, rng):
    network, shape = NETWORKS[name]
    kernel = Kernel(network.layer, ("ntk", "nngp"), dtype)
    statistics = kernel.statistics(rng.normal(size=(3, *shape)))
    layout = kernel.statistics_layout(shape)
    assert layout.variances == tuple(v.shape[1:] for v in statistics.variances)
    packed = layout.pack(statistics)
    assert packed.shape == (3, layout.width)
    assert packed.dtype == np.float64
    back = layout.unpack(packed)
    np.testing.assert_array_equal(back.keys, statistics.keys)
    for kernel_name, values in statistics.kernels.items():
        assert back.kernels[kernel_name].dtype == values.dtype
        np.testing.assert_array_equal(back.kernels[kernel_name], values)
    for v, expected in zip(back.variances, statistics.variances, strict=True):
        np.testing.assert_array_equal(v, expected)
        assert np.shares_memory(v, packed)
