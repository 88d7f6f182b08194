"""What is measured: networks, their samples, and how large the blocks are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from ntk_dist import stax
from ntk_dist.kernels import recursion
from ntk_dist.stax import Network

__all__ = [
    "CASES",
    "FEATURES",
    "Case",
    "cntk",
    "dense_relu",
    "reference",
    "relative_error",
    "samples",
]

FEATURES = 784
"""Of a sample without spatial axes."""
WEIGHTS = {"W_std": 2**0.5}
BIASES = {"b_std": 0.1}


def dense_relu(depth: int, biases: bool = True) -> Network:
    """Fully connected ReLU layers, and a read-out of weights with standard deviation 1."""
    arguments = WEIGHTS | BIASES if biases else WEIGHTS
    layer = stax.serial(stax.Dense(1, **arguments), stax.Relu())
    return stax.serial(*[layer] * depth, stax.Dense(1))


def cntk(depth: int, last: Network) -> Network:
    """3x3 convolutions with ReLU, then Flatten or global pooling, and a read-out."""
    return stax.serial(*[_conv_relu(**BIASES)] * depth, last, stax.Dense(1))


def _conv_relu(**biases: float) -> Network:
    return stax.serial(_conv((1, 1), **biases), stax.Relu())


def _conv(strides: tuple[int, int], **biases: float) -> Network:
    return stax.Conv(1, (3, 3), strides, "SAME", **WEIGHTS, **biases)


def _myrtle5() -> Network:
    """Five layers and four poolings, without biases (Shankar et al., arXiv:2003.02237)."""
    conv, pool = _conv_relu(), stax.AvgPool((2, 2), (2, 2))
    return stax.serial(
        conv, conv, pool, conv, pool, conv, pool, pool, stax.Flatten(), stax.Dense(1)
    )


def _wide_resnet() -> Network:
    """WRN-10: three groups of one block each, the last two with stride 2 (arXiv:1605.07146)."""
    return stax.serial(
        _conv((1, 1)),
        *(_residual(stride) for stride in ((1, 1), (2, 2), (2, 2))),
        stax.Relu(),
        stax.GlobalAvgPool(),
        stax.Dense(1),
    )


def _residual(strides: tuple[int, int]) -> Network:
    """ReLU and convolution twice, beside a convolution: channels change in every group."""
    main = stax.serial(stax.Relu(), _conv(strides), stax.Relu(), _conv((1, 1)))
    return stax.serial(stax.FanOut(2), stax.parallel(main, _conv(strides)), stax.FanInSum())


@dataclass(frozen=True)
class Case:
    """One line of the table, in either precision."""

    title: str
    network: Network
    rows: int
    columns: int
    checked: int
    """Rows and columns that are compared with the reference."""
    peer_side: int
    """Where a peer's search for its best block begins."""
    images: bool = True
    """Samples are images, else rows of features."""
    symmetric: bool = False
    one_norm: bool = False
    """All samples have the same norm."""
    depth: int | None = None
    """ReLU layers, where scikit-ntk has the same kernel."""

    def resized(self, pairs: int | None) -> Case:
        """The same with blocks of about so many pairs; ``None`` leaves it alone."""
        if pairs is None:
            return self
        factor = math.sqrt(pairs / (self.rows * self.columns))
        rows, columns = (max(1, round(factor * n)) for n in (self.rows, self.columns))
        return replace(self, rows=rows, columns=columns)

    def samples(self, side: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Normal samples in float32: enough for this package's block, and for the peers' first."""
        rng = np.random.default_rng(0)
        shape = (side, side, 3) if self.images else (FEATURES,)
        x1 = samples(rng, self.rows, shape)
        x2 = None if self.symmetric else samples(rng, self.columns, shape)
        if self.one_norm:
            x1, x2 = (None if x is None else _one_norm(x) for x in (x1, x2))
        assert x1 is not None
        return x1, x2


_DENSE = Case("FC ReLU, depth 4", dense_relu(4), 4096, 4096, 256, 1024, images=False)
CASES = {
    "fc": _DENSE,
    "fc-symmetric": replace(_DENSE, title="FC ReLU, symmetric", symmetric=True),
    "fc-no-bias": replace(
        _DENSE, title="FC ReLU, no biases", network=dense_relu(4, biases=False), depth=4
    ),
    "fc-one-norm": replace(_DENSE, title="FC ReLU, one norm", one_norm=True),
    "gap": Case("CNTK-GAP, 4 conv", cntk(4, stax.GlobalAvgPool()), 16, 32, 2, 1),
    "myrtle5": Case("Myrtle-5", _myrtle5(), 16, 32, 2, 1),
    "flatten": Case("4 conv, Flatten", cntk(4, stax.Flatten()), 128, 512, 32, 8),
    "wrn": Case("WRN-10, GAP", _wide_resnet(), 8, 32, 2, 1),
}


def samples(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Independent normal numbers, float32: both precisions see the same."""
    return rng.standard_normal((n, *shape), np.float32)


def _one_norm(x: np.ndarray) -> np.ndarray:
    return x * np.float32(math.sqrt(FEATURES)) / np.linalg.norm(x, axis=1, keepdims=True)


def reference(network: Network, x1: np.ndarray, x2: np.ndarray | None) -> np.ndarray:
    """The NTK by the recursion in float64, statistics included: no fast path is involved."""
    with jax.enable_x64(True):
        a, b = (jnp.asarray(x, jnp.float64) for x in (x1, x1 if x2 is None else x2))
        _, variances1 = recursion.each_with_itself(network.layer, a, want_ntk=False)
        _, variances2 = recursion.each_with_itself(network.layer, b, want_ntk=False)
        _, ntk = recursion.all_pairs(network.layer, a, b, variances1, variances2, want_ntk=True)
        return np.asarray(ntk)


def relative_error(ntk: np.ndarray, exact: np.ndarray, symmetric: bool = False) -> float:
    """The largest of the entries that both have, without the diagonal of a symmetric block.

    There correlations are 1, and computing them costs any package half of its digits; this one
    knows them.
    """
    n1, n2 = map(min, ntk.shape, exact.shape)
    error = np.abs(ntk[:n1, :n2] / exact[:n1, :n2] - 1)
    if symmetric:
        np.fill_diagonal(error, 0)
    return float(error.max())
