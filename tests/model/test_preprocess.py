import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from ntk_dist.errors import DataShapeError, InvalidInputError
from ntk_dist.model import preprocess
from ntk_dist.model.preprocess import Preprocessor, normalize_steps


def test_standardize_is_that_of_scikit_learn(rng):
    x = rng.normal(3, 5, size=(50, 4))
    x[:, 2] = 0.1  # constant up to rounding
    fitted = Preprocessor.fit(["standardize"], x)
    np.testing.assert_allclose(
        fitted.transform(x, "float64"), StandardScaler().fit_transform(x), atol=1e-12
    )


def test_channels_share_one_mean_and_deviation(rng):
    x = rng.normal(3, 5, size=(20, 6, 6, 3)) * [1, 10, 100]
    out = Preprocessor.fit(["standardize_channels"], x).transform(x, "float64")
    np.testing.assert_allclose(out.mean(axis=(0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(out.std(axis=(0, 1, 2)), 1, atol=1e-12)


def test_unit_norm_leaves_zero_rows_alone(rng):
    x = rng.normal(size=(5, 2, 3))
    x[3] = 0
    out = Preprocessor.fit(["unit_norm"], x).transform(x, "float64")
    norms = np.linalg.norm(out.reshape(5, -1), axis=1)
    np.testing.assert_allclose(norms, [1, 1, 1, 0, 1])


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_unit_norm_takes_any_scale(rng, scale):
    x = rng.normal(size=(5, 3))
    out = Preprocessor.fit(["unit_norm"], scale * x).transform(scale * x, "float64")
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1)


def test_zca_whitens_up_to_its_ridge(rng):
    x = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 2
    out = Preprocessor.fit([{"name": "zca", "ridge": 1e-9}], x).transform(x, "float64")
    np.testing.assert_allclose(out.T @ out / len(x), np.eye(6), atol=1e-5)
    # ZCA is the symmetric square root: the whitened data stays as close as it can to the data.
    assert np.trace(out.T @ (x - x.mean(axis=0))) > 0
    strong = Preprocessor.fit([{"name": "zca", "ridge": 10.0}], x).transform(x, "float64")
    assert np.var(strong) < np.var(out)


def test_steps_follow_each_other(rng):
    x = rng.normal(2, 3, size=(30, 4))
    once = Preprocessor.fit(["standardize"], x).transform(x, "float64")
    both = Preprocessor.fit(["standardize", "unit_norm"], x).transform(x, "float64")
    np.testing.assert_allclose(both, once / np.linalg.norm(once, axis=1, keepdims=True))


def test_statistics_come_from_training_rows_only(rng):
    train, test = rng.normal(size=(30, 4)), rng.normal(5, 1, size=(10, 4))
    fitted = Preprocessor.fit(["standardize"], train)
    expected = (test - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(fitted.transform(test, "float64"), expected)


def test_pieces_do_not_change_the_numbers(rng, monkeypatch):
    x = rng.integers(0, 255, size=(60, 4, 4, 3)).astype(np.uint8)
    steps = ["standardize_channels", "zca"]
    whole = Preprocessor.fit(steps, x).transform(x, "float64")
    monkeypatch.setattr(preprocess, "PIECE_BYTES", 4000)
    np.testing.assert_allclose(Preprocessor.fit(steps, x).transform(x, "float64"), whole, atol=1e-9)


def test_no_steps_only_convert(rng):
    x = rng.integers(0, 255, size=(6, 3)).astype(np.uint8)
    out = Preprocessor.fit([], x).transform(x, "float32")
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["standardise"], "did you mean 'standardize'"),
        ([{"zca": 1}], "{name: STEP, .* a step among standardize, .* got the keys 'zca'$"),
        ([{"nam": "zca", "ridge": 1}], "got the keys 'nam', 'ridge'$"),
        ([{}], "got the keys of none$"),
        ([{"name": "zca", "epsilon": 1}], "zca has no option 'epsilon'; it has: ridge"),
        ("standardize", "expected a list"),
        (5, "expected a list"),
        ([5], "a name or a mapping"),
        ([{"name": ["zca"]}], "expected a step among"),
        ([{"name": "zca", "ridge": "abc"}], "zca: ridge: expected a finite number, got 'abc'"),
        ([{"name": "zca", "ridge": float("inf")}], "finite number"),
        ([{"name": "zca", "ridge": 10**400}], "finite number"),
        ([{"name": "zca", "ridge": 0}], "zca: expected ridge > 0, got 0"),
    ],
)
def test_unknown_steps_and_options_are_named(steps, words):
    with pytest.raises(InvalidInputError, match=words):
        normalize_steps(steps)


def test_other_shapes_are_refused(rng):
    fitted = Preprocessor.fit(["standardize"], rng.normal(size=(5, 3)))
    with pytest.raises(DataShapeError, match=r"\(3,\), got \(4,\)"):
        fitted.transform(rng.normal(size=(5, 4)), "float32")
