"""The reference, which faster paths are compared with."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from ntk_dist.kernels import activations, alone, evaluations, fused_cpu, recursion, tail, windows
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.statistics import Statistics

Reference = Callable[[Layer, np.ndarray, np.ndarray, Statistics, Statistics], dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Both kernels between all samples of two sets, by the recursion in float64."""

    def block(
        layer: Layer, x1: np.ndarray, x2: np.ndarray, first: Statistics, second: Statistics
    ) -> dict[str, np.ndarray]:
        array = recursion.jnp.asarray
        with jax.enable_x64(True):
            variances = (list(map(array, s.variances)) for s in (first, second))
            x = (array(samples, np.float64) for samples in (x1, x2))
            both = recursion.all_pairs(layer, *x, *variances, True)
            return dict(zip(("nngp", "ntk"), map(np.asarray, both), strict=True))

    return block


class Ready(np.ndarray):
    """An array of NumPy that is always ready."""

    def block_until_ready(self) -> None:
        """Nothing to wait for."""


class OnNumpy:
    """What the recursion asks of ``jax.numpy`` and ``jax.lax``, of NumPy."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.asarray(getattr(np, name)(*args, **kwargs))

    def asarray(self, values: Any, dtype: Any = None) -> np.ndarray:
        return np.asarray(values, dtype).view(Ready)

    def einsum(self, *operands: Any, precision: object) -> np.ndarray:
        return self.asarray(np.einsum(*operands))

    def slice(self, x: np.ndarray, starts: Any, limits: Any, steps: Any) -> np.ndarray:
        return x[tuple(map(slice, starts, limits, steps))]


@pytest.fixture(scope="module")
def recursion_on_numpy() -> Iterator[None]:
    """The recursion runs on NumPy: JAX would compile a second or two for each small shape."""
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        for module in (recursion, windows, activations, alone, fused_cpu, tail, evaluations):
            patch.setattr(module, "jnp", OnNumpy(), raising=False)
        patch.setattr(windows, "lax", OnNumpy())
        yield
