"""Tasks in threads of this process: no server, no pickling."""

from __future__ import annotations

import concurrent.futures
import operator
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from ntk_dist.errors import InvalidInputError
from ntk_dist.events import EventSink, ignore
from ntk_dist.executors.base import AbstractExecutor, AbstractShards, ShardCall
from ntk_dist.executors.drive import Handle
from ntk_dist.executors.outcome import Outcome, attempt
from ntk_dist.executors.retry import DEFAULT_RETRY, RetryPolicy
from ntk_dist.executors.tree import add_in_pairs

__all__ = ["LocalExecutor"]

Assignment = TypeVar("Assignment")
_Future = concurrent.futures.Future[Outcome]

# Idle threads end at once; one that is still inside a task is left to end with the process.
_JOIN_S = 2.0


class LocalExecutor(AbstractExecutor):
    """Threads of this process; JAX and compiled kernels release the interpreter lock.

    Parameters
    ----------
    n_workers
        Threads. One by default: a block already uses every core that ``NTK_DIST_THREADS`` allows,
        and each block in work costs its own memory. More help when tasks wait for storage.
    """

    name = "local"
    shares_memory = True

    def __init__(self, n_workers: int | None = None) -> None:
        if n_workers is not None and n_workers < 1:
            raise InvalidInputError(f"n_workers: expected at least 1 thread, got {n_workers}")
        self._n_workers = n_workers or 1
        self._queue: queue.SimpleQueue[tuple[_Future, Callable[[], Outcome]] | None]
        self._queue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._abandoned: set[_Future] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def runs_here(self) -> bool:
        """Always."""
        return True

    @property
    def n_workers(self) -> int:
        """Threads."""
        return self._n_workers

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._closed

    def shards(
        self,
        factory: Callable[[Assignment], Any],
        assignments: Sequence[Assignment],
        *,
        retry: RetryPolicy = DEFAULT_RETRY,
        on_event: EventSink = ignore,
    ) -> AbstractShards:
        """Plain objects of this process."""
        self._require_open()
        return _LocalShards(self, factory, assignments, retry, on_event)

    def close(self) -> None:
        """End the threads; one that is inside a task ends with it, or with the process."""
        self._closed = True
        for _ in list(self._threads):
            self._queue.put(None)
        deadline = time.monotonic() + _JOIN_S
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    def _submit(self, shipped: Any, item: Any) -> Handle:
        return self._run(lambda: attempt(shipped, item))

    def _run(self, call: Callable[[], Outcome]) -> _Future:
        if not self._threads:
            for _ in range(self._n_workers):
                self._add_thread()
        future: _Future = concurrent.futures.Future()
        self._queue.put((future, call))
        return future

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> Collection[Handle]:
        """Those whose thread is done with them."""
        when = concurrent.futures.FIRST_COMPLETED
        return concurrent.futures.wait(handles, timeout_s, return_when=when).done

    def outcome(self, handle: Handle) -> Outcome:
        """What the thread left."""
        future: _Future = handle
        return future.result()

    def cancel(self, handles: Sequence[Handle], *, by_force: bool) -> None:
        """Take queued tries back; a running one goes on, and by force another thread replaces it.

        A thread cannot be killed: what it does after a timeout is lost, idempotence makes it
        harmless, and it ends with its task.
        """
        for future in handles:
            if future.cancel() or not by_force:
                continue
            with self._lock:
                if future.done():
                    continue
                self._abandoned.add(future)
            self._add_thread()

    def _add_thread(self) -> None:
        # Daemons, unlike the threads of concurrent.futures, do not hold the process back after
        # Ctrl-C until a long block is done.
        thread = threading.Thread(target=self._work, name="ntk_dist-local", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            future, call = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                outcome = call()
            except BaseException as error:
                # Else the loop would wait for ever for a thread that an interrupt has ended.
                outcome = Outcome.failed(error)
            with self._lock:
                future.set_result(outcome)
                if future in self._abandoned:
                    self._abandoned.discard(future)
                    return
            # An idle thread must not keep the last block alive.
            del entry, future, call, outcome


class _LocalShards(AbstractShards):
    """Objects by index; built in the call that first needs them."""

    def __init__(
        self,
        executor: LocalExecutor,
        factory: Callable[[Assignment], Any],
        assignments: Sequence[Assignment],
        retry: RetryPolicy,
        on_event: EventSink,
    ) -> None:
        super().__init__(executor, len(assignments), retry, on_event)
        self._local = executor
        self._factory = factory
        self._assignments = list(assignments)
        self._objects: dict[int, Any] = {}

    def _submit(self, call: ShardCall, index: int, *, fresh: bool) -> Handle:
        if fresh:
            self._objects.pop(index, None)
        return self._local._run(lambda: attempt(self._answer, index, call.method, call.args))

    def _submit_sum(self, parts: Sequence[Any]) -> Handle:
        return self._local._run(lambda: attempt(add_in_pairs, parts, operator.add))

    def _answer(self, index: int, method: str, args: tuple[Any, ...]) -> Any:
        shard = self._objects.get(index)
        if shard is None:
            shard = self._objects[index] = self._factory(self._assignments[index])
        return getattr(shard, method)(*args)

    def _free(self) -> None:
        self._objects.clear()
