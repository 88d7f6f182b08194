import numpy as np
import pytest

from ntk_dist.errors import InvalidInputError
from ntk_dist.model.parameters import Parameters


def test_numpy_scalars_are_the_numbers_they_are():
    given = {
        "ridge": np.float32(0.5),
        "block_rows": np.int64(30),
        "rank": np.int32(5),
        "max_steps": np.int16(9),
        "architecture": object(),  # not ours to judge
    }
    parameters = Parameters.checked(given)
    assert parameters.model_dump(exclude_defaults=True) == {
        "ridge": 0.5,
        "block_rows": 30,
        "rank": 5,
        "max_steps": 9,
    }


@pytest.mark.parametrize("refine", [False, True, 0, 3])
def test_refined_fits_keep_float64(refine):
    parameters = Parameters.checked({"refine": refine})
    assert parameters.refine is refine
    assert (parameters.dtype, parameters.exact_dtype) == (
        "float32",
        "float64" if refine else "float32",
    )


def test_a_problem_of_a_union_is_named_without_its_arms():
    with pytest.raises(InvalidInputError) as caught:
        Parameters.checked({"refine": "yes"})
    assert "bool:" not in str(caught.value)
    assert "int:" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [[1, 0.5], (1.0, 0.5), np.array([1.0, 0.5]), [np.float64(1), np.float32(0.5)]]
)
def test_ridges_to_choose_from_are_plain_numbers(given):
    parameters = Parameters.checked({"ridge": given})
    assert parameters.ridge == (1.0, 0.5)
    assert {type(ridge) for ridge in parameters.ridge} == {float}
    assert Parameters.checked(parameters.model_dump(mode="json")) == parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ridge", "a"),
        ("ridge", None),
        ("ridge", []),
        ("ridge", [0.1, -1.0]),
        ("ridge", [True]),
        ("ridge", [[1.0]]),
        ("ridge", np.array([1.0, np.inf])),
        ("ridge", 10**400),
        ("ridge", [0.1, 10**400]),
        ("warm_start", 1),
        ("ridge", float("nan")),
        ("tol", 1),
        ("tol", 0.0),
        ("block_rows", 1.5),
        ("block_rows", True),
        ("rank", "big"),
        ("rank", 0),
        ("max_steps", 1.5),
        ("random_state", -1),
        ("random_state", np.random.default_rng(0)),
        ("kernel", []),
        ("dtype", "float16"),
        ("tol", 1e-15),
        ("refine", -1),
        ("refine", "yes"),
        ("preconditioner", "cholesky"),
    ],
)
def test_what_makes_no_sense_is_named(name, value):
    with pytest.raises(InvalidInputError, match=f"^{name}: "):
        Parameters.checked({name: value})
