"""What came of one try of a task, in a form that survives the way back from a worker.

Worker-side code: it runs inside the task, next to the user's function. Failures travel as values,
so an engine's own exceptions can only mean trouble with the engine, and an exception that does not
pickle cannot take the message down with it.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ntk_dist.events import Event, collected
from ntk_dist.executors.retry import is_retryable

__all__ = ["AttemptFailed", "Outcome", "WorkerLostError", "attempt", "attempt_remotely", "here"]


@dataclass(frozen=True)
class Outcome:
    """A value, or an error; never both."""

    value: Any = None
    error: BaseException | None = None
    retryable: bool = False
    """Judged on the worker, where the exception still has its own class."""
    where: str = "an unknown worker"
    """Host and process that ran the try."""
    events: tuple[Event, ...] = ()
    """What the task reported."""

    @classmethod
    def failed(cls, error: BaseException, where: str = "an unknown worker") -> Outcome:
        """The outcome of a try that raised ``error``, or that an engine lost."""
        return cls(error=error, retryable=is_retryable(error), where=where)


class WorkerLostError(ConnectionResetError):
    """A try ended with the worker that ran it; another one may go better."""


class AttemptFailed(Exception):
    """A failed outcome on its way through an engine that hears of failures by exceptions only.

    Needed where a value stays on its worker, so that nobody looks into it.
    """

    @property
    def outcome(self) -> Outcome:
        """What came of the try."""
        outcome: Outcome = self.args[0]
        return outcome


def here() -> str:
    """Host and process id of the caller, as text."""
    return f"{socket.gethostname()} (process {os.getpid()})"


def attempt(function: Callable[..., Any], *args: Any) -> Outcome:
    """What ``function(*args)`` came to; nothing but an interrupt is raised."""
    with collected() as events:
        try:
            outcome = Outcome(value=function(*args), where=here())
        except (Exception, SystemExit) as error:
            outcome = Outcome.failed(error, here())
    return replace(outcome, events=tuple(events)) if events else outcome


def attempt_remotely(function: Callable[..., Any], *args: Any) -> Outcome:
    """As :func:`attempt`, with an error that pickles and carries its traceback as a note."""
    outcome = attempt(function, *args)
    if outcome.error is None:
        return outcome
    error = _portable(outcome.error)
    lines = traceback.format_exception(outcome.error)
    error.add_note(f"raised on {outcome.where}:\n{''.join(lines).rstrip()}")
    # The traceback holds the frames, hence every array of the task, and does not pickle anyway.
    error.with_traceback(None)
    return replace(outcome, error=error)


def _portable(error: BaseException) -> BaseException:
    """The error itself if it survives pickling, else a RuntimeError that says the same."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception as problem:
        substitute = RuntimeError(f"{type(error).__qualname__}: {error}")
        substitute.add_note(f"the original exception does not pickle: {problem}")
        return substitute
    return error if type(copy) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")
