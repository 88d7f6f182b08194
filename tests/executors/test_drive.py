"""The loop on a scripted engine with a clock of its own: no threads, no waiting."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ntk_dist.errors import StoreFullError, TaskError
from ntk_dist.events import Event, TaskEvent
from ntk_dist.executors.drive import drive
from ntk_dist.executors.outcome import Outcome, WorkerLostError
from ntk_dist.executors.retry import RetryPolicy


@dataclass
class Scripted:
    """Runs ``n_slots`` tries at a time, first come first served, in seconds of its own clock."""

    n_slots: int = 2
    durations: dict[tuple[int, int], float] = field(default_factory=dict)
    """By item and submission (from 0); one second where nothing is said."""
    errors: dict[tuple[int, int], BaseException] = field(default_factory=dict)
    now: float = 0.0
    most: int = 0
    submissions: list[tuple[int, int]] = field(default_factory=list)
    cancelled: list[tuple[tuple[int, int], bool]] = field(default_factory=list)
    running: dict[tuple[int, int], float] = field(default_factory=dict)
    """Seconds still to run, in order of submission."""
    lost: list[str] = field(default_factory=list)
    """Workers whose tasks the engine gives to others by itself."""

    def clock(self) -> float:
        return self.now

    def submit(self, item: int, number: int) -> tuple[int, int]:
        handle = (item, sum(one[0] == item for one in self.submissions))
        self.submissions.append(handle)
        self.running[handle] = self.durations.get(handle, 1.0)
        self.most = max(self.most, len(self.running))
        return handle

    def wait(self, handles: Sequence[Any], timeout_s: float) -> Collection[Any]:
        assert list(handles) == list(self.running)
        working = list(self.running)[: self.n_slots]
        step = min([timeout_s, *(self.running[handle] for handle in working)])
        self.now += step
        for handle in working:
            self.running[handle] -= step
        done = [handle for handle in working if self.running[handle] <= 1e-12]
        for handle in done:
            del self.running[handle]
        return done

    def outcome(self, handle: Any) -> Outcome:
        if handle in self.errors:
            return Outcome.failed(self.errors[handle], "worker 1")
        return Outcome(value=handle[0] ** 2, where="worker 1")

    def take_losses(self) -> Collection[str]:
        lost, self.lost = self.lost, []
        return lost

    def cancel(self, handles: Sequence[Any], *, by_force: bool) -> None:
        for handle in handles:
            self.running.pop(handle, None)
            self.cancelled.append((handle, by_force))

    def run(
        self, items: Any, retry: RetryPolicy | None = None, window: int = 4
    ) -> tuple[list[tuple[int, int]], list[TaskEvent]]:
        events: list[Event] = []
        results = drive(
            self,
            self.submit,
            items,
            window=lambda: window,
            retry=retry or RetryPolicy(backoff_s=0.0),
            on_event=events.append,
            clock=self.clock,
        )
        return list(results), [event for event in events if isinstance(event, TaskEvent)]


def test_the_window_is_filled_and_never_exceeded() -> None:
    engine = Scripted()
    results, events = engine.run(range(20))
    assert sorted(results) == [(k, k * k) for k in range(20)]
    assert engine.most == 4
    assert engine.now == pytest.approx(10.0)
    assert [event.state for event in events] == ["done"] * 20


def test_the_window_follows_a_cluster_that_grows() -> None:
    engine = Scripted()
    in_flight = []

    def submit(item: int, number: int) -> Any:
        in_flight.append(len(engine.running) + 1)
        return engine.submit(item, number)

    def window() -> int:
        return 2 if engine.now < 5 else 6

    results = drive(
        engine, submit, range(40), window=window, retry=RetryPolicy(), clock=engine.clock
    )
    assert len(list(results)) == 40
    assert max(in_flight[:5]) == 2
    assert max(in_flight) == 6


def test_while_all_workers_are_away_nothing_is_given_up() -> None:
    engine = Scripted()
    results = drive(
        engine,
        engine.submit,
        range(20),
        window=lambda: 0 if 2 <= engine.now < 4 else 4,
        retry=RetryPolicy(),
        clock=engine.clock,
    )
    assert sorted(results) == [(k, k * k) for k in range(20)]


class Instant:
    """Finishes everything it is asked to wait for, and counts."""

    n_slots = 8

    def __init__(self) -> None:
        self.most = 0

    def wait(self, handles: Sequence[Any], timeout_s: float) -> Collection[Any]:
        self.most = max(self.most, len(handles))
        return handles

    def outcome(self, handle: Any) -> Outcome:
        return Outcome(value=handle)

    def take_losses(self) -> Collection[str]:
        return ()

    def cancel(self, handles: Sequence[Any], *, by_force: bool) -> None:
        assert not handles


def test_a_million_items_are_never_more_than_the_window() -> None:
    engine = Instant()
    window, n = 32, 10**6
    results = drive(
        engine, lambda item, number: item, range(n), window=lambda: window, retry=RetryPolicy()
    )
    total = 0
    for seen, (_, value) in enumerate(results):
        total += value
        if seen == 1000:
            before = sys.getallocatedblocks()
    assert total == n * (n - 1) // 2
    assert engine.most == window
    # Objects alive: some hundred for what is in flight, and nothing for what is done.
    assert sys.getallocatedblocks() - before < 5000


def test_what_waits_for_its_pause_keeps_its_place_in_the_window() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for k in range(100):
            taken.append(k)
            yield k

    engine = Scripted(errors={(k, 0): OSError("flaky") for k in range(100)})
    results = drive(
        engine,
        engine.submit,
        items(),
        window=lambda: 4,
        retry=RetryPolicy(backoff_s=1e-3, max_attempts=2),
        clock=engine.clock,
    )
    # The engine's clock stands still while nothing runs, so pauses only end while tries do.
    engine.n_slots = 1
    next(results)
    assert len(taken) <= 5


def test_a_try_over_time_is_ended_by_force_and_repeated() -> None:
    engine = Scripted(durations={(1, 0): 1e6})
    results, events = engine.run(range(3), RetryPolicy(timeout_s=10.0, backoff_s=0.0))
    assert sorted(results) == [(0, 0), (1, 1), (2, 4)]
    assert ((1, 0), True) in engine.cancelled
    assert [e.error for e in events if e.state == "retried"] == [
        "TimeoutError: ran for more than 10 s (timeout_s)"
    ]


def test_time_in_the_queue_is_not_time_over_the_limit() -> None:
    engine = Scripted(n_slots=1, durations={(k, 0): 8.0 for k in range(4)})
    results, events = engine.run(range(4), RetryPolicy(timeout_s=10.0))
    assert len(results) == 4
    assert {event.state for event in events} == {"done"}


def test_a_straggler_gets_one_twin_and_the_loser_is_cancelled() -> None:
    engine = Scripted(durations={(7, 0): 1e6})
    results, events = engine.run(range(8))
    assert sorted(results) == [(k, k * k) for k in range(8)]
    assert [(e.item, e.attempt) for e in events if e.state == "duplicated"] == [("7", 1)]
    assert engine.cancelled[0] == ((7, 0), False)
    assert engine.submissions.count((7, 1)) == 1
    assert engine.now < 10


def test_no_twin_while_the_workers_are_busy() -> None:
    engine = Scripted(n_slots=1, durations={(7, 0): 100.0})
    _, events = engine.run(range(8))
    assert {event.state for event in events} == {"done"}


def test_a_twin_that_fails_leaves_the_other_to_answer() -> None:
    engine = Scripted(durations={(7, 0): 20.0}, errors={(7, 1): OSError("flaky")})
    results, events = engine.run(range(8), RetryPolicy(max_attempts=1))
    assert (7, 49) in results
    assert "failed" not in {event.state for event in events}


def test_failing_for_good_cancels_the_rest() -> None:
    error = OSError("broken")
    engine = Scripted(errors={(0, k): error for k in range(3)}, durations={(1, 0): 1e6})
    with pytest.raises(TaskError, match="task 0 failed for good after 3 attempts") as got:
        engine.run(range(9))
    assert got.value.__cause__ is error
    assert not engine.running


def test_our_own_error_keeps_its_class() -> None:
    engine = Scripted(errors={(0, 0): StoreFullError("full")})
    with pytest.raises(StoreFullError) as got:
        engine.run([0])
    assert got.value.__notes__ == ["in task 0 on worker 1, after 1 attempt"]


def test_a_long_item_is_cut_in_messages() -> None:
    engine = Scripted(errors={(10**300, 0): ValueError("wrong")})
    with pytest.raises(TaskError) as got:
        engine.run([10**300])
    assert len(str(got.value)) < 400


def test_an_error_of_the_items_themselves_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("next")

    engine = Scripted()
    with pytest.raises(KeyError):
        engine.run(items())
    assert not engine.running


def test_a_worker_whose_tasks_the_engine_repeats_itself_is_told_of_once() -> None:
    found, events = (engine := Scripted(lost=["tcp://there:1"])).run(range(5))
    assert len(found) == len(engine.submissions) == 5
    (told,) = (e for e in events if e.state == "retried")
    assert (told.item, told.worker_lost) == ("whatever tcp://there:1 had to do", True)


def test_a_try_that_went_with_its_worker_is_told_from_one_that_failed() -> None:
    lost, failed = WorkerLostError("gone"), OSError("flaky")
    engine = Scripted(errors={(1, 0): lost, (2, 0): failed})
    _, events = engine.run(range(3))
    told = {e.item: (e.worker_lost, e.error) for e in events if e.state == "retried"}
    assert told == {"1": (True, "WorkerLostError: gone"), "2": (False, "OSError: flaky")}
