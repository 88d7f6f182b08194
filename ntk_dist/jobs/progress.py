"""Events turned into something to look at: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from ntk_dist.events import (
    CheckpointEvent,
    CompileEvent,
    Event,
    JobEvent,
    PhaseEvent,
    RepairEvent,
    TaskEvent,
)
from ntk_dist.screen import DRAWN_PER_S, LINE_EVERY_S, Screen
from ntk_dist.standing import Standing, advance
from ntk_dist.units import format_seconds

__all__ = ["ProgressDisplay"]


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
        self._screen = Screen(console)
        self._clock = clock
        self._standing = Standing()
        self._last = 0.0
        """When the bar or a line was brought up to date."""

    def __enter__(self) -> ProgressDisplay:
        self._screen.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._screen.__exit__(*exception)

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
                self._screen.say(
                    f"{event.item}: {event.state} (attempt {event.attempt}) {event.error}"
                )
            case RepairEvent():
                self._screen.say(f"{event.item}: computing it again: {event.reason}")
            case CompileEvent():
                took = format_seconds(event.seconds)
                self._screen.say(f"compiled the {event.engine} in {took} on {event.host}")
            case CheckpointEvent(state="resumed"):
                self._screen.say(f"solving: going on from step {event.step} of an earlier run")
            case JobEvent() | CheckpointEvent():
                pass
            case _:
                self._update(now)

    def _start(self, event: PhaseEvent, now: float) -> None:
        if self._screen.has_bar:
            self._screen.begin(self._standing.label)
            self._draw(now)
        elif event.total is not None:
            found = f", {event.done} already there" if event.done else ""
            self._screen.say(f"{self._standing.label}: {event.total - event.done} to do{found}")
        self._last = now

    def _finish(self, event: PhaseEvent, now: float) -> None:
        self._screen.clear()
        note = self._standing.note(now) if self._screen.has_bar else ""
        numbers = f" ({note})" if note else ""
        self._screen.say(f"{self._standing.label}: done in {event.seconds or 0.0:.1f} s{numbers}")

    def _update(self, now: float) -> None:
        if now - self._last < (1 / DRAWN_PER_S if self._screen.has_bar else LINE_EVERY_S):
            return
        self._last = now
        if self._screen.has_bar:
            self._draw(now)
        elif note := self._standing.note(now):
            self._screen.say(f"{self._standing.label}: {note}")

    def _draw(self, now: float) -> None:
        self._screen.draw(self._standing.fraction, self._standing.note(now))
