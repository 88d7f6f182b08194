"""Events turned into something to look at: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ntk_dist.events import CheckpointEvent, Event, PhaseEvent, StepEvent, TaskEvent

__all__ = ["ProgressDisplay"]

LABELS = {
    "ingest": "merging repeated rows",
    "statistics": "statistics of each row",
    "adopt": "taking known blocks",
    "gram": "computing Gram blocks",
    "ridge": "choosing a ridge",
    "precondition": "preconditioning",
    "solve": "solving",
    "predict": "predicting",
}
LINE_EVERY_S = 5.0
"""A log gets at most one line per phase this often, in seconds."""


class ProgressDisplay:
    """An event sink that shows the phases of a job; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[note]:<24}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(compact=True),
                console=console,
            )
        self._phase = ""
        self._task: TaskID | None = None
        self._done = 0
        self._total: int | None = None
        self._last_line = 0.0

    def __enter__(self) -> ProgressDisplay:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case PhaseEvent(state="started"):
                self._start(event)
            case PhaseEvent(state="finished"):
                self._finish(event)
            case StepEvent():
                self._step(event)
            case CheckpointEvent(state="resumed"):
                self._say(f"{self._label}: going on from step {event.step} of an earlier run")
            case TaskEvent(state="done"):
                self._advance()
            case TaskEvent():
                self._say(f"{event.item}: {event.state} (attempt {event.attempt}) {event.error}")

    def _start(self, event: PhaseEvent) -> None:
        self._phase, self._done, self._total = event.phase, event.done, event.total
        if self._bars:
            total = 1.0 if event.phase in {"ridge", "solve"} else event.total
            self._task = self._bars.add_task(self._label, total=total, note=self._count)
            self._bars.update(self._task, completed=event.done)
        elif event.total is not None:
            found = f", {event.done} already there" if event.done else ""
            self._say(f"{self._label}: {event.total - event.done} to do{found}")
        self._last_line = time.monotonic()

    def _finish(self, event: PhaseEvent) -> None:
        if self._bars and self._task is not None:
            total = self._bars.tasks[self._task].total or 1.0
            self._bars.update(self._task, total=total, completed=total)
        else:
            self._say(f"{self._label}: done in {event.seconds or 0.0:.1f} s")

    def _advance(self) -> None:
        self._done += 1
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=self._done, note=self._count)
        elif self._due():
            self._say(f"{self._label}: {self._count}")

    def _step(self, event: StepEvent) -> None:
        worst = max(event.residuals, default=0.0)
        note = f"step {event.step}, residual {worst:.0e}"
        if self._bars and self._task is not None:
            # The residual falls geometrically, so its logarithm is the honest progress.
            fraction = math.log(max(worst, event.tol)) / math.log(event.tol) if worst < 1 else 0.0
            self._bars.update(self._task, completed=fraction, note=note)
        elif self._due():
            self._say(f"{self._label}: {note}")

    @property
    def _label(self) -> str:
        return LABELS.get(self._phase, self._phase)

    @property
    def _count(self) -> str:
        return f"{self._done} of {self._total}" if self._total is not None else ""

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < LINE_EVERY_S:
            return False
        self._last_line = now
        return True

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)
