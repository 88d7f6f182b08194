"""Any architecture at all: blocks of the fused engine against the reference recursion.

Samples are few, images have at most seven pixels a side, and the recursion runs on NumPy: what JAX
prepares for every new shape would take a hundred times longer than all of the arithmetic.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_dist import stax
from ntk_dist.errors import ArchitectureError, DataShapeError
from ntk_dist.kernels.architecture import output_shape
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.statistics import Side, Statistics
from ntk_dist.stax import Network

pytestmark = pytest.mark.usefixtures("recursion_on_numpy")

EXAMPLES = int(os.environ.get("RANDOM_ARCHITECTURES", "100"))
WIDTH = 5
BOTH = ("nngp", "ntk")
DTYPES = ("float64", "float32")

slope = st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0, 1.7])
activations = st.one_of(
    st.just(stax.Relu()),
    st.builds(stax.ABRelu, slope, slope),
    st.builds(stax.LeakyRelu, slope),
    st.just(stax.Abs()),
    st.builds(stax.Erf, st.just(1.2), st.sampled_from([0.7, 2.0]), st.sampled_from([0.0, 0.3])),
    st.just(stax.Sigmoid_like()),
    st.just(stax.Gelu()),
    st.builds(stax.Sin, st.just(1.1), st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 0.4])),
    st.builds(stax.Cos, st.just(0.9), st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 0.4])),
    st.builds(stax.Rbf, st.sampled_from([0.1, 0.6])),
)


@st.composite
def affine(draw: st.DrawFn, rank: int, padding: str, stride: int | None = None) -> Network:
    """A random linear layer over ``rank`` spatial axes."""
    arguments = {
        "W_std": draw(st.sampled_from([0.6, 1.0, 1.4])),
        "b_std": draw(st.sampled_from([None, 0.1, 0.5])),
        "trainable": draw(st.integers(0, 3)) > 0,
    }
    if draw(st.integers(0, 3)) == 0:
        arguments |= {"parameterization": "standard", "s": (draw(st.integers(1, 3)), 1)}
    if stride is None and draw(st.integers(0, 4)) == 0:
        return stax.Dense(WIDTH, **arguments)
    window = tuple(draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank)))
    steps = st.sampled_from([1, 1, 1, 2, 3]) if stride is None else st.just(stride)
    strides = tuple(draw(st.lists(steps, min_size=rank, max_size=rank)))
    return stax.Conv(WIDTH, window, strides, padding, **arguments)


@st.composite
def residual(draw: st.DrawFn, rank: int, padding: str) -> list[Network]:
    """Two branches of one shape, or three, that meet again."""
    padding = "CIRCULAR" if padding == "CIRCULAR" else "SAME"
    stride = draw(st.sampled_from([1, 1, 2]))
    branches = [draw(affine(rank, padding, stride)) for _ in range(draw(st.integers(1, 2)))]
    branches = [
        stax.serial(draw(st.one_of(activations, st.just(stax.LayerNorm()))), branch)
        if draw(st.booleans())
        else branch
        for branch in branches
    ]
    branches.append(
        stax.serial(branches[0], draw(activations), draw(affine(rank, padding, 1)))
        if stride > 1 or draw(st.booleans())
        else stax.Identity()
    )
    meet = stax.serial(stax.FanOut(len(branches)), stax.parallel(*branches), stax.FanInSum())
    return [draw(affine(rank, padding)), meet]


@st.composite
def pooling(draw: st.DrawFn, rank: int) -> Network:
    window = tuple(draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)))
    strides = tuple(draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)))
    padding = draw(st.sampled_from(["VALID", "SAME"]))
    if draw(st.booleans()):
        return stax.SumPool(window, strides, padding)
    return stax.AvgPool(window, strides, padding, normalize_edges=draw(st.booleans()))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Layer, np.ndarray, np.ndarray]:
    """An architecture and two sets of samples that fit it."""
    rank = draw(st.sampled_from([1, 2, 2]))
    circular = draw(st.integers(0, 3)) == 0
    paddings = st.just("CIRCULAR") if circular else st.sampled_from(["SAME", "SAME", "VALID"])
    most = 7 if rank == 1 else 5
    size = draw(st.lists(st.integers(1, most), min_size=rank, max_size=rank))
    channels = draw(st.integers(1, 4))
    layers: list[Network] = []
    if channels == 1:
        # Single numbers are perfectly correlated: half the digits of the recursion would be lost.
        layers.append(stax.Conv(WIDTH, (2,) * rank, padding="SAME", b_std=0.5))
    for _ in range(draw(st.integers(1, 4))):
        padding = draw(paddings)
        kind = draw(st.integers(0, 5))
        if kind == 0:
            layers.append(draw(pooling(rank)))
        elif kind == 1:
            layers += draw(residual(rank, padding))
        else:
            layers.append(draw(affine(rank, padding)))
        if kind and draw(st.integers(0, 3)) == 0:
            spatial = draw(st.lists(st.sampled_from(range(1, rank + 1)), unique=True))
            layers.append(stax.LayerNorm((*spatial, -1), eps=1e-3))
        if kind and draw(st.integers(0, 5)):
            layers.append(draw(activations))
    layers.append(
        draw(st.sampled_from([stax.GlobalAvgPool(), stax.GlobalSumPool(), stax.Flatten()]))
    )
    layers.append(stax.Dense(1, b_std=draw(st.sampled_from([None, 0.2]))))
    shape = (*size, channels)
    layer = _built(layers, shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x1, x2 = (
        rng.standard_normal((3, *shape)),
        rng.standard_normal((draw(st.integers(1, 9)), *shape)),
    )
    return layer, x1, x2


def _built(layers: list[Network], shape: tuple[int, ...]) -> Layer:
    """As many of the layers as fit together and the samples."""
    kept: list[Network] = []
    for each in layers:
        try:
            output_shape(stax.serial(*kept, each).layer, shape)
            kept.append(each)
        except (ArchitectureError, DataShapeError):
            continue
    return stax.serial(*kept).layer


def assert_close(found: Any, expected: Any, size: float, tolerance: float) -> None:
    """Entries agree to this part of the largest on the diagonal."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size)


def tolerance(dtype: str, name: str, x: np.ndarray) -> float:
    """What must hold of random samples.

    Pooling numbers of either sign cancels some of their digits, and one is left to that in float32.
    The NTK errs by ``6e-8 / √g`` there, and gaps g between two or three numbers are often small.
    """
    if dtype == "float64":
        return 1e-12
    if name == "nngp":
        return 3e-6
    return 1e-5 if x.shape[-1] > 2 else 1e-3


def sizes(*known: Statistics) -> dict[str, float]:
    """The largest of the samples' kernels with themselves."""
    return {name: max(float(each.kernels[name].max()) for each in known) for name in BOTH}


@settings(max_examples=EXAMPLES)
@given(problems())
def test_blocks_equal_the_recursion(
    reference: Any, problem: tuple[Layer, np.ndarray, np.ndarray]
) -> None:
    layer, x1, x2 = problem
    first, second = (Kernel(layer, BOTH, "float64").statistics(x) for x in (x1, x2))
    expected = reference(layer, x1, x2, first, second)
    for dtype in DTYPES:
        kernel = Kernel(layer, BOTH, dtype)
        found = kernel.block(x1, x2, first, second)
        turned = kernel.block(x2, x1, second, first)
        for name, size in sizes(first, second).items():
            assert_close(found[name], expected[name], size, tolerance(dtype, name, x1))
            assert_close(turned[name].T, expected[name], size, tolerance(dtype, name, x1))


@settings(max_examples=EXAMPLES)
@given(problems())
def test_symmetric_blocks_are_symmetric_and_know_equal_opposite_and_zero_rows(
    problem: tuple[Layer, np.ndarray, np.ndarray],
) -> None:
    layer, x1, x2 = problem
    x = np.concatenate([x1, x2, x1[:1], -x1[:1], 0 * x1[:1]])
    for dtype in DTYPES:
        kernel = Kernel(layer, BOTH, dtype)
        known = kernel.statistics(x)
        half, whole = kernel.block(x, None, known), kernel.block(x, x.copy(), known, known)
        exact = Kernel(layer, BOTH, "float64").statistics(x)
        for name, size in sizes(exact).items():
            np.testing.assert_array_equal(half[name], half[name].T)
            np.testing.assert_array_equal(np.diag(half[name]), kernel.diag(x)[name])
            np.testing.assert_array_equal(half[name][0, -3], half[name][0, 0])
            assert_close(half[name], whole[name], size, tolerance(dtype, name, x1))
            assert np.linalg.eigvalsh(half[name].astype(float)).min() >= -1e-5 * size


@settings(max_examples=EXAMPLES)
@given(problems(), st.sampled_from(["float32", "float64"]))
def test_the_number_of_threads_does_not_change_a_bit(
    problem: tuple[Layer, np.ndarray, np.ndarray], dtype: str
) -> None:
    layer, x1, x2 = problem
    kernel = Kernel(layer, BOTH, dtype)
    choice = kernel.choice(x1.shape[1:], "cpu")
    if not choice.fused:
        assert ": " in choice.explanation  # the reason; the recursion takes no threads
        return
    left, right = (Side(x, kernel.statistics(x).variances) for x in (x1, x2))
    one, three = (choice.evaluation.block(left, right, kernel.dtype, BOTH, n) for n in (1, 3))
    np.testing.assert_equal(one, three)
