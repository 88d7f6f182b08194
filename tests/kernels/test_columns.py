"""Columns that are packed once give the same bits as columns that are packed for every block."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.dispatch import Kernel

RELU = [stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1, 2**0.5, 0.1)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_rows", [1, 20])
def test_blocks_have_the_same_bits(rng, dtype, n_rows):
    kernel = Kernel(stax.serial(*RELU).layer, ("nngp", "ntk"), dtype)
    # More panels than pieces, so that each piece has several of them; the last one is not full.
    columns = rng.normal(size=(2000, 5)).astype(dtype)
    rows = rng.normal(size=(n_rows, 5)).astype(dtype)
    packed = kernel.pack(columns, kernel.statistics(columns))
    expected = kernel.block(rows, columns)
    for threads in (1, 2):
        found = packed.block(rows, threads)
        for name in kernel.kernels:
            np.testing.assert_array_equal(found[name], expected[name])


def test_samples_of_one_norm_go_along_the_same_curves(rng):
    kernel = Kernel(stax.serial(*RELU).layer, ("ntk",), "float32")
    x = rng.normal(size=(200, 4))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    packed = kernel.pack(x[:150], kernel.statistics(x[:150]))
    np.testing.assert_array_equal(
        packed.block(x[150:])["ntk"], kernel.block(x[150:], x[:150])["ntk"]
    )


def test_only_networks_without_spatial_axes_are_packed(rng):
    conv = stax.serial(stax.Conv(1, (3,)), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    kernel = Kernel(conv.layer, ("ntk",), "float32")
    assert kernel.packed_bytes((6, 2), 10) is None
    x = rng.normal(size=(2, 6, 2))
    assert kernel.pack(x, kernel.statistics(x)) is None
