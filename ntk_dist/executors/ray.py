"""Tasks on Ray workers: processes of this machine, or a cluster that is already running."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from ntk_dist.errors import (
    ExecutorUnreachableError,
    InvalidInputError,
    MissingDependencyError,
)
from ntk_dist.events import EventSink, ignore
from ntk_dist.executors.base import AbstractExecutor, AbstractShards
from ntk_dist.executors.drive import Handle
from ntk_dist.executors.environment import worker_environment
from ntk_dist.executors.outcome import Outcome, WorkerLostError, attempt_remotely
from ntk_dist.executors.retry import DEFAULT_RETRY, RetryPolicy
from ntk_dist.settings import get_settings

try:
    import ray
    from ray import exceptions as ray_errors
except ImportError as error:
    raise MissingDependencyError(
        "the ray executor needs Ray, which is not installed; "
        "pip install 'ntk_dist[ray]', or choose executor 'local'"
    ) from error

from ntk_dist.executors.ray_shards import RayShards, RayTry, rooms

__all__ = ["RayExecutor"]

Assignment = TypeVar("Assignment")

# Ray itself keeps trying a dead address for more than 60 s; a live one accepts in milliseconds.
_CONNECT_S = 8.0
# How often to look whether a cluster has grown. More tasks than it can run always wait, so that
# Ray's autoscaler sees that it should.
_LOOK_S = 2.0
# Shared memory for objects in flight: arguments of a product and results, not Gram blocks. Ray's
# own default, 30 % of the machine, fails where /dev/shm is small.
_OBJECT_STORE_BYTES = 512 * 2**20

# What Ray raises when a worker, its node or its objects are gone; all of it is worth another try.
_LOST = (
    ray_errors.WorkerCrashedError,
    ray_errors.ActorDiedError,
    ray_errors.ActorUnavailableError,
    ray_errors.ObjectLostError,
    ray_errors.NodeDiedError,
    ray_errors.LocalRayletDiedError,
    ray_errors.OutOfMemoryError,
    ray_errors.TaskCancelledError,
)


class RayExecutor(AbstractExecutor):
    """Ray workers.

    Parameters
    ----------
    address
        ``ray://host:port`` (a Ray client server), ``host:port`` (a cluster this machine is part
        of) or ``auto``. None starts Ray on this machine, unless the process has it already.
    n_workers
        Worker processes to use; by default one per CPU or GPU of the cluster, which may grow.
    env
        More environment variables for the workers.

    Raises
    ------
    ExecutorUnreachableError
        Nothing answers at ``address`` within 8 s, or it refuses us.
    """

    name = "ray"
    shares_memory = False

    def __init__(
        self,
        address: str | None = None,
        n_workers: int | None = None,
        *,
        env: Mapping[str, str] | None = None,
    ) -> None:
        if n_workers is not None and n_workers < 1:
            raise InvalidInputError(f"n_workers: expected at least 1 process, got {n_workers}")
        self._closed = False
        self._address = address or "this machine"
        self._owns_ray = not ray.is_initialized()
        self._starts_here = self._owns_ray and address is None
        if self._owns_ray:
            with _own_sigterm():
                self._connect(address, n_workers)
        try:
            self._prepare(n_workers, env or {})
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str | None, n_workers: int | None) -> None:
        """Start Ray here, or join the cluster at ``address``."""
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            # Ray forks to start other programs at once, which is safe; JAX warns of every fork.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                # "local" in words: without it Ray attaches to whatever cluster last ran here.
                ray.init(
                    address="local",
                    num_cpus=n_workers or get_settings().threads,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **quiet,
                )
            return
        self._probe(address)
        try:
            ray.init(address=address, **({} if "://" in address else quiet))
        except (OSError, RuntimeError, ValueError, ray_errors.RayError) as error:
            raise ExecutorUnreachableError(
                f"the Ray cluster at {address} does not let us in ({error}); check that both "
                "sides run the same Ray and Python versions and share RAY_AUTH_TOKEN"
            ) from error

    def _probe(self, address: str) -> None:
        """Refuse an address at which no one listens, before Ray spends a minute on it."""
        if address == "auto":
            return
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        try:
            with socket.create_connection((parts.hostname or "", parts.port or 0), _CONNECT_S):
                pass
        except (OSError, ValueError) as error:
            raise ExecutorUnreachableError(
                f"no Ray cluster answers at {address} within {_CONNECT_S:g} s ({error}); "
                "check host and port, or use executor 'ray' to start Ray here"
            ) from error

    def _prepare(self, n_workers: int | None, env: Mapping[str, str]) -> None:
        """Divide the cluster: how many workers, and what each may use."""
        gpus, cpus = rooms("GPU"), rooms("CPU")
        self._asked = n_workers
        self._device: Literal["CPU", "GPU"] = "GPU" if gpus else "CPU"
        self._n_workers = 1
        self._looked = time.monotonic()
        self._count(gpus or cpus)
        here = -(-self._n_workers // max(1, len(gpus or cpus)))
        threads = int(min(cpus.values(), default=1))
        if self._starts_here:
            threads = get_settings().threads
        # Ray deals devices itself (CUDA_VISIBLE_DEVICES); a task and a shard share one by halves.
        self._gpu_share = min(1.0, int(1e4 * sum(gpus.values()) / self._n_workers) / 1e4) / 2
        variables = worker_environment(here, threads, extra=env)
        if gpus:
            variables.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * self._gpu_share:.3f}")
        runtime_env = {"env_vars": variables}
        self._run_task = ray.remote(_run_task).options(
            num_cpus=1, num_gpus=self._gpu_share, max_retries=0, runtime_env=runtime_env
        )
        # An actor that held a CPU for its whole life would leave none for tasks.
        self._actor_options = {
            "num_cpus": 0,
            "num_gpus": self._gpu_share,
            "max_restarts": 0,
            "runtime_env": runtime_env,
        }

    def _count(self, found: Mapping[str, float]) -> None:
        """Say how many workers there is room for now."""
        self._n_slots = self._asked or max(1, int(sum(found.values())))
        # A node that is gone may come back, and as many shards as before give the same bytes.
        self._n_workers = max(self._n_workers, self._n_slots)

    @property
    def runs_here(self) -> bool:
        """Whether the workers were started by this executor."""
        return self._starts_here

    @property
    def n_workers(self) -> int:
        """Worker processes, as many as there were at most."""
        self._look()
        return self._n_workers

    @property
    def n_slots(self) -> int:
        """Worker processes there is room for now."""
        self._look()
        return self._n_slots

    def _look(self) -> None:
        is_due = time.monotonic() - self._looked >= _LOOK_S
        if is_due and not (self._asked or self._starts_here or self._closed):
            self._looked = time.monotonic()
            # Whoever needs an answer will meet what keeps Ray from giving this one.
            with suppress(OSError, RuntimeError, ray_errors.RayError):
                self._count(rooms(self._device))

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
        """One actor per assignment."""
        self._require_open()
        options, device = self._actor_options, self._device
        return RayShards(self, options, device, factory, assignments, retry, on_event)

    def close(self) -> None:
        """Stop the Ray started here, or leave the cluster; a Ray that was there before stays."""
        if not self._closed:
            self._closed = True
            if self._owns_ray:
                ray.shutdown()

    def _ship(self, task: Callable[..., Any]) -> Any:
        # In a list, so that Ray hands over the reference and not what it refers to.
        return uuid.uuid4().hex, [ray.put(task)]

    def _submit(self, shipped: Any, item: Any) -> Handle:
        return RayTry(self._run_task.remote(*shipped, item))

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> Collection[Handle]:
        """Those whose outcome, or whose loss, is known."""
        by_ref = {h.ref: h for h in handles}
        ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready:
            ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0, fetch_local=False)
        return [by_ref[ref] for ref in ready]

    def outcome(self, handle: Handle) -> Outcome:
        """What the worker sent, or the loss of the worker as a WorkerLostError."""
        one: RayTry = handle
        try:
            found = ray.get(one.ref)
        except _LOST as error:
            lost = WorkerLostError(f"its worker is gone ({_first_line(error)})")
            return Outcome.failed(lost, "a Ray worker")
        except ray_errors.RayTaskError as error:
            # Our code around the task catches everything, so this is what could not travel: a
            # result or an argument that does not pickle.
            return Outcome.failed(error.cause or error, "a Ray worker")
        except ray_errors.RayError as error:
            return Outcome.failed(error, "a Ray worker")
        if not isinstance(found, Outcome):
            # Arrays come as read-only views of shared memory, which a copy sets free.
            return Outcome(value=copy(found), where="a Ray worker")
        return found if one.kept is None or found.error else replace(found, value=one)

    def cancel(self, handles: Sequence[Handle], *, by_force: bool) -> None:
        """Interrupt these tries; by force, end the worker process that hangs on one."""
        if self._closed:
            return
        tasks = [handle.ref for handle in handles if handle.actor is None]
        if tasks:
            # To cancel a task in the moment in which it is done ends this process with a failed
            # check of Ray's (ray-project/ray#54846, once in seven runs of our tests): at least not
            # those of which it is known.
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        for ref in tasks:
            ray.cancel(ref, force=by_force)
        for handle in handles:
            if handle.actor is not None and by_force:
                ray.kill(handle.actor)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Leave SIGTERM to whoever had it: Ray takes it, and ends the process without asking anyone.

    Only the main thread may set handlers, and Ray leaves them alone in any other.
    """
    before = signal.getsignal(signal.SIGTERM)
    # Without a handler Ray's own is the better: by default two of its processes stay for a minute.
    nobody = before in (None, signal.SIG_DFL)
    if nobody or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM:  # it came in these very seconds, and Ray answered
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    return next(itertools.chain(str(error).splitlines(), [type(error).__name__]))


# Below: what runs inside a worker process.


_LOADED: dict[str, Callable[[Any], Any]] = {}
"""The task of this process, by name: one, because it may hold inputs."""


def _run_task(name: str, reference: list[Any], item: Any) -> Outcome:
    return attempt_remotely(lambda: _load(name, reference)(item))


def _load(name: str, reference: list[Any]) -> Callable[[Any], Any]:
    """One task object per process, however many items it gets: to open a store takes 5 ms."""
    if name not in _LOADED:
        _heed_interrupts()
        _LOADED.clear()
        try:
            _LOADED[name] = ray.get(reference[0])
        except KeyboardInterrupt:
            # A straggler is cancelled while it imports what the task needs. Python keeps what it
            # has of an import that was cut off, so every later task of this process would find
            # half of numba: Ray starts another process.
            os._exit(1)
    return _LOADED[name]


def _heed_interrupts() -> None:
    """Ray cancels a task by SIGINT, which the processes of a shell's background job ignore."""
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
