import pickle
import re

import pytest

from ntk_dist import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def test_every_class_is_public_and_in_the_tree():
    found = {
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.NTKDistError)
    }
    assert found == set(CLASSES)
    for cls in CLASSES:
        assert re.search(rf"\b{cls.__name__}\b", errors.__doc__), cls.__name__


def test_codes_are_unique_names():
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_pickles_and_prints_its_sentence(cls):
    error = cls("expected 3 rows, got 2")
    assert str(error) == "expected 3 rows, got 2"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_exit_codes_and_http_statuses_are_the_documented_ones(cls):
    assert cls.exit_code in {1, 2, 3, 4}
    assert 400 <= cls.http_status < 600
    if issubclass(cls, errors.InvalidInputError):
        assert cls.exit_code == 2
        assert cls.http_status < 500


def test_the_builtin_parents_are_kept():
    assert issubclass(errors.InvalidInputError, ValueError)
    assert issubclass(errors.BlockNotFoundError, KeyError)
    assert issubclass(errors.StoreError, OSError)
    assert issubclass(errors.ExecutorUnreachableError, ConnectionError)
    assert issubclass(errors.MissingDependencyError, ImportError)
