"""What runs inside a Dask worker: tasks, and the shards that live there."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import cloudpickle

from ntk_dist.executors.outcome import AttemptFailed, Outcome, WorkerLostError, attempt_remotely

__all__ = ["add_kept", "call_shard", "drop_shards", "keep_answer", "run_task"]

_SHARDS: dict[tuple[str, int], Any] = {}


@lru_cache(maxsize=2)  # few, because a task may hold inputs
def _load(pickled: bytes) -> Any:
    """One task object per worker, however many items it gets."""
    return cloudpickle.loads(pickled)


def run_task(pickled: bytes, item: Any) -> Outcome:
    """What came of a pickled task with one item."""
    return attempt_remotely(lambda: _load(pickled)(item))


def call_shard(
    key: tuple[str, int], recipe: bytes | None, method: str, args: tuple[Any, ...]
) -> Outcome:
    """What came of asking a shard, which is built first if its recipe is sent along."""
    return attempt_remotely(_answer, key, recipe, method, args)


def keep_answer(
    key: tuple[str, int], recipe: bytes | None, method: str, args: tuple[Any, ...]
) -> Outcome:
    """What came of asking a shard, for Dask to keep here until it is added to another.

    Raises
    ------
    AttemptFailed
        With the outcome, if it is an error: nobody looks into what stays.
    """
    outcome = attempt_remotely(_answer, key, recipe, method, args)
    if outcome.error is not None:
        raise AttemptFailed(outcome)
    return outcome


def add_kept(first: Outcome, second: Outcome) -> Outcome:
    """The sum of two answers that were kept, with all that was reported on the way to them."""
    events = first.events + second.events
    return replace(first, value=first.value + second.value, events=events)


def _answer(key: tuple[str, int], recipe: bytes | None, method: str, args: tuple[Any, ...]) -> Any:
    if recipe is not None:
        _SHARDS.pop(key, None)
        factory, assignment = cloudpickle.loads(recipe)
        _SHARDS[key] = factory(assignment)
    elif key not in _SHARDS:
        # Another process may have come back at the same address.
        raise WorkerLostError("the worker process that held this shard is gone")
    return getattr(_SHARDS[key], method)(*args)


def drop_shards(shards_id: str) -> None:
    """Let go of the shards of one group."""
    for key in [key for key in _SHARDS if key[0] == shards_id]:
        del _SHARDS[key]
