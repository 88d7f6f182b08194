"""What long work reports while it runs: one small record per happening, one stream of them.

Lower layers emit events to whoever passed an ``on_event`` callable and know nothing of bars, logs
or services. Code that runs on a worker uses :func:`report`: its events travel home with the
outcome of the task. :mod:`ntk_dist.standing` says from the stream where a job stands,
:mod:`ntk_dist.jobs` shows and keeps it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

__all__ = [
    "CheckpointEvent",
    "CompileEvent",
    "CompileTime",
    "Event",
    "EventSink",
    "FanOut",
    "JobEvent",
    "MemoryEvent",
    "PhaseEvent",
    "Phases",
    "RepairCount",
    "RepairEvent",
    "StepEvent",
    "TaskEvent",
    "collected",
    "event_of",
    "ignore",
    "report",
]

log = logging.getLogger(__name__)

SAMPLE_EVERY_S = 5.0
"""The memory of the driver is looked at this often, in seconds, while events come."""


class _Record:
    """An event as plain types, and back by :func:`event_of`."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON types; what is not known is left out."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {"kind": self.kind, **known}


@dataclass(frozen=True, kw_only=True)
class JobEvent(_Record):
    """A job began, or came to one of its ends."""

    kind = "job"
    state: Literal["started", "finished", "failed", "interrupted"]
    job: str
    """Its name."""
    text: str = ""
    """Code and message of the error, if it failed."""


@dataclass(frozen=True, kw_only=True)
class PhaseEvent(_Record):
    """A phase of a job began or ended."""

    kind = "phase"
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
    gram: str | None = None
    """Key of the Gram matrix in the workspace, where the phase makes blocks of one."""


@dataclass(frozen=True, kw_only=True)
class TaskEvent(_Record):
    """Something happened to one task on an executor."""

    kind = "task"
    state: Literal["done", "retried", "duplicated", "failed"]
    item: str
    """The task's item, as text."""
    attempt: int
    """1 for the first try."""
    seconds: float | None = None
    """From submission to completion, in seconds."""
    error: str = ""
    worker_lost: bool = False
    """The try ended with its worker, not by its own fault."""


@dataclass(frozen=True, kw_only=True)
class StepEvent(_Record):
    """The solver finished a step."""

    kind = "step"
    step: int
    residuals: tuple[float, ...]
    """Relative residual of every target, converged ones included."""
    tol: float
    """The residual asked for."""

    def to_dict(self) -> dict[str, Any]:
        """JSON types; JSON has no word for a residual that is not finite, null stands for it."""
        told = [r if math.isfinite(r) else None for r in self.residuals]
        return {"kind": self.kind, "step": self.step, "residuals": told, "tol": self.tol}


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent(_Record):
    """The solver wrote its state down, or goes on from what an earlier run wrote down."""

    kind = "checkpoint"
    state: Literal["saved", "resumed"]
    step: int


@dataclass(frozen=True, kw_only=True)
class CompileEvent(_Record):
    """A process compiled an engine that its machine had not kept; told with the outcome of a task.

    Too late to say what is being waited for, which the log of that process does.
    """

    kind = "compile"
    engine: str
    """Such as ``dense engine in float32``."""
    seconds: float
    host: str
    """The machine, which keeps it from now on if there is a folder to keep it in."""


@dataclass(frozen=True, kw_only=True)
class RepairEvent(_Record):
    """Something stored was found lost or damaged when it was read, and is computed again."""

    kind = "repair"
    item: str
    """Which block of the Gram matrix, or which batch of statistics."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class MemoryEvent(_Record):
    """How much memory somebody holds."""

    kind = "memory"
    n_bytes: int
    """Resident set of the driver, or the blocks that a shard keeps."""
    holder: str = "driver"
    """``driver``, or a shard by its name and first block: one that is built again has the same."""


Event = (
    JobEvent
    | PhaseEvent
    | TaskEvent
    | StepEvent
    | CheckpointEvent
    | CompileEvent
    | RepairEvent
    | MemoryEvent
)
EventSink = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {
    one.kind: one
    for one in (
        JobEvent,
        PhaseEvent,
        TaskEvent,
        StepEvent,
        CheckpointEvent,
        CompileEvent,
        RepairEvent,
        MemoryEvent,
    )
}


def event_of(record: Mapping[str, Any]) -> Event:
    """The event that ``to_dict`` turned into ``record``; keys of later versions are passed over.

    Raises
    ------
    ValueError
        It is of no kind known here, or lacks what its kind has.
    """
    kind = _KINDS.get(record.get("kind", ""))
    if kind is None:
        raise ValueError(
            f"expected an event of kind {', '.join(_KINDS)}, got {record.get('kind')!r}"
        )
    values = {f.name: record[f.name] for f in fields(kind) if f.name in record}
    if kind is StepEvent and "residuals" in values:
        values["residuals"] = tuple(math.nan if r is None else r for r in values["residuals"])
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"expected an event of kind {kind.kind}, got {record}") from error


def ignore(event: Event) -> None:
    """The sink that drops everything."""


class FanOut:
    """A sink that tells several subscribers, none of whom can stop the work.

    One that raises is dropped, with a warning in the log. An interrupt goes through, so a
    subscriber that wants to stop a fit raises ``KeyboardInterrupt``.

    Parameters
    ----------
    *subscribers
        Called in the thread that does the work, one after the other: they should be quick.
    sample
        Bytes this process holds; told as a :class:`MemoryEvent` every 5 s while events come.
    clock
        Seconds; a test may bring its own.
    """

    def __init__(
        self,
        *subscribers: EventSink,
        sample: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subscribers = [one for one in subscribers if one is not ignore]
        self._sample = sample
        self._clock = clock
        self._sampled = clock()

    @classmethod
    def of(cls, on_event: EventSink, sample: Callable[[], int]) -> FanOut:
        """``on_event`` itself if it is one, else one with a single subscriber."""
        return on_event if isinstance(on_event, FanOut) else cls(on_event, sample=sample)

    def __call__(self, event: Event) -> None:
        """Tell everybody who still listens."""
        self._tell(event)
        if self._sample and self._clock() - self._sampled >= SAMPLE_EVERY_S:
            self._sampled = self._clock()
            self._tell(MemoryEvent(n_bytes=self._sample()))

    def _tell(self, event: Event) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception as error:
                self._subscribers.remove(subscriber)
                log.warning(
                    "a subscriber failed and hears no more events (the work goes on): %s: %s",
                    type(error).__name__,
                    error,
                )
                log.debug("%r failed on %r", subscriber, event, exc_info=True)


class RepairCount:
    """A sink that counts repairs, and passes every event on."""

    def __init__(self, on_event: EventSink) -> None:
        self.n_repaired = 0
        self._on_event = on_event

    def __call__(self, event: Event) -> None:
        """Count, and tell."""
        self.n_repaired += isinstance(event, RepairEvent)
        self._on_event(event)


class CompileTime:
    """A sink that adds up what was waited for engines, and passes every event on.

    Processes compile beside each other, so of each engine the one that took longest counts.
    """

    def __init__(self, on_event: EventSink) -> None:
        self._longest: dict[str, float] = {}
        self._on_event = on_event

    def __call__(self, event: Event) -> None:
        """Note, and tell."""
        if isinstance(event, CompileEvent):
            known = self._longest.get(event.engine, 0.0)
            self._longest[event.engine] = max(known, event.seconds)
        self._on_event(event)

    @property
    def seconds(self) -> float:
        """Of all engines."""
        return sum(self._longest.values())


class Phases:
    """Seconds of every phase, announced as events."""

    def __init__(self, on_event: EventSink = ignore) -> None:
        self.on_event = on_event
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(
        self, name: str, total: int | None = None, done: int = 0, gram: str | None = None
    ) -> Iterator[None]:
        """Time what happens inside."""
        self.on_event(PhaseEvent(phase=name, state="started", total=total, done=done, gram=gram))
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.on_event(PhaseEvent(phase=name, state="finished", seconds=self.seconds[name]))


# Below: what runs inside a task, on whichever worker.

_of_this_task: ContextVar[list[Event] | None] = ContextVar("_of_this_task", default=None)


def report(event: Event) -> None:
    """Have the driver hear of ``event`` when the task that is running here comes home.

    Outside of a task nobody listens. A thread that the task starts needs the task's context
    (:func:`contextvars.copy_context`).
    """
    events = _of_this_task.get()
    if events is not None:
        events.append(event)


@contextmanager
def collected() -> Iterator[list[Event]]:
    """What is reported inside, in one list."""
    events: list[Event] = []
    token = _of_this_task.set(events)
    try:
        yield events
    finally:
        _of_this_task.reset(token)
