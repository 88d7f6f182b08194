"""Threads that take pieces of work when they are free."""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import numpy as np

__all__ = ["PIECES_PER_THREAD", "in_threads", "thread_memory"]

T = TypeVar("T")

PIECES_PER_THREAD = 8
"""The last thread then works alone for 1/16 of the time on average."""


def in_threads(threads: int, work: Callable[[Iterator[T]], None], pieces: Iterator[T]) -> None:
    """Work in several threads on pieces that each of them takes when it is free.

    Parameters
    ----------
    threads
        How many; with 1 the work is done in the calling thread, otherwise a pool does it and the
        caller waits.
    work
        Called once in each, with an iterator over the pieces that fall to it.
    pieces
        Each is taken by one thread. What one of them raises is raised here, when all are done.
    """
    if threads == 1:
        work(pieces)
        return
    shared = _Shared(pieces)
    with ThreadPoolExecutor(threads) as pool:
        # What a piece reports belongs to the task that runs here.
        for running in [pool.submit(copy_context().run, work, shared) for _ in range(threads)]:
            running.result()


def thread_memory(size: int, dtype: np.dtype[np.floating]) -> np.ndarray:
    """Zeros for one thread, aligned to a page, that go back to the system when nobody reads them.

    The C library would keep them for threads that are gone: after two of 10 MiB it held up to
    40 MiB, which no plan had counted. Private and huge, 10 MiB take 0.8 ms; shared ones took 8.
    """
    bytes_needed = size * dtype.itemsize
    if sys.platform == "win32":
        return np.frombuffer(mmap.mmap(-1, bytes_needed), dtype)
    pages = mmap.mmap(-1, bytes_needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype)


class _Shared(Iterator[T]):
    """An iterator that several threads may draw from."""

    def __init__(self, pieces: Iterator[T]) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._pieces)
