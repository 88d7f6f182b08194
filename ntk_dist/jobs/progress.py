"""Events turned into something to look at: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ntk_dist.events import (
    CheckpointEvent,
    CompileEvent,
    Event,
    JobEvent,
    PhaseEvent,
    RepairEvent,
    TaskEvent,
)
from ntk_dist.standing import Standing, advance
from ntk_dist.units import format_seconds

__all__ = ["ProgressDisplay"]

LINE_EVERY_S = 5.0
"""A log gets at most one line per phase this often, in seconds."""
DRAWN_PER_S = 2
"""A bar is drawn this often: at 0.9 ms each, four times a second would be 0.4 % of a core."""


class ProgressDisplay:
    """An event sink that shows the phases of a job; use it as a context manager.

    Parameters
    ----------
    console
        Where to: a bar for the phase at work if it is a terminal, and lines.
    clock
        Seconds; a test may bring its own.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=16),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                refresh_per_second=DRAWN_PER_S,
            )
        self._standing = Standing()
        self._bar: TaskID | None = None
        self._last = 0.0
        """When the bar or a line was brought up to date."""

    def __enter__(self) -> ProgressDisplay:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        now = self._clock()
        self._standing = advance(self._standing, event, now)
        match event:
            case PhaseEvent(state="started"):
                self._start(event, now)
            case PhaseEvent():
                self._finish(event, now)
            case TaskEvent(state="retried" | "failed" | "duplicated"):
                self._say(f"{event.item}: {event.state} (attempt {event.attempt}) {event.error}")
            case RepairEvent():
                self._say(f"{event.item}: computing it again: {event.reason}")
            case CompileEvent():
                took = format_seconds(event.seconds)
                self._say(f"compiled the {event.engine} in {took} on {event.host}")
            case CheckpointEvent(state="resumed"):
                self._say(f"solving: going on from step {event.step} of an earlier run")
            case JobEvent() | CheckpointEvent():
                pass
            case _:
                self._update(now)

    def _start(self, event: PhaseEvent, now: float) -> None:
        if self._bars:
            total = 1.0 if event.phase == "solve" or event.total is not None else None
            self._bar = self._bars.add_task(self._standing.label, total=total, note="")
            self._draw(now)
        elif event.total is not None:
            found = f", {event.done} already there" if event.done else ""
            self._say(f"{self._standing.label}: {event.total - event.done} to do{found}")
        self._last = now

    def _finish(self, event: PhaseEvent, now: float) -> None:
        if self._bars and self._bar is not None:
            # One bar at a time: drawing those of all phases took twice as long.
            self._bars.remove_task(self._bar)
            self._bar = None
        note = f" ({note})" if self._bars and (note := self._standing.note(now)) else ""
        self._say(f"{self._standing.label}: done in {event.seconds or 0.0:.1f} s{note}")

    def _update(self, now: float) -> None:
        if now - self._last < (1 / DRAWN_PER_S if self._bars else LINE_EVERY_S):
            return
        self._last = now
        if self._bars:
            self._draw(now)
        elif note := self._standing.note(now):
            self._say(f"{self._standing.label}: {note}")

    def _draw(self, now: float) -> None:
        if self._bars and self._bar is not None:
            done = self._standing.fraction
            self._bars.update(self._bar, completed=done, note=self._standing.note(now))

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)
