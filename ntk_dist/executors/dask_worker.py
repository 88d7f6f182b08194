"""What runs inside a Dask worker: tasks, and the shards that live there.

A shard belongs to the Dask task that built it and goes with it. The scheduler keeps a task for as
long as a client wants its answer, so no shard outlives its driver, however that one ended.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
from distributed import get_worker

from ntk_dist.executors.outcome import AttemptFailed, Outcome, WorkerLostError, attempt_remotely

__all__ = ["add_kept", "build_shard", "call_shard", "keep_answer", "run_task"]

_SHARDS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""By what this worker knows of the task that built each. Its answer would not do: Dask may write
that to disk when memory is short, and forget the object."""


@lru_cache(maxsize=2)  # few, because a task may hold inputs
def _load(pickled: bytes) -> Any:
    """One task object per worker, however many items it gets."""
    return cloudpickle.loads(pickled)


def run_task(pickled: bytes, item: Any) -> Outcome:
    """What came of a pickled task with one item."""
    return attempt_remotely(lambda: _load(pickled)(item))


def build_shard(recipe: bytes) -> str:
    """The name of a shard that is here from now on, until Dask forgets this task.

    Raises
    ------
    AttemptFailed
        With the outcome: whoever calls the shard is told.
    """
    outcome = attempt_remotely(_build, recipe)
    if outcome.error is not None:
        raise AttemptFailed(outcome)
    return str(outcome.value)


def call_shard(name: str, method: str, args: tuple[Any, ...]) -> Outcome:
    """What came of asking a shard."""
    return attempt_remotely(_answer, name, method, args)


def keep_answer(name: str, method: str, args: tuple[Any, ...]) -> Outcome:
    """What came of asking a shard, for Dask to keep here until it is added to another.

    Raises
    ------
    AttemptFailed
        With the outcome, if it is an error: nobody looks into what stays.
    """
    outcome = attempt_remotely(_answer, name, method, args)
    if outcome.error is not None:
        raise AttemptFailed(outcome)
    return outcome


def add_kept(first: Outcome, second: Outcome) -> Outcome:
    """The sum of two answers that were kept, with all that was reported on the way to them."""
    events = first.events + second.events
    return replace(first, value=first.value + second.value, events=events)


def _build(recipe: bytes) -> Any:
    factory, assignment = cloudpickle.loads(recipe)
    worker = get_worker()
    name = worker.get_current_task()
    _SHARDS[worker.state.tasks[name]] = factory(assignment)
    return name


def _answer(name: str, method: str, args: tuple[Any, ...]) -> Any:
    built = get_worker().state.tasks.get(name)
    shard = None if built is None else _SHARDS.get(built)
    if shard is None:
        # The name alone has come here: Dask moves answers when it empties a worker.
        raise WorkerLostError("the worker process that held this shard is gone")
    return getattr(shard, method)(*args)
