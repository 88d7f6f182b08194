"""The one loop that drives tasks on any engine.

It keeps a bounded window of tries in flight, so a million items never become a million futures;
repeats what failed and may be repeated; gives stragglers a twin when a worker is idle; gives up
on tries that exceed their time; and cancels whatever is in flight when the consumer stops, when
an interrupt comes, or when a task fails for good. Each item is yielded once, whatever happened
on the way.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from ntk_dist.errors import NTKDistError, StoreUnreachableError, TaskError
from ntk_dist.events import EventSink, TaskEvent, ignore
from ntk_dist.executors.outcome import Outcome, WorkerLostError
from ntk_dist.executors.retry import RetryPolicy, is_straggler

__all__ = ["Engine", "Handle", "drive", "loss_of"]

Handle = Any
"""What an engine knows a try by: hashable, and nothing else is asked of it."""
Item = TypeVar("Item")
_State = Literal["done", "retried", "duplicated", "failed"]

# Stragglers, timeouts and lost workers are looked for this often: far below the second a worker
# takes to come back, far above the microseconds a look costs.
_POLL_S = 0.25
# Enough for a steady median; a plan of a million tasks must not keep a million durations.
_REMEMBERED = 101


class Engine(Protocol):
    """What the loop needs from an engine."""

    @property
    def n_slots(self) -> int:
        """Tries that can run at one time."""

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> Collection[Handle]:
        """Those that are finished, failed or lost; empty when none is within ``timeout_s``."""

    def outcome(self, handle: Handle) -> Outcome:
        """What a handle that :meth:`wait` returned came to."""

    def take_losses(self) -> Collection[str]:
        """Workers that went and that no outcome has told of; each is told once."""

    def cancel(self, handles: Sequence[Handle], *, by_force: bool) -> None:
        """Forget these tries; ``by_force``: free the worker that hangs on one, at any price."""


@dataclass(eq=False)
class _Entry(Generic[Item]):
    """One item on its way."""

    item: Item
    text: str
    failures: int = 0
    tries: dict[Handle, _Try] = field(default_factory=dict)
    """Tries in flight: one, or two when it has a twin."""


@dataclass(eq=False)
class _Try:
    """One submission of one item."""

    number: int
    submitted: float
    started: float | None = None
    """When it is presumed to have left the engine's queue."""

    @property
    def since(self) -> float:
        """Start of the run, as far as it is known."""
        return self.submitted if self.started is None else self.started


def drive(
    engine: Engine,
    submit: Callable[[Item, int], Handle],
    items: Iterable[Item],
    *,
    window: Callable[[], int],
    retry: RetryPolicy,
    on_event: EventSink = ignore,
    label: Callable[[Item], str] = str,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Item, Any]]:
    """Every item with its result, in order of completion.

    Parameters
    ----------
    engine
        Waits, collects, cancels.
    submit
        Starts try number ``n`` (from 1) of an item and returns its handle.
    items
        Consumed only as places in the window come free.
    window
        Most items in flight at one time; asked again and again, since clusters grow.
    retry
        Attempts, pauses, time limit, straggler thresholds.
    on_event
        Called in the caller's thread.
    label
        An item as text, for messages.
    clock
        Seconds; a test may bring its own.

    Raises
    ------
    TaskError
        A task failed for good; the cause is attached.
    NTKDistError
        A task raised an error of this package that no other try can mend; raised as itself.
    """
    loop = _Loop(engine, submit, iter(items), window, retry, on_event, label, clock)
    try:
        while loop.fill():
            yield from loop.collect()
            loop.end_overdue()
            loop.duplicate_stragglers()
    finally:
        # Also reached when the consumer closes the generator and on KeyboardInterrupt.
        engine.cancel(list(loop.in_flight), by_force=False)


@dataclass(eq=False)
class _Loop(Generic[Item]):
    """The state of one :func:`drive`."""

    engine: Engine
    submit: Callable[[Item, int], Handle]
    items: Iterator[Item]
    window: Callable[[], int]
    retry: RetryPolicy
    on_event: EventSink
    label: Callable[[Item], str]
    clock: Callable[[], float]
    in_flight: dict[Handle, _Entry[Item]] = field(default_factory=dict)
    """In order of submission."""
    paused: list[tuple[float, int, _Entry[Item]]] = field(default_factory=list)
    """A heap by the time the pause ends; the counter breaks ties."""
    order: Iterator[int] = field(default_factory=itertools.count)
    finished_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def fill(self) -> bool:
        """Submit until the window is full; False when nothing is left to wait for."""
        # What is left would be given up without a word while all workers are away.
        window = max(1, self.window())
        while len(self.in_flight) < window:
            if self.paused and self.paused[0][0] <= self.clock():
                self._start(heapq.heappop(self.paused)[2])
                continue
            # A paused entry keeps its place, else failures would widen the window.
            if len(self.in_flight) + len(self.paused) >= window:
                break
            try:
                item = next(self.items)
            except StopIteration:
                break
            self._start(_Entry(item, _shorten(self.label(item))))
        return bool(self.in_flight or self.paused)

    def collect(self) -> Iterator[tuple[Item, Any]]:
        """Wait a little, then yield what is finished."""
        now = self.clock()
        timeout_s = _POLL_S
        if self.paused:
            timeout_s = min(timeout_s, max(0.0, self.paused[0][0] - now))
        if not self.in_flight:
            time.sleep(timeout_s)
            return
        # Engines start tries in the order of submission, so the oldest ones are the running ones.
        for handle, entry in itertools.islice(self.in_flight.items(), self.engine.n_slots):
            if entry.tries[handle].started is None:
                entry.tries[handle].started = now
        for handle in self.engine.wait(list(self.in_flight), timeout_s):
            if handle not in self.in_flight:  # its twin came first, in this very batch
                continue
            entry = self.in_flight[handle]
            outcome = self.engine.outcome(handle)
            finished = self._forget(handle)
            for event in outcome.events:
                self.on_event(event)
            if outcome.error is not None:
                self._failed(entry, finished, outcome)
                continue
            self._drop_twin(entry)
            now = self.clock()
            self.finished_s.append(now - finished.since)
            self._emit("done", entry, finished.number, seconds=now - finished.submitted)
            yield entry.item, outcome.value
        for worker in self.engine.take_losses():
            self.on_event(loss_of(worker))

    def end_overdue(self) -> None:
        """Count tries that exceeded the time limit as lost."""
        limit = self.retry.timeout_s
        if limit is None:
            return
        now = self.clock()
        for handle, entry in list(self.in_flight.items()):
            one = entry.tries[handle]
            if one.started is None or now - one.started <= limit:
                continue
            self._forget(handle)
            self.engine.cancel([handle], by_force=True)
            error = TimeoutError(f"ran for more than {limit:g} s (timeout_s)")
            self._failed(entry, one, Outcome.failed(error))

    def duplicate_stragglers(self) -> None:
        """Give slow tries a twin while workers are idle."""
        for handle, entry in list(self.in_flight.items()):
            if len(self.in_flight) >= self.engine.n_slots:
                return
            one = entry.tries[handle]
            elapsed = self.clock() - one.since
            if len(entry.tries) == 1 and is_straggler(elapsed, self.finished_s, self.retry):
                self._emit("duplicated", entry, one.number, seconds=elapsed)
                self._start(entry)

    def _start(self, entry: _Entry[Item]) -> None:
        number = entry.failures + 1
        handle = self.submit(entry.item, number)
        self.in_flight[handle] = entry
        entry.tries[handle] = _Try(number, self.clock())

    def _forget(self, handle: Handle) -> _Try:
        return self.in_flight.pop(handle).tries.pop(handle)

    def _drop_twin(self, entry: _Entry[Item]) -> None:
        for handle in list(entry.tries):
            self._forget(handle)
            self.engine.cancel([handle], by_force=False)

    def _failed(self, entry: _Entry[Item], one: _Try, outcome: Outcome) -> None:
        """Wait for the twin, pause and repeat, or raise."""
        error = outcome.error
        assert error is not None
        if outcome.retryable and entry.tries:
            return
        entry.failures += 1
        seconds = self.clock() - one.submitted
        if outcome.retryable and entry.failures < self.retry.max_attempts:
            self._emit("retried", entry, one.number, seconds=seconds, error=error)
            ready = self.clock() + self.retry.pause_s(entry.failures)
            heapq.heappush(self.paused, (ready, next(self.order), entry))
            return
        self._emit("failed", entry, one.number, seconds=seconds, error=error)
        tries = f"{entry.failures} attempt{'s' if entry.failures > 1 else ''}"
        # Storage that no worker reaches is no fault of the task.
        mendable = outcome.retryable and not isinstance(error, StoreUnreachableError)
        if isinstance(error, NTKDistError) and not mendable:
            error.add_note(f"in task {entry.text} on {outcome.where}, after {tries}")
            raise error
        raise TaskError(
            f"task {entry.text} failed for good after {tries}, last on {outcome.where}: "
            f"{_in_words(error)}"
        ) from error

    def _emit(
        self,
        state: _State,
        entry: _Entry[Item],
        number: int,
        *,
        seconds: float,
        error: BaseException | None = None,
    ) -> None:
        self.on_event(
            TaskEvent(
                state=state,
                item=entry.text,
                attempt=number,
                seconds=seconds,
                error=_in_words(error) if error else "",
                worker_lost=isinstance(error, WorkerLostError),
            )
        )


def loss_of(worker: str) -> TaskEvent:
    """The event of a worker that is gone, with whatever it had to do."""
    return TaskEvent(
        state="retried",
        item=f"whatever {worker} had to do",
        attempt=1,
        error=_in_words(WorkerLostError("it is gone")),
        worker_lost=True,
    )


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _shorten(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
