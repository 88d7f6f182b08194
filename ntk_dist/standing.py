"""Where a job stands: what its events add up to.

Pure functions of events and the times they came at: no clock is read here and nothing is shown,
so the terminal, the command line and a service say the same of the same job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from ntk_dist.events import (
    CheckpointEvent,
    CompileEvent,
    Event,
    JobEvent,
    MemoryEvent,
    PhaseEvent,
    RepairEvent,
    StepEvent,
    TaskEvent,
)
from ntk_dist.units import format_bytes, format_count, format_seconds

__all__ = ["PHASES", "SILENT_S", "Standing", "advance"]

PHASES = {
    "ingest": "merging repeated rows",
    "statistics": "statistics of each row",
    "adopt": "taking known blocks",
    "gram": "computing Gram blocks",
    "ridge": "choosing a ridge",
    "precondition": "preconditioning",
    "solve": "solving",
    "predict": "predicting",
}
"""Phases in words."""
RATE_WINDOW_S = 30.0
"""Rates are of this last while, in seconds, or of the last task where one takes longer: long
enough to be steady, short enough to forget what compiling cost."""
MARKS_PER_WINDOW = 16
"""Moments remembered of one window; a million quick blocks need no more."""
SILENT_S = 30.0
"""A job that runs writes every 10 s; after three times that without a word, in seconds, it was
killed or cannot be seen."""

State = Literal["running", "finished", "failed", "interrupted"]


class Mark(NamedTuple):
    """How far a phase was at one moment."""

    time: float
    reached: int
    """Tasks done, or steps."""
    fraction: float
    """Of the phase, from 0 to 1; NaN where its length is not known."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Everything that the events so far say; times are those that events came with, in seconds."""

    job: str = ""
    state: State = "running"
    text: str = ""
    """Why it failed."""
    started: float | None = None
    updated: float | None = None
    """When the last event came."""
    phase: str = ""
    done: int = 0
    """Tasks of the phase."""
    total: int | None = None
    step: int | None = None
    residuals: tuple[float, ...] = ()
    """Relative residual of every target."""
    tol: float | None = None
    resumed_from_step: int | None = None
    """Where an earlier run of the solver had come to."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of the phases that are finished."""
    retries: int = 0
    lost: int = 0
    """Of those, tries that ended with their worker."""
    duplicates: int = 0
    failures: int = 0
    repairs: int = 0
    """Blocks and statistics found damaged or lost, and computed again."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes by holder: the driver, and every shard."""
    marks: tuple[Mark, ...] = ()
    """Of the phase, the oldest first."""
    gram: str | None = None
    """Key of the Gram matrix whose blocks were asked for last."""

    @property
    def label(self) -> str:
        """The phase in words."""
        return PHASES.get(self.phase, self.phase)

    @property
    def residual(self) -> float | None:
        """The largest of all targets; NaN counts as such."""
        return float(_largest(self.residuals)) if self.residuals else None

    @property
    def driver_bytes(self) -> int | None:
        """Resident set of the driver."""
        return self.memory.get("driver")

    @property
    def resident_bytes(self) -> int:
        """Blocks that shards keep in memory."""
        return sum(self.memory.values()) - (self.driver_bytes or 0)

    @property
    def fraction(self) -> float | None:
        """How much of the phase is done, from 0 to 1, where that is known."""
        known = self.marks and math.isfinite(self.marks[-1].fraction)
        return self.marks[-1].fraction if known else None

    @property
    def rate(self) -> float | None:
        """Tasks or steps a second, lately."""
        if len(self.marks) < 2:
            return None
        first, last = self.marks[0], self.marks[-1]
        return (last.reached - first.reached) / (last.time - first.time)

    def eta_s(self, now: float) -> float | None:
        """Seconds that the phase will still take if it goes on as it did lately."""
        if len(self.marks) < 2:
            return None
        first, last = self.marks[0], self.marks[-1]
        gained = last.fraction - first.fraction
        if not gained > 0:  # NaN included
            return None
        left = (1 - last.fraction) * (last.time - first.time) / gained
        return max(0.0, left - (now - last.time))

    def is_silent(self, now: float) -> bool:
        """Whether it should have written something by now."""
        return (
            self.state == "running" and self.updated is not None and now - self.updated > SILENT_S
        )

    def note(self, now: float) -> str:
        """How far the phase is, in words: ``123 of 400, 3.1 a second, 1.5 min left``."""
        parts = []
        if self.step is not None and self.residual is not None and self.tol is not None:
            parts.append(f"step {self.step}, residual {self.residual:.0e} of {self.tol:.0e}")
        elif self.total is not None:
            parts.append(f"{self.done:,} of {self.total:,}")
        goes_on = self.state == "running" and not self.is_silent(now)
        if self.rate and goes_on:
            parts.append(f"{format_count(self.rate)} a second")
        eta = self.eta_s(now)
        if eta and goes_on:
            parts.append(f"{format_seconds(eta)} left")
        return ", ".join(parts)

    def troubles(self) -> str:
        """What went wrong and was mended, in words; empty if nothing did."""
        counts = {
            "retried": self.retries,
            "of those lost with a worker": self.lost,
            "duplicated": self.duplicates,
            "failed": self.failures,
            "damaged and computed again": self.repairs,
        }
        return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)

    def memory_in_words(self) -> str:
        """Who holds how much; empty if nobody said."""
        parts = []
        if self.driver_bytes:
            parts.append(f"driver {format_bytes(self.driver_bytes)}")
        if self.resident_bytes:
            parts.append(f"blocks in memory {format_bytes(self.resident_bytes)}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON types, all that is needed to go on from here except the rate's window."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "marks"}
        told = [r if math.isfinite(r) else None for r in self.residuals]
        return {**record, "residuals": told}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Standing:
        """The inverse of :meth:`to_dict`; keys of later versions are passed over."""
        values = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        told = values.get("residuals", ())
        values["residuals"] = tuple(math.nan if r is None else r for r in told)
        return cls(**values)


def advance(standing: Standing, event: Event, now: float) -> Standing:
    """Where the job stands after ``event``, which came at ``now``, in seconds."""
    if isinstance(event, JobEvent) and event.state == "started":
        return Standing(job=event.job, started=now, updated=now)
    # One copy for each event: at 5 microseconds it is the dearest part of it.
    return replace(standing, updated=now, **_changes(standing, event, now))


def _changes(before: Standing, event: Event, now: float) -> dict[str, Any]:
    match event:
        case TaskEvent():
            return _task(before, event, now)
        case StepEvent():
            mark = Mark(now, event.step, _solved(before, event))
            told = {"step": event.step, "residuals": event.residuals, "tol": event.tol}
            return {**told, "marks": _marks(before.marks, mark)}
        case MemoryEvent():
            return {"memory": {**before.memory, event.holder: event.n_bytes}}
        case RepairEvent():
            return {"repairs": before.repairs + 1}
        case CheckpointEvent():
            return {"resumed_from_step": event.step} if event.state == "resumed" else {}
        case CompileEvent():
            return {}
        case JobEvent():
            return {"job": event.job, "state": event.state, "text": event.text}
        case PhaseEvent(state="finished"):
            seconds = {**before.seconds, event.phase: event.seconds or 0.0}
            # Numbers of the phase stay for whoever asks later; nothing is left of it.
            return {"seconds": seconds, "marks": ()}
        case PhaseEvent():
            mark = Mark(now, event.done, _share(event.done, event.total))
            return {
                "phase": event.phase,
                "done": event.done,
                "total": event.total,
                "step": None,
                "residuals": (),
                "tol": None,
                "marks": () if event.total is None else (mark,),
                "gram": event.gram or before.gram,
            }


def _task(before: Standing, event: TaskEvent, now: float) -> dict[str, Any]:
    lost = before.lost + event.worker_lost
    match event.state:
        case "done":
            done = before.done + 1
            mark = Mark(now, done, _share(done, before.total))
            return {"done": done, "marks": _marks(before.marks, mark)}
        case "retried":
            return {"retries": before.retries + 1, "lost": lost}
        case "duplicated":
            return {"duplicates": before.duplicates + 1}
        case "failed":
            return {"failures": before.failures + 1, "lost": lost}


def _marks(marks: tuple[Mark, ...], new: Mark) -> tuple[Mark, ...]:
    """Moments of the last window, and the one before it: slow tasks need that."""
    if marks and new.time <= marks[-1].time:  # a clock that was set back, or did not move
        return (*marks[:-1], new._replace(time=marks[-1].time))
    if len(marks) > 1 and marks[-1].time - marks[-2].time < RATE_WINDOW_S / MARKS_PER_WINDOW:
        marks = marks[:-1]
    marks = (*marks, new)
    while len(marks) > 2 and new.time - marks[1].time >= RATE_WINDOW_S:
        marks = marks[1:]
    return marks


def _share(done: int, total: int | None) -> float:
    return done / total if total else math.nan


def _solved(before: Standing, event: StepEvent) -> float:
    """The residual falls geometrically, so its logarithm is the honest progress; no step back."""
    known = before.marks[-1].fraction if before.marks else 0.0
    worst = _largest(event.residuals)
    if not (0 < event.tol < 1 and worst < 1):  # NaN included
        return known
    return max(known, min(1.0, math.log(max(worst, event.tol)) / math.log(event.tol)))


def _largest(residuals: tuple[float, ...]) -> float:
    """NaN if any is: Python's max would depend on the order."""
    return math.nan if any(map(math.isnan, residuals)) else max(residuals, default=0.0)
