"""A job of the service on the screen: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ntk_dist import wire
from ntk_dist.standing import PHASES
from ntk_dist.wire import Job

__all__ = ["JobDisplay"]

LINE_EVERY_S = 5.0
"""A log gets at most one line per phase this often, in seconds."""
DRAWN_PER_S = 2


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
        self._console = console
        self._clock = clock
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=16),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                refresh_per_second=DRAWN_PER_S,
            )
            self._task = self._bar.add_task("", total=None, note="")
        self._standing = ""
        """State and attempt, in words, as they were said last."""
        self._phase = ""
        self._line = ""
        """Of a phase, as it was said last."""
        self._labels = dict(PHASES)
        self._finished: set[str] = set()
        self._last = 0.0
        """When a line was written."""

    @classmethod
    def on_screen(cls) -> JobDisplay:
        """One on standard error."""
        return cls(Console(stderr=True))

    def __enter__(self) -> JobDisplay:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

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
            self._standing = standing
            self._say(standing)
        if job.progress:
            self._advance(job.progress)
        if self._bar and (job.state.is_over or not job.progress):
            self._bar.update(self._task, description=str(job.state), note="")

    def _advance(self, now: wire.Progress) -> None:
        for phase, seconds in now.seconds.items():
            if phase not in self._finished:
                self._finished.add(phase)
                self._say(f"{self._labels.get(phase, phase)}: done in {seconds:.1f} s")
        if now.phase in now.seconds:
            return
        is_new = now.phase != self._phase
        self._phase, self._labels[now.phase] = now.phase, now.label
        if self._bar:
            if is_new:
                self._bar.reset(self._task)
            # A phase of unknown length has a bar that only moves.
            total = None if now.fraction is None else 1.0
            self._bar.update(
                self._task,
                description=now.label,
                total=total,
                completed=now.fraction or 0.0,
                note=now.note,
            )
        elif is_new or self._clock() - self._last >= LINE_EVERY_S:
            line = f"{now.label}: {now.note}" if now.note else now.label
            if line != self._line:
                self._say(line)
                self._line = line

    def _say(self, line: str) -> None:
        self._last = self._clock()
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
