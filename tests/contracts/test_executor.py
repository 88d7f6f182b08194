"""What every executor promises, checked on threads, on Dask workers and on Ray workers."""

from __future__ import annotations

import itertools
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from required import require

from ntk_dist.errors import BlockCorruptError, ExecutorError, StoreFullError, TaskError
from ntk_dist.events import MemoryEvent, TaskEvent, report
from ntk_dist.executors import AbstractExecutor, RetryPolicy, make_executor
from ntk_dist.executors.tree import add_in_pairs

# Workers cannot import this file; what it defines travels whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

AT_ONCE = RetryPolicy(backoff_s=0.0)
N_WORKERS = 2


@pytest.fixture(
    scope="module",
    params=[
        "local",
        pytest.param("dask", marks=pytest.mark.dask),
        pytest.param("ray", marks=pytest.mark.ray),
    ],
)
def executor(request: pytest.FixtureRequest) -> Iterator[AbstractExecutor]:
    engine: str = request.param
    if engine != "local":
        require(engine)
    if engine == "ray":
        import ray

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with make_executor(f"{engine}:{N_WORKERS}") as made:
        yield made


@pytest.fixture
def processes(executor: AbstractExecutor) -> AbstractExecutor:
    """The executor, where its workers are processes."""
    if executor.shares_memory:
        pytest.skip("this executor has no worker processes")
    return executor


class Unpicklable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Scripted:
    """Squares its item; what happens on the k-th call of an item is written in its script."""

    folder: Path
    script: dict[int, list[Callable[[], Any]]] = field(default_factory=dict)

    def __call__(self, item: int) -> int:
        for k in itertools.count():
            try:
                (self.folder / f"{item}-{k}").touch(exist_ok=False)
            except FileExistsError:
                continue
            break
        actions = self.script.get(item, [])
        if k < len(actions):
            actions[k]()
        return item * item

    def calls(self, item: int | None = None) -> int:
        return len(list(self.folder.glob("*-*" if item is None else f"{item}-*")))


def raising(error: Callable[[], BaseException]) -> Callable[[], None]:
    def action() -> None:
        raise error()

    return action


def squares(items: Any) -> list[tuple[int, int]]:
    return [(item, item * item) for item in items]


def test_every_item_comes_once_whatever_the_order(executor: AbstractExecutor) -> None:
    assert sorted(executor.map_unordered(lambda x: x * x, range(40))) == squares(range(40))


def test_workers_that_were_started_here_run_here(executor: AbstractExecutor) -> None:
    assert executor.runs_here
    assert executor.n_workers >= 1


def test_no_items_give_no_results(executor: AbstractExecutor) -> None:
    assert list(executor.map_unordered(lambda x: x, [])) == []


def test_a_thousand_tiny_tasks_finish(executor: AbstractExecutor) -> None:
    assert dict(executor.map_unordered(lambda x: -x, range(1000))) == {x: -x for x in range(1000)}


def test_items_need_not_be_hashable_and_arrays_travel_unchanged(
    executor: AbstractExecutor,
) -> None:
    items = [np.full((3, 2), k, dtype=np.float32) for k in range(3)]
    results = list(executor.map_unordered(lambda x: 2 * x, items))
    assert len(results) == 3
    for item, result in results:
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, 2 * item)


def test_items_are_consumed_as_the_window_frees(executor: AbstractExecutor) -> None:
    window = 4 * executor.n_slots
    taken: list[int] = []

    def items() -> Iterator[int]:
        for k in itertools.count():
            taken.append(k)
            yield k

    results = executor.map_unordered(lambda x: x, items())
    assert taken == []
    for seen in range(1, 30):
        next(results)
        assert len(taken) <= seen + window
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 29 + window


def test_closing_early_cancels_what_waits(executor: AbstractExecutor, tmp_path: Path) -> None:
    window = 4 * executor.n_slots
    slow = Scripted(tmp_path, {k: [lambda: time.sleep(0.4)] for k in range(1, 100)})
    results = executor.map_unordered(slow, range(100))
    next(results)
    results.close()  # type: ignore[attr-defined]
    # Whatever was not cancelled runs before this.
    list(executor.map_unordered(lambda x: time.sleep(0.1), range(window)))
    assert 0 < slow.calls() < window


def test_a_failure_is_repeated_until_it_succeeds(
    executor: AbstractExecutor, tmp_path: Path
) -> None:
    task = Scripted(
        tmp_path,
        {3: [raising(lambda: OSError("flaky")), raising(lambda: BlockCorruptError("damaged"))]},
    )
    events: list[Any] = []
    results = executor.map_unordered(task, range(6), retry=AT_ONCE, on_event=events.append)
    assert sorted(results) == squares(range(6))
    assert task.calls(3) == 3
    assert task.calls() == 8
    mine = [(e.state, e.attempt, e.error) for e in events if e.item == "3"]
    assert mine == [
        ("retried", 1, "OSError: flaky"),
        ("retried", 2, "BlockCorruptError: damaged"),
        ("done", 3, ""),
    ]
    assert sorted(e.item for e in events if e.state == "done") == list("012345")
    assert all(isinstance(e, TaskEvent) and e.seconds >= 0 for e in events)


def test_attempts_run_out(executor: AbstractExecutor, tmp_path: Path) -> None:
    task = Scripted(tmp_path, {2: [raising(lambda: OSError("broken"))] * 9})
    events: list[Any] = []
    with pytest.raises(TaskError, match=r"task 2 .* 3 attempts, .*process.*OSError: broken") as got:
        list(executor.map_unordered(task, [1, 2], retry=AT_ONCE, on_event=events.append))
    assert isinstance(got.value.__cause__, OSError)
    assert task.calls(2) == 3
    assert [e.state for e in events if e.item == "2"] == ["retried", "retried", "failed"]


def test_what_no_other_try_can_mend_is_raised_at_once(
    executor: AbstractExecutor, tmp_path: Path
) -> None:
    task = Scripted(tmp_path, {1: [raising(lambda: ValueError("wrong data"))]})
    with pytest.raises(TaskError, match="ValueError: wrong data") as got:
        list(executor.map_unordered(task, [1]))
    assert isinstance(got.value.__cause__, ValueError)
    assert task.calls() == 1


def test_what_a_task_reports_comes_home_with_it(executor: AbstractExecutor) -> None:
    def task(item: int) -> int:
        report(MemoryEvent(n_bytes=item, holder="task"))
        return item

    events: list[Any] = []
    assert sorted(executor.map_unordered(task, range(3), on_event=events.append)) == [
        (item, item) for item in range(3)
    ]
    told = [event for event in events if isinstance(event, MemoryEvent)]
    assert sorted(event.n_bytes for event in told) == [0, 1, 2]
    assert len(events) == 6


def test_our_own_errors_come_as_themselves(executor: AbstractExecutor, tmp_path: Path) -> None:
    task = Scripted(tmp_path, {1: [raising(lambda: StoreFullError("no space left"))]})
    with pytest.raises(StoreFullError, match="no space left") as got:
        list(executor.map_unordered(task, [1]))
    assert "in task 1 on " in got.value.__notes__[-1]
    assert task.calls() == 1


def test_an_exception_that_does_not_pickle_still_tells(executor: AbstractExecutor) -> None:
    def task(item: int) -> None:
        raise Unpicklable("the message", "survives")

    with pytest.raises(TaskError, match="the message survives"):
        list(executor.map_unordered(task, [1], retry=AT_ONCE))


def test_a_result_that_does_not_pickle_is_an_error(processes: AbstractExecutor) -> None:
    with pytest.raises(TaskError, match="pickle"):
        list(processes.map_unordered(lambda x: threading.Lock(), [1], retry=AT_ONCE))


def test_a_straggler_gets_a_twin_and_the_answer_is_the_same(
    executor: AbstractExecutor, tmp_path: Path
) -> None:
    task = Scripted(tmp_path, {9: [lambda: time.sleep(4.0)]})
    events: list[Any] = []
    patient = RetryPolicy(straggler_min_s=0.5, straggler_factor=2.0)
    results = executor.map_unordered(task, range(10), retry=patient, on_event=events.append)
    assert sorted(results) == squares(range(10))
    assert [e.item for e in events if e.state == "duplicated"] == ["9"]
    assert task.calls(9) == 2


def test_a_try_that_hangs_is_given_up(executor: AbstractExecutor, tmp_path: Path) -> None:
    task = Scripted(tmp_path, {0: [lambda: time.sleep(300.0)]})
    events: list[Any] = []
    impatient = RetryPolicy(timeout_s=2.0, max_attempts=5)
    results = executor.map_unordered(task, [0], retry=impatient, on_event=events.append)
    assert list(results) == [(0, 0)]
    assert "more than 2 s" in events[0].error
    # The place is free again: as many tasks as there are workers run side by side.
    assert sorted(executor.map_unordered(lambda x: x * x, range(8))) == squares(range(8))


def test_a_killed_worker_costs_nothing_but_time(
    processes: AbstractExecutor, tmp_path: Path
) -> None:
    task = Scripted(tmp_path, {4: [lambda: os.kill(os.getpid(), signal.SIGKILL)]})
    assert sorted(processes.map_unordered(task, range(8))) == squares(range(8))
    assert task.calls(4) == 2


def test_a_task_that_always_kills_its_worker_fails(processes: AbstractExecutor) -> None:
    with pytest.raises(TaskError, match=r"task 1 failed for good"):
        list(processes.map_unordered(lambda x: os._exit(1), [1], retry=AT_ONCE))
    assert list(processes.map_unordered(lambda x: x, [5])) == [(5, 5)]


class Tally:
    """A shard: its assignment, the calls it has answered, and its process."""

    def __init__(self, assignment: str) -> None:
        self.assignment = assignment
        self.calls = 0

    def ask(self, *args: Any) -> tuple[str, int, tuple[Any, ...], int]:
        self.calls += 1
        return self.assignment, self.calls, args, os.getpid()

    def total(self, array: np.ndarray) -> float:
        return float(array.sum())

    def fail_once(self, folder: Path) -> int:
        self.calls += 1
        Scripted(folder, {0: [raising(lambda: OSError("flaky"))]})(0)
        return self.calls

    def refuse(self) -> None:
        raise ValueError("not this way")


def test_shards_answer_in_order_and_keep_their_state(executor: AbstractExecutor) -> None:
    with executor.shards(Tally, ["a", "b", "c"]) as shards:
        assert len(shards) == 3
        first = shards.call("ask", 1, "two")
        second = shards.call("ask")
    assert [answer[:3] for answer in first] == [(name, 1, (1, "two")) for name in "abc"]
    assert [answer[:3] for answer in second] == [(name, 2, ()) for name in "abc"]
    assert [answer[3] for answer in first] == [answer[3] for answer in second]


def test_shards_are_spread_over_the_workers(processes: AbstractExecutor) -> None:
    with processes.shards(Tally, ["a", "b"]) as shards:
        assert len({answer[3] for answer in shards.call("ask")}) == N_WORKERS


def test_large_arguments_reach_every_shard(executor: AbstractExecutor) -> None:
    array = np.ones((1000, 300))  # 2.4 MB: above what is sent inline
    with executor.shards(Tally, ["a", "b", "c"]) as shards:
        assert shards.call("total", array) == [300_000.0] * 3
        assert shards.call("total", 2 * array) == [600_000.0] * 3


def test_a_large_task_reaches_every_worker(executor: AbstractExecutor) -> None:
    array = np.arange(300_000.0)  # 2.4 MB: above what is sent with every item
    found = executor.map_unordered(lambda k: float(array[k]), range(0, 300_000, 10_000))
    assert sorted(found) == [(k, float(k)) for k in range(0, 300_000, 10_000)]


class Opened:
    """A task that leaves a mark wherever it is unpickled, and says which process it runs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, item: int) -> int:
        return os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for k in itertools.count():
            mark = self.folder / f"{os.getpid()}-{k}"
            if not mark.exists():
                mark.touch()
                return


def test_a_worker_opens_a_task_once_for_all_its_items(
    processes: AbstractExecutor, tmp_path: Path
) -> None:
    ran = {pid for _, pid in processes.map_unordered(Opened(tmp_path), range(12))}
    opened = [path.name for path in tmp_path.iterdir()]
    assert sorted(opened) == sorted(f"{pid}-0" for pid in ran)


def test_tasks_run_beside_living_shards(executor: AbstractExecutor) -> None:
    with executor.shards(Tally, ["a", "b", "c", "d"]) as shards:
        shards.call("ask")
        assert sorted(executor.map_unordered(lambda x: x * x, range(8))) == squares(range(8))
        assert [answer[1] for answer in shards.call("ask")] == [2] * 4


def test_a_shard_that_fails_is_built_again(executor: AbstractExecutor, tmp_path: Path) -> None:
    events: list[Any] = []
    with executor.shards(Tally, ["a"], retry=AT_ONCE, on_event=events.append) as shards:
        shards.call("ask")
        assert shards.call("fail_once", tmp_path) == [1]
    assert [(e.state, e.item) for e in events] == [("retried", "fail_once of shard 0")]


def test_a_shard_that_refuses_fails_the_call(executor: AbstractExecutor) -> None:
    with (
        executor.shards(Tally, ["a"]) as shards,
        pytest.raises(TaskError, match=r"refuse of shard 0 .*not this way"),
    ):
        shards.call("refuse")


def test_a_shard_that_cannot_be_built_fails_the_call(executor: AbstractExecutor) -> None:
    def factory(assignment: str) -> Tally:
        raise StoreFullError("no room")

    with executor.shards(factory, ["a"]) as shards, pytest.raises(StoreFullError, match="no room"):
        shards.call("ask")


def test_a_shard_that_could_not_be_built_is_by_a_later_call(
    executor: AbstractExecutor, tmp_path: Path
) -> None:
    room = tmp_path / "room"

    def factory(assignment: str) -> Tally:
        if not room.exists():
            raise StoreFullError("no room")
        return Tally(assignment)

    with executor.shards(factory, ["a"]) as shards:
        with pytest.raises(StoreFullError, match="no room"):
            shards.call("ask")
        room.touch()
        assert shards.call("ask")[0][:2] == ("a", 1)


def test_a_lost_shard_is_built_again_on_a_live_worker(
    processes: AbstractExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if processes.name == "dask":
        # With twelve times as many busy processes as CPUs a worker takes longer than its shard
        # waits for it; that it moves in with another one then is a test of its own.
        monkeypatch.setattr("ntk_dist.executors.dask_shards.RESTART_S", 200.0)
    events: list[Any] = []
    with processes.shards(Tally, ["a", "b"], on_event=events.append) as shards:
        before = [answer[3] for answer in shards.call("ask")]
        os.kill(before[0], signal.SIGKILL)
        after = shards.call("ask", "again")
        assert [answer[0] for answer in after] == ["a", "b"]
        assert after[0][1] == 1
        assert after[1][1:] == (2, ("again",), before[1])
        assert after[0][3] not in before
        array = np.ones(300_000)
        assert shards.call("total", array) == [300_000.0] * 2
    lost = [e.worker_lost for e in events if e.state == "retried"]
    assert lost
    assert all(lost)


class Deadly:
    """A number whose first addition anywhere ends the process that does it."""

    def __init__(self, number: float, folder: Path) -> None:
        self.number, self.folder = number, folder

    def __add__(self, other: Deadly) -> Deadly:
        Scripted(self.folder, {0: [lambda: os.kill(os.getpid(), signal.SIGKILL)]})(0)
        return Deadly(self.number + other.number, self.folder)


class Noisy:
    """A shard whose answers show in their last bits in which order they were added."""

    def __init__(self, assignment: int) -> None:
        self.assignment = assignment

    def vector(self, n: int, hasty: bool = False) -> np.ndarray:
        if hasty:  # the last ones answer first
            time.sleep(0.1 * max(0, 2 - self.assignment))
        return np.random.default_rng(self.assignment).standard_normal(n) * 10.0**self.assignment

    def vector_or_death(self, n: int, folder: Path) -> np.ndarray:
        die = Scripted(folder, {2: [lambda: os.kill(os.getpid(), signal.SIGKILL)]})
        die(self.assignment)
        return self.vector(n)

    def deadly(self, folder: Path) -> Deadly:
        return Deadly(float(self.assignment), folder)

    def reported(self) -> np.ndarray:
        report(MemoryEvent(n_bytes=self.assignment, holder="shard"))
        return np.full(3, self.assignment)

    def refuse(self) -> np.ndarray:
        if self.assignment == 1:
            raise ValueError("not this way")
        return np.ones(3)


def sum_of(n_shards: int, n: int) -> np.ndarray:
    return add_in_pairs([Noisy(k).vector(n) for k in range(n_shards)], operator.add)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_sum_has_the_same_bytes_whoever_answers_first(
    executor: AbstractExecutor, n_shards: int
) -> None:
    with executor.shards(Noisy, range(n_shards)) as shards:
        for n in (7, 300_000):  # 2.4 MB: above what engines send with a message
            total = shards.sum("vector", n, True)
            assert total.tobytes() == sum_of(n_shards, n).tobytes()
            total += 1  # the caller's own


def test_a_sum_costs_two_tasks_per_shard_and_brings_one_array_home(
    executor: AbstractExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[int] = []
    plain = executor.outcome

    def counted(handle: Any) -> Any:
        outcome = plain(handle)
        if executor.shares_memory or isinstance(outcome.value, np.ndarray):
            came.append(outcome.value.nbytes)
        else:
            came.append(0)
        return outcome

    monkeypatch.setattr(executor, "outcome", counted)
    with executor.shards(Noisy, range(3)) as shards:
        shards.sum("vector", 1000)
        here = 4 if executor.shares_memory else 1
        assert len(came) == 4  # three answers and their sum; additions report to nobody
        assert sum(came) == here * 8000


def test_a_worker_killed_in_the_middle_of_a_sum_changes_no_bit(
    processes: AbstractExecutor, tmp_path: Path
) -> None:
    events: list[Any] = []
    with processes.shards(Noisy, range(3), on_event=events.append) as shards:
        shards.call("vector", 1)
        total = shards.sum("vector_or_death", 300_000, tmp_path)
        assert total.tobytes() == sum_of(3, 300_000).tobytes()
        assert shards.sum("vector", 7).tobytes() == sum_of(3, 7).tobytes()
    assert "retried" in {event.state for event in events}


def test_a_worker_killed_while_it_adds_is_replaced(
    processes: AbstractExecutor, tmp_path: Path
) -> None:
    events: list[Any] = []
    with processes.shards(Noisy, range(2), on_event=events.append) as shards:
        assert shards.sum("deadly", tmp_path).number == 1.0
    assert "sum of deadly of 2 shards" in {event.item for event in events}


@pytest.mark.parametrize("n_shards", [1, 3])
def test_what_shards_report_on_the_way_to_a_sum_comes_home(
    executor: AbstractExecutor, n_shards: int
) -> None:
    events: list[Any] = []
    with executor.shards(Noisy, range(n_shards), on_event=events.append) as shards:
        assert shards.sum("reported").tolist() == [sum(range(n_shards))] * 3
    told = sorted(event.n_bytes for event in events if isinstance(event, MemoryEvent))
    assert told == list(range(n_shards))


def test_a_shard_that_refuses_fails_the_sum(executor: AbstractExecutor) -> None:
    with (
        executor.shards(Noisy, range(2)) as shards,
        pytest.raises(TaskError, match=r"refuse of shard 1 .*process.*not this way"),
    ):
        shards.sum("refuse")


def test_closed_shards_say_so(executor: AbstractExecutor) -> None:
    shards = executor.shards(Tally, ["a"])
    shards.close()
    shards.close()
    with pytest.raises(ExecutorError, match="closed"):
        shards.call("ask")
    with pytest.raises(ExecutorError, match="closed"):
        shards.sum("ask")
