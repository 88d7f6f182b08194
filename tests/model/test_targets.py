import numpy as np
import pandas
import pytest

from ntk_dist.errors import LabelError
from ntk_dist.model.targets import encode_classes, encode_targets


def test_classes_become_one_hot_minus_their_share():
    classes, targets = encode_classes(["b", "a", "c", "a"], 4)
    assert list(classes) == ["a", "b", "c"]
    np.testing.assert_allclose(targets.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(targets[0], [-1 / 3, 2 / 3, -1 / 3])


def test_two_classes_need_one_column():
    classes, targets = encode_classes([7, 3, 3], 3)
    assert list(classes) == [3, 7]
    np.testing.assert_allclose(targets, [[0.5], [-0.5], [-0.5]])


def test_object_labels_become_plain_ones():
    classes, _ = encode_classes(np.array(["x", "y"], dtype=object), 2)
    assert classes.dtype.kind == "U"


@pytest.mark.parametrize(
    ("labels", "n_rows", "words"),
    [
        ([1, 1, 1], 3, "at least two classes, got one class"),
        ([1, 2], 3, "3 rows, got 2"),
        (None, 3, "requires y to be passed"),
        ([0.5, 1.7, 2.2], 3, "continuous"),
        ([0.0, np.nan, 1.0], 3, "NaN"),
        (np.array(["a", None, "b"], dtype=object), 3, "labels: .* NA in 1 rows of 3: 1$"),
        (np.array(["a", "b", np.nan, "b"], dtype=object), 4, "labels: .* NA in 1 rows of 4: 2$"),
        (np.array([0, 1j, 0]), 3, "labels: Complex data not supported$"),
    ],
)
def test_labels_that_define_no_problem_are_refused(labels, n_rows, words):
    with pytest.raises(LabelError, match=words):
        encode_classes(labels, n_rows)


@pytest.mark.parametrize(
    ("targets", "n_rows", "words"),
    [
        ([1.0, 2.0], 3, "3 rows, got 2"),
        ([1.0, np.inf, 2.0], 3, "infinity"),
        (["a", "b"], 2, "targets"),
        (np.zeros((2, 2, 2)), 2, "targets"),
        (None, 2, "requires y"),
        ([1.0, None], 2, "targets: .* NA in 1 rows of 2: 1$"),
        (np.array([0.1 + 1j, 2]), 2, "targets: Complex data not supported$"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(targets, n_rows, words):
    with pytest.raises(LabelError, match=words):
        encode_targets(targets, n_rows)


def test_columns_of_a_table_with_missing_entries_are_refused_with_their_rows():
    for kind in ("string", "category", object):
        column = pandas.Series(["a", "b", pandas.NA, "b"], dtype=kind)
        with pytest.raises(LabelError, match=r"labels: Input y contains .* in 1 rows of 4: 2$"):
            encode_classes(column, 4)
    assert list(encode_classes(pandas.Series(["b", "a"], dtype="string"), 2)[0]) == ["a", "b"]


def test_targets_keep_their_shape():
    assert encode_targets([1, 2, 3], 3).shape == (3,)
    assert encode_targets(np.ones((3, 2), int), 3).dtype == np.float64
