"""The workers of one Dask scheduler: which are there, which were lost, and what is sent to them."""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import distributed

from ntk_dist.errors import ExecutorUnreachableError

__all__ = ["DaskTry", "DaskWorkers"]

CONNECT_S = 8.0
"""A scheduler that is there answers in milliseconds; a person waits ten seconds before doubting."""
FIRST_WORKER_S = 30.0
"""A cluster with no worker at all may be scaling up."""


@dataclass(frozen=True, eq=False)
class DaskTry:
    """A future, and what it depends on."""

    future: Any
    worker: str | None = None
    """The one it must run on, if it calls a shard."""
    needs: frozenset[str] = frozenset()
    """Workers without which it never ends."""
    keep: bool = False
    """Its value stays where it is, and the try itself is the reference to it."""


class DaskWorkers:
    """A connection to a scheduler, and what it knows of its workers.

    Parameters
    ----------
    address
        ``dask://host:port``, ``tcp://host:port`` or ``tls://host:port``.
    on_done
        Called with each future that is done, in a thread of Dask.

    Raises
    ------
    ExecutorUnreachableError
        Nothing answers at ``address`` within ``CONNECT_S``.
    """

    def __init__(self, address: str, on_done: Callable[[Any], None]) -> None:
        self.address = address
        self.threads: dict[str, int] = {}
        """Of each worker, by its address, as last seen."""
        self.expected = 0
        """Workers there are when none is being restarted: the most seen, or what came back."""
        self._on_done = on_done
        self._lost: set[str] = set()
        """Those that are gone and that nobody was told of."""
        self._known: set[str] = set()
        """Those whose going is no news: they were ended from here, or a try has failed of it."""
        self._keys = (f"ntk_dist-{uuid.uuid4().hex}-{k}" for k in itertools.count())
        try:
            self.client = distributed.Client(
                address.replace("dask://", "tcp://", 1), timeout=CONNECT_S, set_as_default=False
            )
        except (OSError, TypeError, ValueError) as error:
            # Dask answers TypeError for tls:// without certificates and ValueError for a bad port.
            raise ExecutorUnreachableError(
                f"no Dask scheduler answers at {address} within {CONNECT_S:g} s ({error}); "
                "check host, port and certificates, or use executor 'dask' to start workers here"
            ) from error

    def close(self) -> None:
        """Disconnect."""
        if self.client.status == "running":
            self.client.close()
            return
        # The scheduler is gone, which is told already. The client has been trying to come back
        # ever since, and its logger shows where in that it was cut off, in forty lines.
        theirs = logging.getLogger("distributed.client")
        theirs.addFilter(_nothing)
        try:
            self.client.close()
        finally:
            theirs.removeFilter(_nothing)

    def alive(self) -> dict[str, int]:
        """Addresses of the workers that are there now, with their threads."""
        try:
            now = dict(self.client.nthreads())
        except (OSError, RuntimeError) as error:
            raise self.disconnected() from error
        gone = self.threads.keys() - now.keys()
        self._lost |= gone - self._known
        self._known -= gone  # another one may come under the same address
        self.threads = now
        self.expected = max(self.expected, len(now))
        return now

    def present(self) -> dict[str, int]:
        """As :meth:`alive`, once there is a first one.

        Raises
        ------
        ExecutorUnreachableError
            None came within ``FIRST_WORKER_S``.
        """
        deadline = time.monotonic() + FIRST_WORKER_S
        while not (workers := self.alive()):
            if time.monotonic() > deadline:
                raise ExecutorUnreachableError(
                    f"the Dask scheduler at {self.address} had no worker for "
                    f"{FIRST_WORKER_S:g} s; start some, or use executor 'dask'"
                )
            time.sleep(0.1)
        return workers

    def take_losses(self, needed: Collection[str]) -> tuple[str, ...]:
        """Addresses of workers that went by themselves, each once, unless somebody knows.

        Those that tries in flight ``needed`` are left for them to find out.
        """
        lost = self._lost.difference(needed)
        self._lost -= lost
        return tuple(sorted(lost))

    def were_told(self, workers: Collection[str]) -> None:
        """The loss of these is known to whoever wanted something of them."""
        self._lost -= set(workers)
        self._known |= self.threads.keys() & set(workers)  # not seen to be gone yet

    def restart(self, workers: list[str], timeout_s: float) -> None:
        """Have the nannies of these workers end them, whatever they do, and start others."""
        self._known |= self.threads.keys() & set(workers)
        self.client.restart_workers(workers, timeout=timeout_s, raise_for_error=False)

    def send(
        self,
        worker: str | None,
        function: Callable[..., Any],
        *args: Any,
        needs: frozenset[str] = frozenset(),
        keep: bool = False,
    ) -> DaskTry:
        """Start ``function(*args)`` on one worker, or on any."""
        pinned = {} if worker is None else {"workers": [worker], "allow_other_workers": False}
        try:
            future = self.client.submit(function, *args, key=next(self._keys), pure=False, **pinned)
        except (OSError, RuntimeError) as error:
            raise self.disconnected() from error
        future.add_done_callback(self._on_done)
        if worker is not None:
            needs |= {worker}
        return DaskTry(future, worker, needs, keep)

    def disconnected(self) -> ExecutorUnreachableError:
        """The error that the scheduler is gone."""
        return ExecutorUnreachableError(
            f"the Dask scheduler at {self.address} no longer answers; finished work is kept: "
            "run again when it is back"
        )


def _nothing(record: logging.LogRecord) -> bool:
    """A filter that nothing passes."""
    return False
