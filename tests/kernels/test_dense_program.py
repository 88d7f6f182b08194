"""Programs for architectures without spatial axes."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.dense_program import DenseProgram, compile_dense
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.stax import Network

RELU = stax.Relu()


def dense(**more: object) -> Network:
    return stax.Dense(7, **{"W_std": 2**0.5, "b_std": 0.1, **more})


def program(*layers: Network, features: int = 5) -> DenseProgram:
    compiled = compile_dense(stax.serial(*layers).layer, (features,))
    assert isinstance(compiled, DenseProgram)
    return compiled


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        ((dense(), stax.Erf(), dense()), (5,), "Erf"),
        ((stax.FanOut(2), stax.parallel(dense(), dense())), (5,), "come together"),
        ((dense(parameterization="standard", b_std=0.0), RELU), (5,), "starts at zero"),
        ((dense(), RELU), (4, 5), "spatial"),
    ],
)
def test_what_has_no_program_says_why(
    layers: tuple[Network, ...], shape: tuple[int, ...], words: str
) -> None:
    reason = compile_dense(stax.serial(*layers).layer, shape)
    assert isinstance(reason, str)
    assert words in reason


def test_layers_merge_into_few_steps_on_few_tiles() -> None:
    deep = program(*[dense(), RELU] * 30, dense())
    assert len(deep.steps) == 31
    assert deep.places == 1
    # From the first ReLU on no correlation is negative.
    np.testing.assert_array_equal(deep.steps["signed"], [1, 1] + [0] * 29)


def test_a_branch_keeps_its_tile_until_the_sum() -> None:
    block = stax.serial(
        stax.FanOut(2), stax.parallel(stax.serial(RELU, dense()), stax.Identity()), stax.FanInSum()
    )
    assert program(dense(), block, block, block).places <= 3


def test_flops_grow_with_features_and_layers() -> None:
    shallow, deep = program(dense()), program(dense(), RELU, dense())
    assert program(dense(), features=105).flops - shallow.flops == 200
    assert deep.flops > shallow.flops + 30


def test_deviations_are_those_of_the_recursion() -> None:
    layers = (dense(), stax.LayerNorm(eps=0.1), RELU, dense(b_std=None), stax.Abs(), dense())
    x = np.random.default_rng(0).standard_normal((4, 5))
    nngp = Kernel(stax.serial(*layers).layer, ("nngp",), "float64").diag(x)["nngp"]
    known = program(*layers).known(np.sqrt((x**2).mean(axis=1)), np.dtype(np.float64))
    np.testing.assert_allclose(known[:, -1] ** 2, nngp, rtol=1e-14)
