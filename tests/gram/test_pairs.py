import jax.numpy as jnp
import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.errors import DataError, DataShapeError, NonFiniteDataError
from ntk_dist.gram.pairs import kernels_between

DENSE = stax.serial(stax.Dense(1, W_std=1.4), stax.Relu(), stax.Dense(1)).layer


def ntk(x1, x2=None):
    return kernels_between(DENSE, ("ntk",), x1, x2)["ntk"]


@pytest.mark.parametrize("dtype", [">f8", "longdouble"])
def test_every_float_of_eight_bytes_or_more_is_computed_in_float64(dtype, rng):
    x = rng.normal(size=(4, 3))
    kernel = ntk(x.astype(dtype))
    assert kernel.dtype == np.float64
    assert np.array_equal(kernel, ntk(x))
    assert np.array_equal(ntk(x.astype("float32"), x.astype(dtype)).dtype, np.float64)


@pytest.mark.parametrize("dtype", [">f4", "float16", "int8", "bool", jnp.bfloat16])
def test_other_real_numbers_are_computed_in_float32(dtype):
    x = np.array([[1, 0, 1], [0, 1, 1]])
    kernel = ntk(x.astype(dtype))
    assert kernel.dtype == np.float32
    assert np.array_equal(kernel, ntk(x.astype("float32")))


@pytest.mark.parametrize("x", [np.ones((2, 3), complex), [["a", "b"]], [[None, 1.0]]])
def test_samples_that_are_no_real_numbers_are_refused(x):
    with pytest.raises(DataError, match=r"x1: expected real numbers, got dtype (complex|<U1|obj)"):
        ntk(x)
    with pytest.raises(DataError, match="x2: expected real numbers"):
        ntk(np.ones((2, 3)), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_named(bad):
    x = np.ones((20, 3))
    x[3, 1] = x[7, 0] = bad
    with pytest.raises(NonFiniteDataError, match=r"x1: .* in 2 of 20 rows: 3, 7; remove"):
        ntk(x)
    x[:, 2] = bad
    with pytest.raises(NonFiniteDataError, match=r"x2: .* in 20 of 20 rows: 0, .*, 9, \.\.\.;"):
        ntk(np.ones((2, 3)), x)
    with pytest.raises(DataShapeError):
        ntk(2.0)


def test_a_kernel_that_overflows_is_refused():
    large = np.full((2, 3), 1e25)
    with pytest.raises(NonFiniteDataError, match=r"3\.4e\+38 \(float32\).*scale.*float64"):
        ntk(large.astype("float32"))
    assert np.isfinite(ntk(large)).all()
    with pytest.raises(NonFiniteDataError, match=r"1\.8e\+308 \(float64\), got more: scale"):
        ntk(large * 1e150)
