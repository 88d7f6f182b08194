import pickle
import threading
import tracemalloc

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ntk_dist import stax
from ntk_dist.errors import DataShapeError, InvalidInputError
from ntk_dist.kernels import recursion
from ntk_dist.kernels.architecture import build
from ntk_dist.kernels.dispatch import Kernel, explain
from ntk_dist.kernels.evaluations import Recursion
from ntk_dist.kernels.fused_gpu import available
from ntk_dist.kernels.statistics import Side, Statistics

FC = stax.serial(
    stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1, 1.4), stax.Relu(), stax.Dense(1)
)
CONV = stax.serial(
    stax.Conv(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.1),
    stax.Relu(),
    stax.AvgPool((2, 2), (2, 2)),
    stax.Flatten(),
    stax.Dense(1),
)
BOTH = ("nngp", "ntk")


@pytest.fixture(params=["fc", "conv"])
def case(request, rng):
    if request.param == "fc":
        return FC.layer, rng.normal(size=(6, 5))
    return CONV.layer, rng.normal(size=(6, 4, 4, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_symmetric_block_is_exactly_symmetric_with_the_diagonal_of_diag(case, dtype):
    layer, x = case
    kernel = Kernel(layer, BOTH, dtype)
    block, diag = kernel.block(x), kernel.diag(x)
    for name in BOTH:
        assert block[name].dtype == diag[name].dtype == dtype
        assert np.array_equal(block[name], block[name].T)
        assert np.array_equal(np.diag(block[name]), diag[name])
        assert np.linalg.eigvalsh(block[name].astype("float64")).min() > 0


def test_block_with_a_copy_agrees_with_the_symmetric_block(case):
    layer, x = case
    kernel = Kernel(layer, BOTH, "float64")
    for name, values in kernel.block(x, x.copy()).items():
        np.testing.assert_allclose(values, kernel.block(x)[name], rtol=1e-14)


def test_block_does_not_depend_on_its_neighbours(case):
    layer, x = case
    kernel = Kernel(layer, BOTH, "float64")
    statistics = kernel.statistics(x)
    whole = kernel.block(x, None, statistics)
    order = np.array([4, 0, 5])
    part = kernel.block(x[order], x[:2], statistics[order], statistics[:2])
    for name in BOTH:
        np.testing.assert_allclose(part[name], whole[name][order][:, :2], rtol=1e-13)


def test_opposite_equal_and_zero_rows_are_finite_and_exact(case):
    layer, x = case
    kernel = Kernel(layer, BOTH, "float64")
    other = np.stack([x[0], -x[1], 0 * x[2]])
    block, single = kernel.block(x, other), kernel.diag(x)
    for name in BOTH:
        assert np.isfinite(block[name]).all()
        assert block[name][0, 0] == single[name][0]
    zeros = kernel.block(np.zeros_like(x))
    for name in BOTH:
        assert np.isfinite(zeros[name]).all()
        np.testing.assert_allclose(zeros[name], zeros[name][0, 0])


def test_float32_agrees_with_float64(case):
    layer, x = case
    x = x.astype("float32")
    single, double = (Kernel(layer, BOTH, d).block(x) for d in ("float32", "float64"))
    for name in BOTH:
        np.testing.assert_allclose(single[name], double[name], rtol=3e-6)


def test_one_kernel_is_a_part_of_both(case):
    layer, x = case
    both = Kernel(layer, BOTH, "float64").block(x)
    for name in BOTH:
        alone = Kernel(layer, (name,), "float64").block(x)
        assert list(alone) == [name]
        np.testing.assert_allclose(alone[name], both[name], rtol=1e-14)


def test_statistics_are_slices_of_one_whole(case):
    layer, x = case
    kernel = Kernel(layer)
    whole = kernel.statistics(x)
    again = Statistics.concatenate([whole[:2], whole[2:]])
    assert len(again) == len(x)
    assert again.nbytes == whole.nbytes
    assert np.array_equal(again.keys, whole.keys)
    assert np.array_equal(whole[np.array([3, 1])].keys, kernel.statistics(x[[3, 1]]).keys)
    assert np.array_equal(kernel.block(x, None, again)["ntk"], kernel.block(x)["ntk"])


def test_frozen_layers_add_nothing_to_the_ntk(rng):
    x = rng.normal(size=(3, 4))
    dense = {"W_std": 1.5, "b_std": 0.3}

    def ntk(first, last, hidden=()):
        layers = (stax.Dense(1, **dense, trainable=first), *hidden, stax.Dense(1, trainable=last))
        return Kernel(stax.serial(*layers).layer, BOTH, "float64").block(x)

    relu = (stax.Relu(),)
    inner = 2.25 * x @ x.T / 4 + 0.09
    everything = ntk(True, True, relu)
    np.testing.assert_allclose(ntk(False, True, relu)["ntk"], everything["nngp"], rtol=1e-13)
    np.testing.assert_allclose(ntk(True, False)["ntk"], inner, rtol=1e-13)
    np.testing.assert_allclose(ntk(False, True)["ntk"], inner, rtol=1e-13)
    np.testing.assert_allclose(ntk(True, True)["ntk"], 2 * inner, rtol=1e-13)
    assert (ntk(False, False, relu)["ntk"] == 0).all()
    split = ntk(True, False, relu)["ntk"] + ntk(False, True, relu)["ntk"]
    np.testing.assert_allclose(split, everything["ntk"], rtol=1e-13)


def test_empty_sides_give_empty_blocks():
    assert Kernel(FC.layer).block(np.ones((0, 5)), np.ones((2, 5)))["ntk"].shape == (0, 2)


def test_equal_by_value_and_picklable():
    kernel = Kernel(FC.layer, ["ntk"], "float64")
    again = pickle.loads(pickle.dumps(kernel))
    assert again == kernel
    assert hash(again) == hash(kernel)
    assert again.fingerprint == FC.fingerprint
    assert kernel != Kernel(FC.layer, ["ntk"], "float32")


def test_precision_is_that_of_the_kernel_in_any_thread(rng):
    x = rng.normal(size=(4, 5))
    kernel = Kernel(FC.layer, BOTH, "float64")
    expected = kernel.block(x)["ntk"]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(kernel.block(x)["ntk"])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(r, expected) for r in results)
    assert not jax.config.jax_enable_x64


def test_what_does_not_fit_is_refused():
    kernel = Kernel(FC.layer)
    with pytest.raises(DataShapeError, match="rows"):
        kernel.block(np.ones(5))
    with pytest.raises(DataShapeError, match="one shape"):
        kernel.block(np.ones((2, 5)), np.ones((2, 6)))
    with pytest.raises(InvalidInputError, match="expected some of"):
        Kernel(FC.layer, ("ntkk",))
    for dtype in ("float16", ">f4"):
        with pytest.raises(InvalidInputError, match=dtype):
            Kernel(FC.layer, ("ntk",), dtype)


def test_flatten_before_all_else_is_the_flat_network(rng):
    x = rng.normal(size=(4, 3, 3, 2))
    dense = stax.serial(stax.Dense(1, W_std=1.4, b_std=0.1), stax.Relu(), stax.Dense(1))
    flat = Kernel(dense.layer, BOTH, "float64").block(x.reshape(4, -1))
    image = Kernel(stax.serial(stax.Flatten(), dense).layer, BOTH, "float64")
    flat_bytes = Kernel(dense.layer, BOTH).working_bytes((18,), 4, 4)
    assert image.working_bytes((3, 3, 2), 4, 4) < 2 * flat_bytes
    for name, values in image.block(x).items():
        np.testing.assert_allclose(values, flat[name], rtol=1e-14)


def test_near_duplicates_keep_their_digits_in_float32(rng):
    x = rng.normal(size=(40, 3)) + 100  # all directions within a degree or two
    single, double = (Kernel(FC.layer, BOTH, d).block(x) for d in ("float32", "float64"))
    for name in BOTH:
        np.testing.assert_allclose(single[name], double[name], rtol=3e-7)


def test_opposite_rows_compile_nothing_per_block(rng):
    kernel = Kernel(FC.layer)
    x = rng.normal(size=(40, 5))
    x = np.concatenate([x, -x])
    known = kernel.statistics(x)
    kernel.block(x[:43], None, known[:43])
    compiled = recursion._activation._cache_size()
    for n in (41, 42, 47, 80):
        kernel.block(x[:n], None, known[:n])
    assert recursion._activation._cache_size() == compiled


CIRCLE = stax.Conv(1, (3, 3), padding="CIRCULAR")
SQUARE = stax.Conv(1, (3, 3), padding="SAME")
PATHS = {
    "fully connected": (FC, (5,), True, "no layer sees spatial axes"),
    "smooth": (
        stax.serial(stax.Dense(1), stax.Rbf(), stax.Dense(1)),
        (5,),
        False,
        "no layer sees spatial axes; Rbf",
    ),
    "flat at once": (
        stax.serial(stax.Identity(), stax.serial(stax.Flatten(), stax.Dense(1))),
        (4, 4, 2),
        True,
        "no layer sees spatial axes",
    ),
    "pooled": (CONV, (4, 4, 2), True, "all pairs of the 4 × 4 positions"),
    "not pooled": (
        stax.serial(SQUARE, stax.Relu(), stax.Flatten()),
        (4, 4, 2),
        True,
        "no pooling mixes them",
    ),
    "one axis": (
        stax.serial(stax.Conv(1, (3,)), stax.Relu(), stax.GlobalAvgPool()),
        (9, 2),
        True,
        "all pairs of the 9 positions",
    ),
    "other activation": (
        stax.serial(SQUARE, stax.Erf(), stax.GlobalAvgPool()),
        (4, 4, 2),
        True,
        "all pairs of the 4 × 4 positions",
    ),
    "mixed paddings": (
        stax.serial(SQUARE, CIRCLE, stax.GlobalAvgPool()),
        (4, 4, 2),
        False,
        "wrap round stand beside",
    ),
    "pooled at once": (
        stax.serial(stax.GlobalAvgPool(), stax.Dense(1)),
        (4, 4, 2),
        False,
        "no layer precedes the pooling",
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_says_which_path_and_why(name):
    net, shape, fused, why = PATHS[name]
    choice = Kernel(net.layer).choice(shape, "cpu")
    assert choice.fused == fused
    assert why in choice.explanation
    assert choice.explanation.startswith("fused CPU engine" if fused else "reference recursion")
    elsewhere = Kernel(net.layer).choice(shape, "tpu")
    assert not elsewhere.fused
    assert ("runs on tpu" in elsewhere.explanation) == ("no layer sees" not in why)


def test_a_gpu_engine_that_is_not_there_is_named():
    net, shape, *_ = PATHS["pooled"]
    choice = Kernel(net.layer).choice(shape, "gpu")
    reason = available()
    assert choice.fused == (reason is None)
    assert reason is None or reason in choice.explanation


def test_explains_in_words_what_a_pair_takes_here():
    net, shape, _, why = PATHS["not pooled"]
    told = explain(net.layer, shape)
    assert why in told
    assert "flops a pair" in told
    assert "entries a second (" in told


def test_what_is_too_large_is_projected_but_not_measured():
    net, shape, *_ = PATHS["other activation"]
    projection = Kernel(net.layer).project((500, 500, 2))
    assert projection.entries_per_s is None
    assert projection.seconds(100) is None
    assert projection.flops_per_pair > 1e12
    assert projection.working_bytes > 2**29
    assert "too large" in str(projection)
    small = Kernel(net.layer).project(shape)
    assert small.seconds(2 * small.entries_per_s) == pytest.approx(2)


@pytest.mark.parametrize("name", ["fully connected", "pooled", "not pooled", "one axis"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
def test_fused_blocks_equal_the_recursion(name, dtype, tolerance, reference, rng):
    net, shape, fused, _ = PATHS[name]
    assert fused
    kernel = Kernel(net.layer, BOTH, dtype)
    x1, x2 = rng.normal(size=(4, *shape)), rng.normal(size=(19, *shape))
    x2[3], x2[7], x2[8], x2[9] = x1[1], -x1[0], -x1[2], 0
    known1, known2 = kernel.statistics(x1), kernel.statistics(x2)
    block = kernel.block(x1, x2, known1, known2)
    expected = reference(net.layer, x1, x2, known1, known2)
    opposite = kernel.block(x1[:1], -x1[:1])
    for which in BOTH:
        assert block[which].dtype == dtype
        assert block[which][1, 3] == known1.kernels[which][1] == known2.kernels[which][3]
        assert block[which][0, 7] == opposite[which][0, 0]
        generic = np.ones(block[which].shape, bool)
        generic[[1, 0, 2], [3, 7, 8]] = False
        atol = tolerance * np.abs(expected[which]).max()
        np.testing.assert_allclose(
            block[which][generic], expected[which][generic], rtol=tolerance, atol=atol
        )


def test_a_fused_block_takes_no_more_memory_than_it_says(rng):
    net = stax.serial(SQUARE, stax.Relu(), SQUARE, stax.Relu(), stax.GlobalAvgPool())
    kernel = Kernel(net.layer)
    x = rng.normal(size=(60, 16, 16, 3))
    known = kernel.statistics(x)
    kernel.block(x, x[::-1] + 1, known, known)
    tracemalloc.start()
    kernel.block(x, x[::-1] + 1, known, known)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    projected = kernel.working_bytes(x.shape[1:], 60, 60)
    assert 0.2 * projected < peak < projected + x.nbytes  # the shifted copy is not the block's


def test_opposite_images_equal_the_recursion(rng):
    net = stax.serial(
        SQUARE, stax.LeakyRelu(0.3), SQUARE, stax.GlobalAvgPool(), stax.Dense(1), stax.Relu()
    )
    kernel = Kernel(net.layer, BOTH, "float64")
    x = rng.normal(size=(3, 6, 5, 2))
    block = kernel.block(x, -x)
    exact = Recursion(net.layer, (6, 5, 2)).each_with_opposite(Side(x, []), True, 1)
    for name in BOTH:
        np.testing.assert_allclose(np.diag(block[name]), exact[name], rtol=1e-12)


def test_large_images_need_little_memory_where_only_the_last_pooling_mixes():
    net = stax.serial(SQUARE, stax.Relu(), SQUARE, stax.Relu(), stax.GlobalAvgPool())
    kernel, shape = Kernel(net.layer), (128, 128, 3)
    assert kernel.working_bytes(shape, 1, 1, 1) < 64 * 2**20
    assert kernel.statistics_working_bytes(shape, 1) < 64 * 2**20
    assert kernel.choice(shape).evaluation.recursion_bytes(True) > 2**33


def layers_of(draw):
    """A small architecture of Dense or Conv layers and activations."""
    convolutional = draw(st.booleans())
    activation = st.sampled_from(
        [build("Relu", {}), build("Abs", {}), build("LeakyRelu", {"alpha": 0.2}), build("Erf", {})]
    )
    affine = {"W_std": 1.4, "b_std": draw(st.sampled_from([None, 0.2]))}
    nodes = []
    for _ in range(draw(st.integers(1, 2))):
        if convolutional:
            padding = draw(st.sampled_from(["SAME", "CIRCULAR"]))
            nodes.append(stax.Conv(1, (3,), padding=padding, **affine))
        else:
            nodes.append(stax.Dense(1, **affine))
        nodes.append(stax.Network(draw(activation)))
    if convolutional:
        nodes.append(draw(st.sampled_from([stax.Flatten(), stax.GlobalAvgPool()])))
    return stax.serial(*nodes, stax.Dense(1)), convolutional


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_architectures_permute_and_are_positive(data):
    net, convolutional = layers_of(data.draw)
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 5, 2) if convolutional else (4, 5))
    kernel = Kernel(net.layer, BOTH, "float64")
    block, order = kernel.block(x), rng.permutation(4)
    shuffled = kernel.block(x[order])
    for name in BOTH:
        np.testing.assert_allclose(shuffled[name], block[name][np.ix_(order, order)], rtol=1e-12)
        eigenvalues = np.linalg.eigvalsh(block[name])
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
