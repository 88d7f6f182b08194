from __future__ import annotations

import os
import pickle

import pytest

from ntk_dist.errors import BlockCorruptError
from ntk_dist.executors.outcome import attempt, attempt_remotely


class TwoArguments(ValueError):
    """Pickles, and then cannot be made again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def raise_(error: BaseException) -> None:
    raise error


def test_a_value_names_its_process() -> None:
    outcome = attempt(max, 2, 3)
    assert (outcome.value, outcome.error) == (3, None)
    assert f"process {os.getpid()}" in outcome.where


def test_an_error_keeps_its_class_and_brings_its_traceback_as_text() -> None:
    outcome = attempt_remotely(raise_, BlockCorruptError("block (1, 2)"))
    copy = pickle.loads(pickle.dumps(outcome))
    assert type(copy.error) is BlockCorruptError
    assert copy.retryable
    assert "in raise_" in copy.error.__notes__[0]
    assert copy.error.__traceback__ is None


@pytest.mark.parametrize("error", [TwoArguments(1, 2), OSError(lambda: 0)], ids=["make", "dump"])
def test_an_error_that_does_not_pickle_is_told_by_another(error: Exception) -> None:
    outcome = attempt_remotely(raise_, error)
    copy = pickle.loads(pickle.dumps(outcome))
    assert type(copy.error) is RuntimeError
    assert str(error) in str(copy.error)
    assert type(error).__name__ in str(copy.error)
    assert copy.retryable == isinstance(error, OSError)


def test_an_exit_is_a_failure_and_an_interrupt_is_not_caught() -> None:
    assert not attempt(raise_, SystemExit(1)).retryable
    with pytest.raises(KeyboardInterrupt):
        attempt(raise_, KeyboardInterrupt())
