import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.errors import (
    ArchitectureError,
    DataShapeError,
    InvalidInputError,
    NonFiniteDataError,
)

NET = stax.serial(
    stax.Conv(6, (3, 3), (1, 1), "SAME", 2**0.5, 0.1),
    stax.Relu(),
    stax.AvgPool((2, 2), (2, 2)),
    stax.Flatten(),
    stax.Dense(1, W_std=1.2),
)


def test_kernel_fn_returns_what_was_asked_for(rng):
    x1, x2 = rng.normal(size=(3, 4, 4, 2)), rng.normal(size=(2, 4, 4, 2))
    both = NET.kernel_fn(x1, x2, ("nngp", "ntk"))
    assert both._fields == ("nngp", "ntk")
    assert both.ntk.shape == (3, 2)
    assert both.ntk.dtype == np.float64
    assert np.array_equal(NET.kernel_fn(x1, x2), both.ntk)
    assert np.array_equal(NET.kernel_fn(x1, x2, get="nngp"), both.nngp)
    single = NET.kernel_fn(x1.astype("float32"), jnp.asarray(x2))
    np.testing.assert_allclose(single, both.ntk, rtol=1e-5)


def test_float32_and_integers_are_computed_in_float32(rng):
    x = rng.integers(0, 255, size=(2, 4, 4, 2))
    assert NET.kernel_fn(x).dtype == np.float32
    assert np.array_equal(NET.kernel_fn(x), NET.kernel_fn(x.astype("float32")))


def test_a_network_unpacks_as_three_functions(rng):
    init_fn, apply_fn, kernel_fn = NET
    assert (NET[0], NET[1], NET[2]) == (init_fn, apply_fn, kernel_fn)
    assert NET[-1:] == (kernel_fn,)
    shape, parameters = init_fn(jax.random.key(0), (-1, 4, 4, 2))
    assert shape == (-1, 1)
    assert apply_fn(parameters, jnp.ones((3, 4, 4, 2))).shape == (3, 1)
    assert kernel_fn(rng.normal(size=(2, 4, 4, 2))).shape == (2, 2)


def test_repr_is_the_code_that_builds_it():
    nets = [
        NET,
        stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), stax.Dense(3)), stax.FanInSum()),
        stax.LayerNorm(eps=1e-5),
        stax.ABRelu(-1, 2),
    ]
    for net in nets:
        assert eval(repr(net)) == net
        assert hash(eval(repr(net))) == hash(net)
        assert stax.from_json(net.to_json()) == net
    assert repr(stax.Dense(3, b_std=0.1)) == "stax.Dense(3, b_std=0.1)"


def test_every_layer_is_public_and_its_signature_builds_it():
    required = {
        "ABRelu": (1, 2),
        "AvgPool": ((2, 2),),
        "SumPool": ((2, 2),),
        "Conv": (1, (3, 3)),
        "Dense": (1,),
        "FanOut": (2,),
        "LeakyRelu": (0.1,),
    }
    functions = set(stax.__all__) - {"Network", "from_json", "serial", "parallel", "repeat"}
    for name in functions:
        function = getattr(stax, name)
        net = function(*required.get(name, ()))
        assert type(net.layer).__name__ == name
        defaults = {
            p.name: p.default
            for p in inspect.signature(function).parameters.values()
            if p.default is not p.empty
        }
        assert function(*required.get(name, ()), **defaults) == net


def test_do_stabilize_is_accepted_and_changes_nothing():
    assert stax.Relu(do_stabilize=True) == stax.Relu()


def test_repeat_is_a_row_of_copies():
    block = stax.serial(stax.Dense(1), stax.Relu())
    assert stax.repeat(block, 3).layer == stax.serial(block, block, block).layer
    with pytest.raises(ArchitectureError, match="at least 1"):
        stax.repeat(block, 0)


def test_only_networks_can_be_combined():
    with pytest.raises(ArchitectureError, match=r"call it: Relu\(\)"):
        stax.serial(stax.Dense(1), stax.Relu)
    with pytest.raises(ArchitectureError, match="as layer 1"):
        stax.parallel("Relu")


DENSE = stax.serial(stax.Dense(1, W_std=1.4), stax.Relu(), stax.Dense(1))


def test_samples_without_a_kernel_are_refused():
    with pytest.raises(NonFiniteDataError, match=r"x2: .* in 1 of 2 rows: 1; remove"):
        DENSE.kernel_fn([[1, 2]], [[1, 2], [np.inf, 2]])


@pytest.mark.parametrize("get", [None, 3, ["ntk", 3], "cov1", (), ("ntk", "ntk")])
def test_a_kernel_must_be_named(get):
    with pytest.raises(InvalidInputError, match="expected"):
        DENSE.kernel_fn(np.ones((2, 3)), get=get)


def test_layers_nested_deeper_than_the_stack_goes_are_refused(rng):
    net = stax.Dense(1)
    for _ in range(200):
        net = stax.serial(net)
    assert stax.from_json(net.to_json()) == net
    assert pickle.loads(pickle.dumps(net)) == net
    assert net.kernel_fn(rng.normal(size=(2, 3))).shape == (2, 2)
    with pytest.raises(ArchitectureError, match="serial: expected layers nested at most 200"):
        stax.serial(net)
    with pytest.raises(ArchitectureError, match="parallel: expected layers nested at most 200"):
        stax.parallel(net, stax.Identity())
    text = '["serial", ' * 300 + '["Relu"]' + "]" * 300
    with pytest.raises(ArchitectureError, match="serial: expected layers nested at most 200"):
        stax.from_json(text)


@pytest.mark.parametrize("shape", [(), (4,), (2, 0), (2, -1), (2, 3.5), (2, None)])
def test_a_finite_network_needs_the_shape_of_a_batch(shape):
    with pytest.raises(DataShapeError, match="input_shape: expected that of a batch"):
        DENSE.init_fn(jax.random.key(0), shape)


def test_brackets_nested_without_end_are_refused():
    depth = 100_000
    nested = []
    for _ in range(depth):
        nested = ["serial", nested]
    for text in ("[" * depth, '["serial",' * depth + '["Relu"]' + "]" * depth, nested):
        with pytest.raises(ArchitectureError, match="nested a few levels"):
            stax.from_json(text)
