import pickle
import re

import pytest

from ntk_dist import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn_tree():
    """Name to (parents, exit code, HTTP status), as the docstring of ``errors`` draws them."""
    rows, above = {}, []
    line = re.compile(
        r"    ([ │├└─]*)(\w+Error)(?: \((\w+)\))?(?: +([1-9]))?(?: +(\d{3}))?(?:  .*)?"
    )
    for text in errors.__doc__.partition("::\n\n")[2].splitlines():
        branch, name, builtin, exit_code, status = line.fullmatch(text).groups()
        assert name not in rows, name
        del above[len(branch) // 5 :]
        parents = {above[-1] if above else "Exception"} | ({builtin} - {None})
        _, code_above, status_above = rows[above[-1]] if above else (None, None, None)
        rows[name] = parents, int(exit_code or code_above), int(status or status_above)
        above.append(name)
    return rows


def test_every_class_is_public():
    found = {
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.NTKDistError)
    }
    assert found == set(CLASSES)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    real = {
        cls.__name__: ({base.__name__ for base in cls.__bases__}, cls.exit_code, cls.http_status)
        for cls in CLASSES
    }
    assert drawn_tree() == real


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
def test_exit_codes_and_http_statuses_are_of_the_kinds_that_there_are(cls):
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
