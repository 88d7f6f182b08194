"""Where people watch long work: a terminal with one bar at its bottom, or a log that gets lines."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["DRAWN_PER_S", "LINE_EVERY_S", "Screen", "standard_error"]

LINE_EVERY_S = 5.0
"""A log gets at most one line per phase this often, in seconds."""
DRAWN_PER_S = 2
"""A bar is drawn this often: at 0.9 ms each, four times a second would be 0.4 % of a core."""


class _Unheeded(Console):
    """A console that work goes on without, once nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """Be silent; rich would close standard output, too, and end the program."""
        self.quiet = True


def standard_error() -> Console:
    """Where progress is shown."""
    return _Unheeded(stderr=True)


class Screen:
    """Lines, and on a terminal a bar below them; use it as a context manager.

    Parameters
    ----------
    console
        Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._bar: TaskID | None = None
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

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    @property
    def has_bar(self) -> bool:
        """Whether it is a terminal."""
        return self._bars is not None

    def say(self, line: str) -> None:
        """Write a line, however long."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def begin(self, label: str) -> None:
        """Show a new bar, whose clock begins now, in place of the one before.

        One at a time: drawing those of all phases took twice as long.
        """
        self.clear()
        if self._bars:
            self._bar = self._bars.add_task(label, total=None, note="")

    def draw(self, done: float | None, note: str = "") -> None:
        """Bring the bar up to date.

        Parameters
        ----------
        done
            From 0 to 1; None as long as that is not known, and the bar only moves.
        note
            The numbers behind it.
        """
        if self._bars and self._bar is not None:
            total = None if done is None else 1.0
            self._bars.update(self._bar, total=total, completed=done, note=note)

    def clear(self) -> None:
        """Show no bar."""
        if self._bars and self._bar is not None:
            self._bars.remove_task(self._bar)
        self._bar = None
