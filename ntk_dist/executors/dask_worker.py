"""What runs inside a Dask worker: tasks, and the shards that live there.

A shard belongs to a Dask task that says where it is, and goes with it. The scheduler keeps a task
for as long as a client wants its answer: no shard outlives its driver, however that one ended.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
from distributed import get_worker

from ntk_dist.executors.outcome import AttemptFailed, Outcome, WorkerLostError, attempt_remotely

__all__ = ["add_kept", "call_shard", "hold_shard", "keep_answer", "run_task"]


class _Held:
    """A shard, built when it is asked for."""

    def __init__(self, recipe: bytes) -> None:
        self._recipe = recipe
        self._shard: Any = None

    def shard(self) -> Any:
        if self._shard is None:
            factory, assignment = cloudpickle.loads(self._recipe)
            self._shard = factory(assignment)
        return self._shard


_HELD: WeakKeyDictionary[Any, _Held] = WeakKeyDictionary()
"""By what this worker knows of the task that each belongs to. That task's answer would not do: Dask
may write it to disk when memory is short, and drop the object."""


@lru_cache(maxsize=2)  # few, because a task may hold inputs
def _load(pickled: bytes) -> Any:
    """One task object per worker, however many items it gets."""
    return cloudpickle.loads(pickled)


def run_task(pickled: bytes, item: Any) -> Outcome:
    """What came of a pickled task with one item."""
    return attempt_remotely(lambda: _load(pickled)(item))


def hold_shard(recipe: bytes) -> str:
    """The name of a shard that is here from now on, until Dask forgets this task."""
    worker = get_worker()
    name: str = worker.get_current_task()
    _HELD[worker.state.tasks[name]] = _Held(recipe)
    return name


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


def _answer(name: str, method: str, args: tuple[Any, ...]) -> Any:
    task = get_worker().state.tasks.get(name)
    held = None if task is None else _HELD.get(task)
    if held is None:
        # The name alone has come here: Dask moves answers when it empties a worker.
        raise WorkerLostError("the worker process that held this shard is gone")
    return getattr(held.shard(), method)(*args)
