"""Events turned into something to look at: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ntk_dist.events import Event, PhaseEvent, StepEvent, TaskEvent

__all__ = ["ProgressDisplay"]

LABELS = {
    "ingest": "reading and merging rows",
    "gram": "computing Gram blocks",
    "precondition": "building the preconditioner",
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
                TextColumn("{task.description:<28}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
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
            case TaskEvent(state="done"):
                self._advance()
            case TaskEvent():
                self._say(f"{event.item}: {event.state} (attempt {event.attempt}) {event.error}")

    def _start(self, event: PhaseEvent) -> None:
        self._phase, self._done, self._total = event.phase, event.done, event.total
        label = LABELS.get(event.phase, event.phase)
        if self._bars:
            total = event.total if event.phase != "solve" else 100
            self._task = self._bars.add_task(label, total=total, completed=event.done, note="")
        elif event.total is not None:
            found = f", {event.done} already there" if event.done else ""
            self._say(f"{label}: {event.total} to do{found}")
        self._last_line = time.monotonic()

    def _finish(self, event: PhaseEvent) -> None:
        label = LABELS.get(event.phase, event.phase)
        if self._bars and self._task is not None:
            task = self._bars.tasks[self._task]
            note = event.message or task.fields["note"]
            total = task.total if task.total is not None else 1
            self._bars.update(self._task, total=total, completed=total, note=note)
        else:
            detail = f" ({event.message})" if event.message else ""
            self._say(f"{label}: done in {event.seconds or 0.0:.1f} s{detail}")

    def _advance(self) -> None:
        self._done += 1
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=self._done)
        elif self._due():
            self._say(f"{LABELS.get(self._phase, self._phase)}: {self._done} of {self._total}")

    def _step(self, event: StepEvent) -> None:
        worst = max(event.residuals, default=0.0)
        note = f"step {event.step}, residual {worst:.1e}"
        if self._bars and self._task is not None:
            # The residual falls geometrically, so its logarithm is the honest progress.
            fraction = math.log(max(worst, event.tol)) / math.log(event.tol) if worst < 1 else 0.0
            self._bars.update(self._task, completed=int(100 * fraction), note=note)
        elif self._due():
            self._say(f"{LABELS['solve']}: {note}")

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < LINE_EVERY_S:
            return False
        self._last_line = now
        return True

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)
