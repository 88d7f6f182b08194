"""Where runs stand by their journals, for many who ask again and again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ntk_dist.jobs.parts import parts_of
from ntk_dist.jobs.watch import Follower
from ntk_dist.standing import Standing
from ntk_dist.store.place import AbstractPlace

__all__ = ["Standings"]

KEPT = 256
"""Runs that are remembered; a standing is some 10 kB, reading a long journal again 0.2 s."""
LATE_S = 2.0
"""Journals in object storage, which are written every 10 s, are looked at as often: a driver that
is heard of every 20 s at worst counts as gone after 30."""


@dataclass
class _Reader:
    follower: Follower
    every_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    looked: float = -float("inf")


class Standings:
    """Reads each journal on from where it was read to before; threads may share one.

    Parameters
    ----------
    clock
        Seconds; a test may bring its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._readers: OrderedDict[AbstractPlace, _Reader] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, run: AbstractPlace) -> Standing | None:
        """Where a run stands; None if its journal says nothing yet.

        Raises
        ------
        StoreUnreachableError
            The workspace cannot be read.
        """
        with self._lock:
            parts = parts_of(run)
            every_s = min(parts.flush_every_s, LATE_S)
            reader = self._readers.setdefault(run, _Reader(Follower(parts), every_s))
            self._readers.move_to_end(run)
            if len(self._readers) > KEPT:
                self._readers.popitem(last=False)
        with reader.lock:
            if self._clock() - reader.looked >= reader.every_s:
                reader.follower.read()
                reader.looked = self._clock()
            standing = reader.follower.standing
        return None if standing.updated is None else standing
