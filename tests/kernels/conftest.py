"""The reference, which faster paths are compared with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_dist.kernels import recursion
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.statistics import Statistics

Reference = Callable[[Layer, np.ndarray, np.ndarray, Statistics, Statistics], dict[str, np.ndarray]]


@pytest.fixture
def reference() -> Reference:
    """Both kernels between all samples of two sets, by the recursion in float64."""

    def block(
        layer: Layer, x1: np.ndarray, x2: np.ndarray, first: Statistics, second: Statistics
    ) -> dict[str, np.ndarray]:
        with jax.enable_x64(True):
            variances = (list(map(jnp.asarray, s.variances)) for s in (first, second))
            x = (jnp.asarray(samples, jnp.float64) for samples in (x1, x2))
            both = recursion.all_pairs(layer, *x, *variances, True)
            return dict(zip(("nngp", "ntk"), map(np.asarray, both), strict=True))

    return block
