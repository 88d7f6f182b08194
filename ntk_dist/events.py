"""What long work reports while it runs: one small record per happening.

Lower layers emit events to whoever passed an ``on_event`` callable and know nothing of bars,
logs or services; :mod:`ntk_dist.jobs.progress` turns them into something to look at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CheckpointEvent",
    "Clock",
    "Event",
    "EventSink",
    "PhaseEvent",
    "StepEvent",
    "TaskEvent",
    "ignore",
]


@dataclass(frozen=True, kw_only=True)
class PhaseEvent:
    """A phase of a job began or ended."""

    phase: str
    """``ingest``, ``adopt``, ``statistics``, ``gram``, ``ridge``, ``precondition``, ``solve`` or
    ``predict``."""
    state: Literal["started", "finished"]
    total: int | None = None
    """How many tasks or steps the phase has, where that is known."""
    done: int = 0
    """How many of them were already there when it started (a resumed run)."""
    seconds: float | None = None
    """Wall time, once finished."""


@dataclass(frozen=True, kw_only=True)
class TaskEvent:
    """Something happened to one task on an executor."""

    state: Literal["done", "retried", "duplicated", "failed"]
    item: str
    """The task's item, as text."""
    attempt: int
    """1 for the first try."""
    seconds: float | None = None
    """From submission to completion, in seconds."""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """The solver finished a step."""

    step: int
    residuals: tuple[float, ...]
    """Relative residual of every target, converged ones included."""
    tol: float
    """The residual asked for."""


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """The solver wrote its state down, or goes on from what an earlier run wrote down."""

    state: Literal["saved", "resumed"]
    step: int


Event = PhaseEvent | TaskEvent | StepEvent | CheckpointEvent
EventSink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink that drops everything."""


class Clock:
    """Seconds of every phase, announced as events."""

    def __init__(self, on_event: EventSink = ignore) -> None:
        self.on_event = on_event
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, total: int | None = None, done: int = 0) -> Iterator[None]:
        """Time what happens inside."""
        self.on_event(PhaseEvent(phase=name, state="started", total=total, done=done))
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.on_event(PhaseEvent(phase=name, state="finished", seconds=self.seconds[name]))
