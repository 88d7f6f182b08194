"""Tasks on Dask workers: processes of this machine, or a cluster that is already running."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from ntk_dist.errors import ExecutorUnreachableError, InvalidInputError, MissingDependencyError
from ntk_dist.events import EventSink, ignore
from ntk_dist.executors.base import AbstractExecutor, AbstractShards
from ntk_dist.executors.drive import Handle
from ntk_dist.executors.outcome import AttemptFailed, Outcome, WorkerLostError
from ntk_dist.executors.retry import DEFAULT_RETRY, RetryPolicy

try:
    import cloudpickle
    from distributed.scheduler import KilledWorker
except ImportError as error:
    raise MissingDependencyError(
        "the dask executor needs Dask, which is not installed; "
        "pip install 'ntk_dist[dask]', or choose executor 'local'"
    ) from error

from ntk_dist.executors.dask_cluster import start_cluster
from ntk_dist.executors.dask_shards import BROADCAST_BYTES, DaskShards
from ntk_dist.executors.dask_worker import run_task
from ntk_dist.executors.dask_workers import DaskTry, DaskWorkers

__all__ = ["DaskExecutor"]

Assignment = TypeVar("Assignment")

ASK_S = 1.0
"""Time for a nanny to hear that its worker must be restarted."""
FETCH_S = 2.0
"""After so long without a result that was announced, look whether its worker is still there."""
LOOK_S = 1.0
"""How often to look for workers that are gone while tasks run that any worker can do: Dask runs
theirs again and says nothing."""


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
        self._finished = threading.Condition()
        self._looked = time.monotonic()
        self._needed: frozenset[str] = frozenset()
        """Workers that tries in flight cannot do without."""
        with ExitStack() as started:
            if address is None:
                self._cluster = start_cluster(n_workers, env or {})
                started.callback(self._cluster.close)
                address = str(self._cluster.scheduler_address)
            self._workers = DaskWorkers(address, self._notify)
            started.callback(self._workers.close)
            self._workers.present()
            self._started = started.pop_all()

    @property
    def runs_here(self) -> bool:
        """Whether the workers were started by this executor."""
        return self._cluster is not None

    @property
    def n_workers(self) -> int:
        """Worker processes; one that is just being restarted counts."""
        self._workers.present()
        return self._workers.expected

    @property
    def n_slots(self) -> int:
        """Threads of all workers, as last seen; one where they are all away."""
        return max(1, sum(self._workers.threads.values()))

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
        return DaskShards(self, self._workers, factory, assignments, retry, on_event)

    def close(self) -> None:
        """Disconnect, and stop the workers started here."""
        if not self._closed:
            self._closed = True
            self._started.close()

    def _ship(self, task: Callable[..., Any]) -> _Shipped:
        self._workers.present()  # the window follows a cluster that has grown or shrunk
        pickled: bytes = cloudpickle.dumps(task)
        if len(pickled) < BROADCAST_BYTES:
            return _Shipped(pickled)
        held = self._workers.client.scatter(pickled, broadcast=True, hash=False)
        return _Shipped(pickled, held)

    def _submit(self, shipped: Any, item: Any) -> Handle:
        return self._workers.send(None, run_task, shipped.best(), item)

    def _notify(self, future: Any) -> None:
        with self._finished:
            self._finished.notify_all()

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> Collection[Handle]:
        """Those that are done, and those that need a worker that is gone."""
        self._needed = frozenset().union(*(h.needs for h in handles))
        with self._finished:
            done = [h for h in handles if h.future.done()]
            if not done:
                self._finished.wait(timeout_s)
                done = [h for h in handles if h.future.done()]
        if done or not self._needed:
            return done
        alive = self._workers.alive()
        return [h for h in handles if not h.needs <= alive.keys()]

    def outcome(self, handle: Handle) -> Outcome:
        """What the worker sent, or the loss of the worker as a WorkerLostError."""
        one: DaskTry = handle
        where = one.worker or "a Dask worker"
        try:
            while True:
                if not one.future.done() and not one.needs <= self._workers.alive().keys():
                    return self._lost(one, where)
                try:
                    # Asking for the exception fetches no value.
                    if one.keep and one.future.exception(timeout=FETCH_S) is None:
                        return Outcome(value=one, where=where)
                    found: Outcome = one.future.result(timeout=FETCH_S)
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
            if self._workers.client.status != "running":
                return Outcome.failed(self._workers.disconnected(), where)
            return self._lost(one, where)
        except Exception as error:
            return Outcome.failed(error, where)

    def _lost(self, one: DaskTry, where: str) -> Outcome:
        self._workers.were_told(one.needs)
        return Outcome.failed(WorkerLostError("its worker is gone"), where)

    def take_losses(self) -> Collection[str]:
        """Workers that went while tasks ran that any worker can do.

        One that a cluster has taken back looks the same.
        """
        if time.monotonic() - self._looked >= LOOK_S:
            with suppress(ExecutorUnreachableError):  # whoever needs an answer will meet it
                self._workers.alive()
            self._looked = time.monotonic()
        return self._workers.take_losses(self._needed)

    def cancel(self, handles: Sequence[Handle], *, by_force: bool) -> None:
        """Take queued tries back; by force, restart the worker processes that run one."""
        client = self._workers.client
        if client.status != "running" or not handles:
            return
        # Often called while another error is on its way, which a lost connection must not hide.
        with suppress(OSError):
            keys = {h.future.key for h in handles}
            running = client.processing() if by_force else {}
            hanging = [worker for worker, tasks in running.items() if keys & set(tasks)]
            client.cancel([h.future for h in handles])
            if hanging:
                # Its nanny goes on after this time; a hanging task delays it by about 5 s, in
                # which the other workers must not wait for us.
                self._workers.restart(hanging, ASK_S)
