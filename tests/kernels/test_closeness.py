"""Which pairs are left to float64."""

from __future__ import annotations

import numpy as np

from ntk_dist.kernels.closeness import close_pairs


def test_close_pairs_are_found_and_equal_ones_left_out() -> None:
    x = np.random.default_rng(5).standard_normal((4, 3, 3, 2))
    y = np.stack([x[1], x[1] + 1e-3, -x[2] * 1.001, -x[2], x[3] + 1.0])
    near = close_pairs(x, y)
    assert {i: list(columns) for i, columns in near.items()} == {1: [1], 2: [2]}
    assert close_pairs(np.stack([x[0], x[1], x[1] + 1e-3]), None).keys() == {1}
    assert close_pairs(x, None) == {}
