"""A job of the service on the screen: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from ntk_dist.screen import LINE_EVERY_S, Screen, standard_error
from ntk_dist.standing import PHASES
from ntk_dist.wire import Job, Progress

__all__ = ["JobDisplay"]


class JobDisplay:
    """Shows a job as often as it is asked after; use it as a context manager.

    Parameters
    ----------
    console
        Where to.
    clock
        Seconds; a test may bring its own.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = Screen(console)
        self._clock = clock
        self._standing = ""
        """State and attempt, in words, as they were said last."""
        self._bar = ""
        """What the bar is for: a phase, or the state of a job without one."""
        self._line = ""
        """Of a phase, as it was said last."""
        self._labels = dict(PHASES)
        self._finished: set[str] = set()
        self._last = 0.0
        """When a line was written."""

    @classmethod
    def on_screen(cls) -> JobDisplay:
        """One on standard error."""
        return cls(standard_error())

    def __enter__(self) -> JobDisplay:
        self._screen.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._screen.__exit__(*exception)

    def __call__(self, job: Job) -> None:
        """Show how it stands."""
        standing = f"job {job.name} ({job.id}): {job.state}"
        if job.attempt > 1:
            standing += f", attempt {job.attempt}"
        if job.is_cancelling and not job.state.is_over:
            standing += ", being cancelled"
        if job.model_version is not None:
            standing += f", model {job.name} version {job.model_version}"
        if job.score is not None:
            standing += f", score {job.score:.4f}"
        if standing != self._standing:
            is_new, self._standing = not self._standing, standing
            self._say(standing)
            for warning in job.warnings if is_new else ():
                self._say(f"warning: {warning}")
        if job.progress:
            self._advance(job.progress)
        if job.state.is_over or not job.progress:
            self._begin(str(job.state), str(job.state))
            self._screen.draw(None)

    def _advance(self, now: Progress) -> None:
        for phase, seconds in now.seconds.items():
            if phase not in self._finished:
                self._finished.add(phase)
                self._say(f"{self._labels.get(phase, phase)}: done in {seconds:.1f} s")
        if now.phase in now.seconds:
            return
        self._labels[now.phase] = now.label
        is_new = self._begin(now.phase, now.label)
        if self._screen.has_bar:
            self._screen.draw(now.fraction, now.note)
        elif is_new or self._clock() - self._last >= LINE_EVERY_S:
            line = f"{now.label}: {now.note}" if now.note else now.label
            if line != self._line:
                self._say(line)
                self._line = line

    def _begin(self, bar: str, label: str) -> bool:
        is_new = bar != self._bar
        if is_new:
            self._bar = bar
            self._screen.begin(label)
        return is_new

    def _say(self, line: str) -> None:
        self._last = self._clock()
        self._screen.say(line)
