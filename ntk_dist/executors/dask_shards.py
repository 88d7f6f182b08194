"""Shards on Dask workers: where each lives, and how it is built again."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import cloudpickle
from dask.sizeof import sizeof

from ntk_dist.events import EventSink
from ntk_dist.executors.base import AbstractExecutor, AbstractShards, ShardCall
from ntk_dist.executors.dask_worker import add_kept, call_shard, hold_shard, keep_answer
from ntk_dist.executors.dask_workers import DaskTry, DaskWorkers
from ntk_dist.executors.drive import Handle, loss_of
from ntk_dist.executors.retry import RetryPolicy
from ntk_dist.executors.tree import add_in_pairs

__all__ = ["BROADCAST_BYTES", "DaskShards"]

log = logging.getLogger(__name__)

Assignment = TypeVar("Assignment")

RESTART_S = 30.0
"""A nanny has a new worker process up within about 3 s, or 13 s on a machine with four times as
many busy processes as CPUs; a shard waits this long for an empty one before it moves in with
another, which would double that worker's memory."""
BROADCAST_BYTES = 2**20
"""Above this, arguments travel once per worker instead of once per shard, in bytes."""


class DaskShards(AbstractShards):
    """Tasks that are pinned to a worker each, as are the tasks that call them."""

    def __init__(
        self,
        executor: AbstractExecutor,
        workers: DaskWorkers,
        factory: Callable[[Assignment], Any],
        assignments: Sequence[Assignment],
        retry: RetryPolicy,
        on_event: EventSink,
    ) -> None:
        super().__init__(executor, len(assignments), retry, on_event)
        self._workers = workers
        self._recipes = [cloudpickle.dumps((factory, one)) for one in assignments]
        self._homes: dict[int, str] = {}
        self._held: dict[int, DaskTry] = {}
        """The task that each shard belongs to: it lives while the answer is wanted here."""
        self._said = 0
        """How many missing workers the log has said that shards wait for."""

    def _pack(self, args: tuple[Any, ...]) -> Any:
        """Large arguments as one object that every worker has, small ones as they are."""
        if sizeof(args) < BROADCAST_BYTES:
            return args
        homes = sorted(set(self._homes.values()) & set(self._workers.alive()))
        # Before the first call no shard has a home; then any worker may need them.
        client = self._workers.client
        return client.scatter(args, workers=homes or None, broadcast=True, hash=False)

    def _submit(self, call: ShardCall, index: int, *, fresh: bool) -> Handle:
        if fresh or index not in self._held:
            # A worker lets go of an old shard before it has a new one.
            self._held.pop(index, None)
            self._homes[index] = home = self._find_home(index)
            self._held[index] = self._workers.send(home, hold_shard, self._recipes[index])
        # A broadcast copy may have gone with the worker that is being replaced.
        sent = self._pack(call.args) if fresh else call.packed
        function = keep_answer if call.keep else call_shard
        asked = self._held[index].future, call.method, sent
        return self._workers.send(self._homes[index], function, *asked, keep=call.keep)

    def _submit_sum(self, parts: Sequence[Any]) -> Handle:
        return replace(add_in_pairs(parts, self._add), keep=False)

    def _add(self, first: DaskTry, second: DaskTry) -> DaskTry:
        """Start one addition on the worker that has the first of two parts."""
        total = self._workers.send(
            first.worker,
            add_kept,
            first.future,
            second.future,
            needs=first.needs | second.needs,
        )
        # The scheduler forgets a value as soon as nobody here wants it, even one that a task it is
        # about to hear of needs; and a value that nobody needs any more fills its worker's memory.
        wanted = [first.future, second.future]
        total.future.add_done_callback(lambda _: wanted.clear())
        return total

    def _find_home(self, index: int) -> str:
        """The shard's own worker if it is alive, else the emptiest one."""
        deadline = time.monotonic() + RESTART_S
        before = self._homes.pop(index, None)
        while True:
            alive = self._workers.present()
            if before in alive:
                return str(before)
            load = Counter(self._homes.values())
            home = min(sorted(alive), key=lambda worker: load[worker])
            if load[home] < -(-len(self) // self._workers.expected):
                return home
            self._tell_of_waiting(self._workers.expected - len(alive))
            if time.monotonic() > deadline:
                log.warning("nobody came: %d Dask workers take what the others held", len(alive))
                # The lost worker does not come back: wait for it once, not once per shard.
                self._workers.expected = len(alive)
            time.sleep(0.1)

    def _tell_of_waiting(self, n_missing: int) -> None:
        """Say once what a shard waits for, and what nobody knew because no task was there."""
        if n_missing > self._said:
            log.warning(
                "%d of %d Dask workers gone, waiting up to %g s for more: then those left take "
                "what the others held",
                n_missing,
                self._workers.expected,
                RESTART_S,
            )
        self._said = n_missing
        for worker in self._executor.take_losses():
            self._on_event(loss_of(worker))

    def _free(self) -> None:
        self._homes.clear()
        self._held.clear()
