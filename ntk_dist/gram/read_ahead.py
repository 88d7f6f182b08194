"""Blocks that are read while others are used, a bounded number of them in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from numpy.typing import NDArray

from ntk_dist.gram.grid import BlockIndex

__all__ = ["READERS", "ReadAhead"]

READERS = 3
"""Threads that read: one took 1.5 times as long as three from a virtual disk on a busy machine,
four no less."""


class ReadAhead:
    """Reads blocks in the order wanted, and starts on one more whenever one has been used.

    Law: a block that is being read, waits, or is taken and not finished is in memory; there are
    never more than ``most`` of them. A context: on leaving it nothing is read any more.

    Parameters
    ----------
    read
        Gives one block; called from several threads.
    wanted
        Which, in the order in which they are taken.
    most
        Blocks in memory at once, at least one.
    """

    def __init__(
        self,
        read: Callable[[BlockIndex], NDArray[Any]],
        wanted: Sequence[BlockIndex],
        most: int,
    ) -> None:
        self._read = read
        self._wanted = frozenset(wanted)
        self._left = deque(wanted)
        self._most = most
        # A future would lend its block to the thread that read it for a moment too long.
        self._started: deque[tuple[Future[None], list[NDArray[Any]]]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="read-ahead")
        # What reading reports belongs to the task that runs here.
        self._context = copy_context()

    def __contains__(self, index: BlockIndex) -> bool:
        """Whether the block is one of those that are read."""
        return index in self._wanted

    def __enter__(self) -> ReadAhead:
        for _ in range(self._most):
            self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._pool.shutdown(cancel_futures=True)

    def take(self) -> NDArray[Any] | None:
        """The next block, waited for; None after :meth:`stop`.

        What ``read`` raised for it is raised here.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._started or self._stopped)
            if self._stopped:
                return None
            reading, place = self._started.popleft()
        reading.result()
        return place.pop()

    def finish(self, index: BlockIndex) -> None:
        """Say that nobody holds a block any more; of no meaning for one that is not read here."""
        if index in self._wanted:
            self._start()

    def stop(self) -> None:
        """Let nobody wait any longer: a block that was taken will never be finished."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _start(self) -> None:
        with self._changed:
            if self._left and not self._stopped:
                place: list[NDArray[Any]] = []
                run = self._context.copy().run
                reading = self._pool.submit(run, self._put, self._left.popleft(), place)
                self._started.append((reading, place))
                self._changed.notify_all()

    def _put(self, index: BlockIndex, place: list[NDArray[Any]]) -> None:
        place.append(self._read(index))
