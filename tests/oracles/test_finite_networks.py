"""The kernels against wide random finite networks, averaged over their random weights.

The NNGP is the product of last-layer features; the NTK is the inner product of gradients. The
allowance is five standard errors of the mean, plus the first order in one over the width by which
a finite network differs in expectation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.kernels.branching import Serial

DRAWS = 128
WIDTH = 128


def conv(**arguments):
    return stax.Conv(WIDTH, (3, 3), padding="SAME", W_std=1.4, b_std=0.2, **arguments)


def dense(**arguments):
    return stax.Dense(WIDTH, W_std=1.4, b_std=0.3, **arguments)


NETWORKS = {
    "fc_relu": ((5,), [dense(), stax.Relu(), dense(), stax.Relu()]),
    "fc_gelu_standard": (
        (5,),
        [dense(parameterization="standard"), stax.Gelu(), dense(), stax.Sigmoid_like()],
    ),
    "fc_sin_cos_rbf": (
        (5,),
        [
            dense(),
            stax.Sin(1.1, 0.7, 0.4),
            dense(),
            stax.Cos(0.9, 0.6, 0.3),
            dense(),
            stax.Rbf(0.4),
        ],
    ),
    "fc_layernorm": ((5,), [dense(), stax.LayerNorm(), stax.LeakyRelu(0.2), dense(), stax.Erf()]),
    "fc_frozen": ((5,), [dense(trainable=False), stax.Relu(), dense(), stax.Relu()]),
    "residual": (
        (5,),
        [
            dense(),
            stax.FanOut(2),
            stax.parallel(stax.serial(stax.Relu(), dense()), stax.Identity()),
            stax.FanInSum(),
            stax.Abs(),
        ],
    ),
    "conv_pool": (
        (4, 4, 2),
        [
            conv(),
            stax.Relu(),
            stax.AvgPool((2, 2), padding="SAME", normalize_edges=True),
            conv(strides=(2, 2)),
            stax.ABRelu(-0.3, 1.0),
            stax.GlobalAvgPool(),
        ],
    ),
    "conv_circular_layernorm_flatten": (
        (4, 4, 2),
        [
            stax.Conv(WIDTH, (2, 3), padding="CIRCULAR", W_std=1.4),
            stax.LayerNorm((1, 2, 3)),
            stax.Relu(),
            stax.SumPool((2, 1), (2, 1)),
            stax.Flatten(),
        ],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_are_the_mean_over_wide_networks(name, rng):
    input_shape, hidden = NETWORKS[name]
    net = stax.serial(*hidden, stax.Dense(1, W_std=1.2, b_std=0.1))
    features = stax.Network(Serial(net.layer.layers[:-1]))
    x = rng.normal(size=(3, *input_shape)).astype("float32")
    x[2] *= 0.3
    exact = net.kernel_fn(x.astype("float64"), get=("nngp", "ntk"))

    def draw(key):
        _, parameters = net.init_fn(key, x.shape)
        last = features.apply_fn(parameters[:-1], x)
        nngp = 1.2**2 * (last @ last.T) / last.shape[-1] + 0.1**2
        jacobian = jax.jacobian(lambda p: net.apply_fn(p, x)[:, 0])(parameters)
        flat = [j.reshape(3, -1) for j in jax.tree.leaves(jacobian)]
        return nngp, sum(j @ j.T for j in flat)

    keys = jax.random.split(jax.random.key(7), DRAWS)
    draws = [np.asarray(d, "float64") for d in jax.lax.map(jax.jit(draw), keys, batch_size=8)]
    for samples, expected in zip(draws, exact, strict=True):
        standard_error = samples.std(axis=0, ddof=1) / np.sqrt(DRAWS)
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert (standard_error < 0.03 * scale).all()  # else the comparison would say nothing
        allowance = 5 * standard_error + 2 / WIDTH * scale
        assert (np.abs(samples.mean(axis=0) - expected) <= allowance).all()


def test_finite_network_passes_branches_on():
    net = stax.serial(stax.Dense(4), stax.FanOut(3))
    _, parameters = net.init_fn(jax.random.key(0), (-1, 2))
    assert len(net.apply_fn(parameters, jnp.ones((5, 2)))) == 3
