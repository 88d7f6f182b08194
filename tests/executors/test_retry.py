from __future__ import annotations

import errno
import pickle

import pytest

from ntk_dist.errors import (
    BlockCorruptError,
    BlockNotFoundError,
    DataError,
    ExecutorUnreachableError,
    ManifestMismatchError,
    MissingDependencyError,
    NotConvergedError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
    TaskError,
)
from ntk_dist.executors.retry import RetryPolicy, is_retryable, is_straggler


@pytest.mark.parametrize(
    "error",
    [
        BlockCorruptError("damaged"),
        StoreUnreachableError("no answer"),
        StoreError("odd"),
        OSError("odd"),
        ConnectionResetError("worker gone"),
        TimeoutError("slow"),
        MemoryError(),
        RuntimeError("unknown"),
    ],
    ids=repr,
)
def test_what_another_try_may_mend(error: Exception) -> None:
    assert is_retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        DataError("NaN"),
        StoreFullError("full"),
        BlockNotFoundError("absent"),
        ManifestMismatchError("other"),
        ExecutorUnreachableError("gone"),
        MissingDependencyError("dask"),
        TaskError("inner"),
        NotConvergedError("no"),
        OSError(errno.ENOSPC, "no space"),
        PermissionError("denied"),
        TypeError("argument"),
        ValueError("value"),
        KeyError("key"),
        ZeroDivisionError("zero"),
        ModuleNotFoundError("module"),
        pickle.PicklingError("lambda"),
        SystemExit(3),
    ],
    ids=repr,
)
def test_what_no_other_try_can_mend(error: BaseException) -> None:
    assert not is_retryable(error)


def test_pauses_grow_up_to_the_limit_and_repeat_exactly() -> None:
    retry = RetryPolicy(backoff_s=0.1, backoff_factor=4.0, backoff_max_s=5.0)
    pauses = [retry.pause_s(failures) for failures in (1, 2, 3, 4, 5, 10_000)]
    assert pauses == pytest.approx([0.1, 0.4, 1.6, 5.0, 5.0, 5.0])


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"timeout_s": 0.0}, {"backoff_s": -1.0}], ids=str
)
def test_a_policy_without_meaning_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("elapsed_s", "finished_s", "expected"),
    [
        (31.0, [10.0] * 5, True),
        (29.0, [10.0] * 5, False),
        (31.0, [10.0] * 4, False),  # too few to know
        (1.9, [0.1] * 50, False),  # a twin costs more than it saves
        (2.1, [0.1] * 50, True),
        (31.0, [10.0, 10.0, 10.0, 10.0, 9000.0], True),  # one other straggler moves no median
    ],
)
def test_straggler(elapsed_s: float, finished_s: list[float], expected: bool) -> None:
    assert is_straggler(elapsed_s, finished_s, RetryPolicy()) is expected


def test_no_twins_when_they_are_off() -> None:
    assert not is_straggler(1e9, [1.0] * 100, RetryPolicy(straggler_factor=None))
