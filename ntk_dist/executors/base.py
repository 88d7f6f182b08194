"""What an executor promises, whoever runs the tasks.

Law: tasks are idempotent, so any order, any duplicate and any lost worker give the same results.
Retries, stragglers, time limits and events belong to :func:`ntk_dist.executors.drive.drive` and
are therefore the same on every engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from ntk_dist.errors import ExecutorError
from ntk_dist.events import Event, EventSink, TaskEvent, ignore
from ntk_dist.executors.drive import Handle, drive
from ntk_dist.executors.outcome import Outcome
from ntk_dist.executors.retry import DEFAULT_RETRY, RetryPolicy

__all__ = ["AbstractExecutor", "AbstractShards", "ShardCall"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Assignment = TypeVar("Assignment")

# Four tries per worker in flight keep it busy over the caller's own work between two results, and
# bound what a lost worker costs.
_WINDOW_PER_SLOT = 4


class AbstractExecutor(ABC):
    """Runs tasks and holds shards on one or more workers; a context manager."""

    name: str
    """``local``, ``dask`` or ``ray``."""
    shares_memory: bool
    """Tasks run in this process: arguments and results are passed by reference, not pickled."""

    @property
    @abstractmethod
    def runs_here(self) -> bool:
        """Whether all workers share this machine's memory with the caller."""

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """Workers alive now: how many shards are worth having."""

    @property
    def n_slots(self) -> int:
        """Tasks that run at one time: ``n_workers``, or more if a worker has several threads."""
        return self.n_workers

    def map_unordered(
        self,
        task: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        retry: RetryPolicy = DEFAULT_RETRY,
        on_event: EventSink = ignore,
    ) -> Iterator[tuple[Item, Result]]:
        """Every item with ``task(item)``, each exactly once, in order of completion.

        Closing the iterator early cancels what is in flight.

        Parameters
        ----------
        task
            Idempotent. Pickled once unless the executor shares memory; keep what it carries
            small, for it may travel with every item.
        items
            Consumed lazily: at most four per slot are in flight.
        retry
            How patient to be with one item.
        on_event
            Receives a :class:`~ntk_dist.events.TaskEvent` in this thread.

        Raises
        ------
        TaskError
            An item failed for good; the message names item, attempts and host.
        NTKDistError
            The task raised an error of this package that no other try can mend; as itself.
        """
        self._require_open()
        shipped = self._ship(task)
        return drive(
            self,
            lambda item, number: self._submit(shipped, item),
            items,
            window=lambda: _WINDOW_PER_SLOT * self.n_slots,
            retry=retry,
            on_event=on_event,
        )

    @abstractmethod
    def shards(
        self,
        factory: Callable[[Assignment], Any],
        assignments: Sequence[Assignment],
        *,
        retry: RetryPolicy = DEFAULT_RETRY,
        on_event: EventSink = ignore,
    ) -> AbstractShards:
        """Long-lived objects on the workers, ``factory(assignment)`` for each assignment.

        They are built by the first call, in parallel, and spread evenly over the workers.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop what this executor started; a second call does nothing."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Estimators are cloned by deep copy; workers cannot be copied, a copy means the same ones.
        return self

    def _require_open(self) -> None:
        if self.closed:
            raise ExecutorError(f"this {self.name} executor is closed; make a new one")

    def _ship(self, task: Callable[..., Any]) -> Any:
        """The task in the form :meth:`_submit` takes, made once for all items."""
        return task

    @abstractmethod
    def _submit(self, shipped: Any, item: Any) -> Handle:
        """Start one try."""

    @abstractmethod
    def wait(self, handles: Sequence[Handle], timeout_s: float) -> Collection[Handle]:
        """Those that are finished, failed or lost; empty when none is within ``timeout_s``."""

    @abstractmethod
    def outcome(self, handle: Handle) -> Outcome:
        """What a handle that :meth:`wait` returned came to."""

    def take_losses(self) -> Collection[str]:
        """Workers that went and that no outcome has told of: none, where outcomes tell of all."""
        return ()

    @abstractmethod
    def cancel(self, handles: Sequence[Handle], *, by_force: bool) -> None:
        """Forget these tries; ``by_force``: free the worker that hangs on one, at any price."""


@dataclass(frozen=True)
class ShardCall:
    """What every shard of a group is asked."""

    method: str
    args: tuple[Any, ...]
    packed: Any
    """What :meth:`AbstractShards._pack` made of ``args``."""
    keep: bool = False
    """Outcomes are references to the answers, for :meth:`AbstractShards._submit_sum`."""


class AbstractShards(ABC):
    """Objects that live on workers and are called together; one caller at a time.

    Law: a shard's answer is a function of its assignment and the call's arguments. What it keeps
    between calls is a cache: a lost shard is built again from its assignment on another worker,
    and the call repeated, without the caller seeing it. Arguments are read-only: on some engines
    all shards of a worker see the same memory.
    """

    def __init__(
        self, executor: AbstractExecutor, n_shards: int, retry: RetryPolicy, on_event: EventSink
    ) -> None:
        self._executor = executor
        self._n_shards = n_shards
        # A twin would need a second shard with its own resident blocks: dearer than waiting.
        self._retry = replace(retry, straggler_factor=None)
        self._on_event = on_event
        self._closed = False

    def __len__(self) -> int:
        return self._n_shards

    def call(self, method: str, *args: Any) -> list[Any]:
        """Every shard's ``method(*args)``, in the order of the assignments.

        One engine task per shard.

        Raises
        ------
        TaskError
            A shard failed for good; the message names shard, attempts and host.
        NTKDistError
            A shard raised an error of this package that no other try can mend; as itself.
        """
        self._require_open()
        return self._ask(ShardCall(method, args, self._pack(args)))

    def sum(self, method: str, *args: Any) -> Any:
        """The sum of every shard's ``method(*args)``, which are arrays of one shape.

        They are added on the workers, in the order of :func:`add_in_pairs`: each addition moves
        one array from a worker to another, and one array comes back here, whatever the number of
        shards. The bytes are the same whichever shard answers first, and after one was lost.

        One engine task per shard and one per addition, so fewer than two per shard.

        Raises
        ------
        TaskError, NTKDistError
            As :meth:`call`.
        """
        self._require_open()
        call = ShardCall(method, args, self._pack(args), keep=True)

        def start(text: str, number: int) -> Handle:
            # Answers that went with a worker are all asked for again: to build its shard anew
            # takes longer than what the others do meanwhile.
            return self._submit_sum(self._ask(call))

        ((_, total),) = drive(
            self._executor,
            start,
            [f"sum of {method} of {len(self)} shards"],
            window=lambda: 1,
            retry=self._retry,
            on_event=self._report,
        )
        return total

    def close(self) -> None:
        """Free what the shards hold; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _require_open(self) -> None:
        self._executor._require_open()
        if self._closed:
            raise ExecutorError("these shards are closed; ask the executor for new ones")

    def _ask(self, call: ShardCall) -> list[Any]:
        """Every shard's answer, or a reference to it, in the order of the assignments."""
        answers = drive(
            self._executor,
            lambda index, number: self._submit(call, index, fresh=number > 1),
            range(len(self)),
            window=lambda: max(1, len(self)),
            retry=self._retry,
            on_event=self._report,
            label=lambda index: f"{call.method} of shard {index}",
        )
        by_index = dict(answers)
        return [by_index[index] for index in range(len(self))]

    def _report(self, event: Event) -> None:
        # A solver makes a call per step: "done" of each shard would drown what is worth knowing.
        if not (isinstance(event, TaskEvent) and event.state == "done"):
            self._on_event(event)

    def _pack(self, args: tuple[Any, ...]) -> Any:
        """The arguments in the form all shards share, made once for the call."""
        return args

    @abstractmethod
    def _submit(self, call: ShardCall, index: int, *, fresh: bool) -> Handle:
        """Start the call of one shard; ``fresh``: build it again first, on a live worker."""

    @abstractmethod
    def _submit_sum(self, parts: Sequence[Any]) -> Handle:
        """Start the additions of answers that workers kept; the outcome is their sum."""

    @abstractmethod
    def _free(self) -> None:
        """Let the workers drop the objects."""
