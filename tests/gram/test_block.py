import logging
import math
import warnings

import jax
import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.errors import MemoryBudgetError
from ntk_dist.gram.block import compute_block
from ntk_dist.gram.cut import split_block
from ntk_dist.kernels.dispatch import Kernel

FC = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1)).layer
CONV = stax.serial(
    stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)
).layer
NOT_FUSED = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Erf(), stax.Dense(1)).layer


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(3)
    return {
        "fc": (Kernel(FC, ("nngp", "ntk"), "float64"), rng.normal(size=(21, 5))),
        "conv": (Kernel(CONV, ("ntk",), "float64"), rng.normal(size=(9, 4, 4, 2))),
        "not fused": (Kernel(NOT_FUSED, ("nngp", "ntk"), "float64"), rng.normal(size=(21, 5))),
    }


def test_problems_go_through_what_they_are_named_for(problem):
    fused = {name: kernel.choice(x.shape[1:], "cpu").fused for name, (kernel, x) in problem.items()}
    assert fused == {"fc": True, "conv": True, "not fused": False}


def _room(kernel, shape, pairs):
    """Memory for a square of about this many pairs, and no more."""
    side = math.isqrt(pairs)
    return kernel.working_bytes(shape, side, side)


@pytest.mark.parametrize("name", ["fc", "conv", "not fused"])
@pytest.mark.parametrize("pairs", [1, 7, 30, 10**6])
def test_sub_batches_give_the_whole_block(problem, name, pairs):
    kernel, x = problem[name]
    x2 = x[: len(x) // 2] + 0.5
    budget = _room(kernel, x.shape[1:], pairs)
    whole, parts = kernel.block(x, x2), compute_block(kernel, x, x2, max_bytes=budget)
    assert sorted(parts) == sorted(kernel.kernels)
    for key in whole:
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-13)


@pytest.mark.parametrize("name", ["fc", "conv", "not fused"])
@pytest.mark.parametrize("pairs", [5, 40, 10**6])
def test_a_symmetric_block_is_exactly_symmetric_and_its_diagonal_is_diag(problem, name, pairs):
    kernel, x = problem[name]
    budget = _room(kernel, x.shape[1:], pairs)
    parts = compute_block(kernel, x, max_bytes=budget)
    whole, diagonal = kernel.block(x), kernel.diag(x)
    for key, block in parts.items():
        np.testing.assert_array_equal(block, block.T)
        np.testing.assert_allclose(np.diag(block), diagonal[key], rtol=1e-14)
        np.testing.assert_allclose(block, whole[key], rtol=1e-13)


def test_padding_to_the_grid_changes_nothing(problem):
    kernel, x = problem["not fused"]
    loose = compute_block(kernel, x[:6], x[6:15], max_bytes=10**8)["ntk"]
    padded = compute_block(kernel, x[:6], x[6:15], max_bytes=10**8, pad_rows=16)["ntk"]
    np.testing.assert_allclose(padded, loose, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_where_a_fused_block_is_cut(problem, dtype, rng):
    kernel = Kernel(problem["conv"][0].architecture, ("nngp", "ntk"), dtype)
    x = rng.normal(size=(90, 6, 6, 2))
    x[70] = x[2] + 1e-3 * x[3]  # a close pair, in two parts or in one
    budgets = [2**22, 2**20, 2**19]
    splits = [
        split_block(kernel, x.shape[1:], 90, 90, max_bytes=b, square=True).rows1 for b in budgets
    ]
    assert splits[0] == 90 > splits[-1]
    first, *others = (compute_block(kernel, x, max_bytes=budget) for budget in budgets)
    for other in others:
        for name, values in first.items():
            np.testing.assert_array_equal(other[name], values)


def test_a_ragged_grid_compiles_nothing_that_its_first_block_did_not(problem, rng):
    kernel = Kernel(NOT_FUSED, ("ntk",))
    x = rng.normal(size=(37, 5))
    settings = {"max_bytes": 2**24, "pad_rows": 15}
    compute_block(kernel, x[:15], x[15:30], **settings)
    compute_block(kernel, x[:15], **settings)
    with jax.log_compiles(), warnings.catch_warnings(record=True):
        logged = logging.getLogger("jax._src.interpreters.pxla")
        records = []
        handler = logging.Handler()
        handler.emit = records.append
        logged.addHandler(handler)
        for rows in (slice(0, 15), slice(15, 30), slice(30, 37)):
            compute_block(kernel, x[rows], **settings)
            compute_block(kernel, x[rows], x[30:], **settings)
        logged.removeHandler(handler)
    assert [r.getMessage() for r in records] == []


def test_a_budget_below_one_pair_is_refused(problem):
    kernel, x = problem["conv"]
    with pytest.raises(MemoryBudgetError, match="NTK_DIST_BLOCK_MAX_BYTES"):
        compute_block(kernel, x, max_bytes=1)
