"""Tasks on Dask workers: processes of this machine, or a cluster that is already running."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ntk_dist.errors import ExecutorUnreachableError, InvalidInputError, MissingDependencyError
from ntk_dist.events import EventSink, TaskEvent, ignore
from ntk_dist.executors.base import AbstractExecutor, AbstractShards, ShardCall
from ntk_dist.executors.drive import Handle
from ntk_dist.executors.outcome import AttemptFailed, Outcome, WorkerLostError
from ntk_dist.executors.retry import DEFAULT_RETRY, RetryPolicy
from ntk_dist.executors.tree import add_in_pairs

try:
    import cloudpickle
    import distributed
    from dask.sizeof import sizeof
    from distributed.scheduler import KilledWorker
except ImportError as error:
    raise MissingDependencyError(
        "the dask executor needs Dask, which is not installed; "
        "pip install 'ntk_dist[dask]', or choose executor 'local'"
    ) from error

from ntk_dist.executors.dask_cluster import start_cluster
from ntk_dist.executors.dask_worker import (
    add_kept,
    call_shard,
    hold_shard,
    keep_answer,
    run_task,
)

__all__ = ["DaskExecutor"]

log = logging.getLogger(__name__)

Assignment = TypeVar("Assignment")

# A scheduler that is there answers in milliseconds; a person waits ten seconds before doubting.
_CONNECT_S = 8.0
# A nanny has a new worker process up within about 3 s, or 13 s on a machine with four times as
# many busy processes as CPUs; a shard waits this long for an empty one before it moves in with
# another, which would double that worker's memory.
_RESTART_S = 30.0
# Time for a nanny to hear that its worker must be restarted.
_ASK_S = 1.0
# A cluster with no worker at all may be scaling up.
_FIRST_WORKER_S = 30.0
# After so long without a result that was announced, look whether its worker is still there.
_FETCH_S = 2.0
# Above this, arguments travel once per worker instead of once per shard, in bytes.
_BROADCAST_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class _DaskTry:
    """A future, and what it depends on."""

    future: Any
    worker: str | None = None
    """The one it must run on, if it calls a shard."""
    needs: frozenset[str] = frozenset()
    """Workers without which it never ends."""
    keep: bool = False
    """Its value stays where it is, and the try itself is the reference to it."""


@dataclass(frozen=True)
class _Shipped:
    """A pickled task, which every worker also holds if it is large."""

    pickled: bytes
    broadcast: Any = None

    def best(self) -> Any:
        """The broadcast copy, unless all workers that held one are gone."""
        held = self.broadcast is not None and self.broadcast.status == "finished"
        return self.broadcast if held else self.pickled


class DaskExecutor(AbstractExecutor):
    """Dask workers.

    Parameters
    ----------
    address
        ``dask://host:port``, ``tcp://host:port`` or ``tls://host:port`` of a running scheduler
        (certificates come from Dask's own configuration). None starts workers on this machine.
    n_workers
        Worker processes to start, one thread each; by default one per CPU or GPU. Only without
        ``address``.
    env
        More environment variables for the workers started here.

    Raises
    ------
    ExecutorUnreachableError
        Nothing answers at ``address`` within 8 s, or no worker joins it within 30 s.
    """

    name = "dask"
    shares_memory = False

    def __init__(
        self,
        address: str | None = None,
        n_workers: int | None = None,
        *,
        env: Mapping[str, str] | None = None,
    ) -> None:
        if address is not None and n_workers is not None:
            raise InvalidInputError(
                f"n_workers: expected none with an address (the cluster at {address} has its own "
                f"workers), got {n_workers}"
            )
        self._closed = False
        self._cluster: Any = None
        self._client: Any = None
        self._keys = (f"ntk_dist-{uuid.uuid4().hex}-{k}" for k in itertools.count())
        self._finished = threading.Condition()
        self._threads_seen: dict[str, int] = {}
        self._expected = 0
        """Workers there are when none is being restarted: the most seen, or what came back."""
        self._told = 0
        """How many of those that are gone now somebody has been told of."""
        try:
            if address is None:
                self._cluster = start_cluster(n_workers, env or {})
                address = str(self._cluster.scheduler_address)
            self._address = address
            self._client = self._connect()
            self._workers()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Any:
        address = self._address.replace("dask://", "tcp://", 1)
        try:
            return distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, TypeError, ValueError) as error:
            # Dask answers TypeError for tls:// without certificates and ValueError for a bad port.
            raise ExecutorUnreachableError(
                f"no Dask scheduler answers at {self._address} within {_CONNECT_S:g} s ({error}); "
                "check host, port and certificates, or use executor 'dask' to start workers here"
            ) from error

    @property
    def runs_here(self) -> bool:
        """Whether the workers were started by this executor."""
        return self._cluster is not None

    @property
    def n_workers(self) -> int:
        """Worker processes; one that is just being restarted counts."""
        self._workers()
        return self._expected

    @property
    def n_slots(self) -> int:
        """Threads of all workers, as last seen."""
        return sum(self._threads_seen.values())

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
        """Objects of tasks that are pinned to a worker each, as are the tasks that call them."""
        self._require_open()
        return _DaskShards(self, factory, assignments, retry, on_event)

    def close(self) -> None:
        """Disconnect, and stop the workers started here."""
        if self._closed:
            return
        self._closed = True
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _workers(self) -> dict[str, int]:
        """Addresses of the workers alive now, with their threads; waits for a first one."""
        deadline = time.monotonic() + _FIRST_WORKER_S
        while not (workers := self._alive()):
            if time.monotonic() > deadline:
                raise ExecutorUnreachableError(
                    f"the Dask scheduler at {self._address} had no worker for "
                    f"{_FIRST_WORKER_S:g} s; start some, or use executor 'dask'"
                )
            time.sleep(0.1)
        return workers

    def _alive(self) -> dict[str, int]:
        try:
            self._threads_seen = dict(self._client.nthreads())
        except (OSError, RuntimeError) as error:
            raise self._disconnected() from error
        self._expected = max(self._expected, len(self._threads_seen))
        self._told = min(self._told, self._expected - len(self._threads_seen))
        return self._threads_seen

    def _disconnected(self) -> ExecutorUnreachableError:
        return ExecutorUnreachableError(
            f"the Dask scheduler at {self._address} no longer answers; finished work is kept: "
            "run again when it is back"
        )

    def _ship(self, task: Callable[..., Any]) -> _Shipped:
        self._workers()  # the window follows a cluster that has grown or shrunk
        pickled: bytes = cloudpickle.dumps(task)
        if len(pickled) < _BROADCAST_BYTES:
            return _Shipped(pickled)
        return _Shipped(pickled, self._client.scatter(pickled, broadcast=True, hash=False))

    def _submit(self, shipped: Any, item: Any) -> Handle:
        return self._send(None, run_task, shipped.best(), item)

    def _send(
        self,
        worker: str | None,
        function: Callable[..., Any],
        *args: Any,
        needs: frozenset[str] = frozenset(),
        keep: bool = False,
    ) -> _DaskTry:
        pinned = {} if worker is None else {"workers": [worker], "allow_other_workers": False}
        try:
            future = self._client.submit(
                function, *args, key=next(self._keys), pure=False, **pinned
            )
        except (OSError, RuntimeError) as error:
            raise self._disconnected() from error
        future.add_done_callback(self._notify)
        if worker is not None:
            needs |= {worker}
        return _DaskTry(future, worker, needs, keep)

    def _notify(self, future: Any) -> None:
        with self._finished:
            self._finished.notify_all()

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> Collection[Handle]:
        """Those that are done, and those that need a worker that is gone."""
        with self._finished:
            done = [h for h in handles if h.future.done()]
            if not done:
                self._finished.wait(timeout_s)
                done = [h for h in handles if h.future.done()]
        if done or not any(h.needs for h in handles):
            return done
        alive = self._alive()
        return [h for h in handles if not h.needs <= alive.keys()]

    def outcome(self, handle: Handle) -> Outcome:
        """What the worker sent, or the loss of the worker as a WorkerLostError."""
        one: _DaskTry = handle
        where = one.worker or "a Dask worker"
        try:
            while True:
                if not one.future.done() and not one.needs <= self._alive().keys():
                    return Outcome.failed(WorkerLostError("its worker is gone"), where)
                try:
                    # Asking for the exception fetches no value.
                    if one.keep and one.future.exception(timeout=_FETCH_S) is None:
                        return Outcome(value=one, where=where)
                    found: Outcome = one.future.result(timeout=_FETCH_S)
                except TimeoutError:
                    # The result may have gone with its worker after it was announced.
                    continue
                return found
        except AttemptFailed as error:
            return error.outcome
        except KilledWorker as error:
            # Dask has already tried it on several workers, all of which died.
            return Outcome(error=error, retryable=False, where=where)
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            if self._client.status != "running":
                return Outcome.failed(self._disconnected(), where)
            return Outcome.failed(WorkerLostError("its worker is gone"), where)
        except Exception as error:
            return Outcome.failed(error, where)

    def cancel(self, handles: Sequence[Handle], *, by_force: bool) -> None:
        """Take queued tries back; by force, restart the worker processes that run one."""
        if self._client.status != "running" or not handles:
            return
        # Often called while another error is on its way, which a lost connection must not hide.
        with suppress(OSError):
            keys = {h.future.key for h in handles}
            running = self._client.processing() if by_force else {}
            hanging = [worker for worker, tasks in running.items() if keys & set(tasks)]
            self._client.cancel([h.future for h in handles])
            if hanging:
                # Its nanny goes on after this time; a hanging task delays it by about 5 s, in
                # which the other workers must not wait for us.
                self._client.restart_workers(hanging, timeout=_ASK_S, raise_for_error=False)


class _DaskShards(AbstractShards):
    """Where each shard lives, and how to build it."""

    def __init__(
        self,
        executor: DaskExecutor,
        factory: Callable[[Assignment], Any],
        assignments: Sequence[Assignment],
        retry: RetryPolicy,
        on_event: EventSink,
    ) -> None:
        super().__init__(executor, len(assignments), retry, on_event)
        self._dask = executor
        self._recipes = [cloudpickle.dumps((factory, one)) for one in assignments]
        self._homes: dict[int, str] = {}
        self._held: dict[int, _DaskTry] = {}
        """The task that each shard belongs to: it lives while the answer is wanted here."""

    def _pack(self, args: tuple[Any, ...]) -> Any:
        """Large arguments as one object that every worker has, small ones as they are."""
        if sizeof(args) < _BROADCAST_BYTES:
            return args
        homes = sorted(set(self._homes.values()) & set(self._dask._alive()))
        # Before the first call no shard has a home; then any worker may need them.
        return self._dask._client.scatter(args, workers=homes or None, broadcast=True, hash=False)

    def _submit(self, call: ShardCall, index: int, *, fresh: bool) -> Handle:
        if fresh or index not in self._held:
            # A worker lets go of an old shard before it has a new one.
            self._held.pop(index, None)
            self._homes[index] = home = self._find_home(index)
            self._held[index] = self._dask._send(home, hold_shard, self._recipes[index])
        # A broadcast copy may have gone with the worker that is being replaced.
        sent = self._pack(call.args) if fresh else call.packed
        function = keep_answer if call.keep else call_shard
        asked = self._held[index].future, call.method, sent
        return self._dask._send(self._homes[index], function, *asked, keep=call.keep)

    def _submit_sum(self, parts: Sequence[Any]) -> Handle:
        return replace(add_in_pairs(parts, self._add), keep=False)

    def _add(self, first: _DaskTry, second: _DaskTry) -> _DaskTry:
        """Start one addition on the worker that has the first of two parts."""
        total = self._dask._send(
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
        deadline = time.monotonic() + _RESTART_S
        before = self._homes.pop(index, None)
        while True:
            alive = self._dask._workers()
            if before in alive:
                return str(before)
            load = Counter(self._homes.values())
            home = min(sorted(alive), key=lambda worker: load[worker])
            if load[home] < -(-len(self) // self._dask._expected):
                return home
            self._tell_of_loss(index, len(alive), is_known=before is not None)
            if time.monotonic() > deadline:
                log.warning("nobody came: %d Dask workers take what the others held", len(alive))
                # The lost worker does not come back: wait for it once, not once per shard.
                self._dask._expected = len(alive)
            time.sleep(0.1)

    def _tell_of_loss(self, index: int, n_alive: int, *, is_known: bool) -> None:
        """Say once what a shard waits for: a worker may die while no task that we know is there.

        Parameters
        ----------
        index
            The shard.
        n_alive
            Workers left.
        is_known
            The shard lived with a worker that is gone: then a task of it has failed, and the
            driving loop has told that.
        """
        expected, told = self._dask._expected, self._dask._told
        self._dask._told = missing = expected - n_alive
        if missing <= told:
            return
        text = f"{missing} of {expected} Dask workers gone, waiting up to {_RESTART_S:g} s for more"
        log.warning("%s: then those left take what the others held", text)
        for _ in range(0 if is_known else missing - told):
            self._on_event(
                TaskEvent(
                    state="retried",
                    item=f"shard {index}",
                    attempt=1,
                    error=f"WorkerLostError: {text}",
                    worker_lost=True,
                )
            )

    def _free(self) -> None:
        self._homes.clear()
        self._held.clear()
