"""Small requests for one model answered with one block of its kernel, and how many may wait.

:class:`Lanes` decides: who waits, who comes next, whom to send away. It knows no clock and no
thread. :class:`Batcher` does what it says on an event loop and in a pool of threads.

Nobody waits for company: a request that finds a thread free is computed at once, alone; those that
come while all threads are busy are computed together as soon as one is free.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ntk_dist.errors import OverloadedError, ServiceTimeoutError

__all__ = ["Batch", "Batcher", "Lanes", "Part", "Ticket"]

SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""What those who are sent away are told at least and at most."""
MEMORY = 0.8
"""Weight of what was known of the rate before the last batch."""


@dataclass(eq=False)
class Ticket:
    """A request that waits, or is computed piece by piece."""

    lane: Hashable
    """Requests of one lane, which is one loaded model, can be computed together."""
    x: np.ndarray
    """Its rows, prepared."""
    taken: int = 0
    """So many of them are computed, or are about to be."""

    @property
    def waiting(self) -> int:
        """Rows that nobody has taken yet."""
        return len(self.x) - self.taken


@dataclass(frozen=True)
class Part:
    """Some rows of a request."""

    ticket: Ticket
    rows: slice
    first: int
    """Where they are in the batch."""

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True)
class Batch:
    """What is computed together."""

    lane: Hashable
    parts: tuple[Part, ...]

    @property
    def x(self) -> np.ndarray:
        """All rows."""
        pieces = [part.ticket.x[part.rows] for part in self.parts]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Lanes:
    """Requests that wait, in a lane for each model.

    Models take turns, and so do the requests of one: of a large one a piece is computed, and then
    it stands behind those that came meanwhile. A small request thus waits for one piece of a large
    one and not for all of it.

    Parameters
    ----------
    batch_rows
        Of one batch of a lane, at most.
    max_rows, max_bytes, max_requests
        That may wait, all together. A request that finds nobody waiting is always let in.
    """

    def __init__(
        self,
        *,
        batch_rows: Callable[[Any], int],
        max_rows: int,
        max_bytes: int,
        max_requests: int,
    ) -> None:
        self._batch_rows = batch_rows
        self._limits = {"rows": max_rows, "bytes": max_bytes, "requests": max_requests}
        self._lanes: dict[Hashable, deque[Ticket]] = {}
        self.requests = 0
        """That wait for all of their rows, or the rest."""
        self.rows = 0
        """That wait."""
        self.n_bytes = 0
        """Of the requests that wait; a piece that is taken sets none free."""

    def require_room(self, rows: int, n_bytes: int, retry_after_s: float) -> None:
        """Send a request away if too much waits already.

        Raises
        ------
        OverloadedError
            It says when to come again.
        """
        if not self.requests:
            return
        wanted = {
            "rows": self.rows + rows,
            "bytes": self.n_bytes + n_bytes,
            "requests": self.requests + 1,
        }
        for what, limit in self._limits.items():
            if wanted[what] > limit:
                error = OverloadedError(
                    f"expected at most {limit} {what} to wait for predictions, got {wanted[what]}: "
                    f"ask again in {retry_after_s:g} s"
                )
                error.retry_after_s = retry_after_s
                raise error

    def put(self, ticket: Ticket) -> None:
        """Let a request wait at the end of its lane."""
        self._lanes.setdefault(ticket.lane, deque()).append(ticket)
        self.requests += 1
        self.rows += ticket.waiting
        self.n_bytes += ticket.x.nbytes

    def drop(self, ticket: Ticket) -> None:
        """Forget a request that nobody waits for any more; one that is not there is fine."""
        lane = self._lanes.get(ticket.lane)
        if lane is None or ticket not in lane:
            return
        lane.remove(ticket)
        self._left(ticket)
        self.rows -= ticket.waiting
        if not lane:
            del self._lanes[ticket.lane]

    def take(self) -> Batch | None:
        """What comes next: as many requests of the lane whose turn it is as fit a batch, in order.

        None if nobody waits.
        """
        if not self._lanes:
            return None
        lane = next(iter(self._lanes))
        queue = self._lanes.pop(lane)
        parts: list[Part] = []
        room = self._batch_rows(lane)
        while queue and (queue[0].waiting <= room or not parts):
            ticket = queue.popleft()
            rows = slice(ticket.taken, ticket.taken + min(room, ticket.waiting))
            parts.append(Part(ticket, rows, sum(len(part) for part in parts)))
            ticket.taken = rows.stop
            room -= len(parts[-1])
            self.rows -= len(parts[-1])
            if ticket.waiting:
                queue.append(ticket)
                break
            self._left(ticket)
        if queue:
            self._lanes[lane] = queue  # behind the others
        return Batch(lane, tuple(parts))

    def _left(self, ticket: Ticket) -> None:
        self.requests -= 1
        self.n_bytes -= ticket.x.nbytes


@dataclass(eq=False)
class _Answer:
    """What comes of a ticket."""

    future: asyncio.Future[None]
    values: np.ndarray | None = None
    left: int = 0
    """Rows without values yet."""

    def take(self, part: Part, values: np.ndarray) -> None:
        """Keep what was computed of some rows, among those of a batch."""
        if self.values is None:
            self.values = np.empty((len(part.ticket.x), values.shape[1]))
        self.values[part.rows] = values[part.first : part.first + len(part)]
        self.left -= len(part)
        if not self.left:
            self.future.set_result(None)


@dataclass
class _Rate:
    """Rows a second, lately."""

    rows_per_s: float = math.nan

    def add(self, rows: int, seconds: float) -> None:
        found = rows / max(seconds, 1e-6)
        known = not math.isnan(self.rows_per_s)
        self.rows_per_s = MEMORY * self.rows_per_s + (1 - MEMORY) * found if known else found

    def wait_s(self, rows: int) -> float:
        """How long so many rows take: what a caller who is sent away is told."""
        wanted = rows / self.rows_per_s
        if math.isnan(wanted):
            return SHORTEST_WAIT_S
        return round(min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, wanted)), 1)


@dataclass
class Batcher:
    """Computes what waits in lanes, batch by batch; for one event loop."""

    compute: Callable[[Any, np.ndarray, int], np.ndarray]
    """Values of some rows, by lane; called in threads of the pool, with how many threads it may
    use."""
    lanes: Lanes
    pool: Executor
    slots: int
    """Batches at a time, and threads for all of them."""
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _answers: dict[Ticket, _Answer] = field(default_factory=dict)
    _rate: _Rate = field(default_factory=_Rate)

    @property
    def retry_after_s(self) -> float:
        """When somebody who is sent away now should come again, in seconds."""
        return self._rate.wait_s(self.lanes.rows)

    def require_room(self, rows: int = 1, n_bytes: int = 0) -> None:
        """Send a request away if too much waits already: see :meth:`Lanes.require_room`."""
        self.lanes.require_room(rows, n_bytes, self.retry_after_s)

    async def values(self, lane: Hashable, x: np.ndarray, timeout_s: float) -> np.ndarray:
        """What ``compute`` gives for the rows of ``x``, with or without those of others.

        Whoever is cancelled leaves the queue.

        Raises
        ------
        OverloadedError
            Too much waits already.
        ServiceTimeoutError
            It took longer than it may.
        """
        self.require_room(len(x), x.nbytes)
        ticket = Ticket(lane, x)
        answer = _Answer(asyncio.get_running_loop().create_future(), left=len(x))
        self._answers[ticket] = answer
        self.lanes.put(ticket)
        self._start()
        try:
            async with asyncio.timeout(timeout_s):
                await answer.future
        except TimeoutError as error:
            raise ServiceTimeoutError(
                f"expected predictions of {len(x)} rows within {timeout_s:g} s, got those of "
                f"{len(x) - answer.left}: send fewer rows, or ask again when less is going on"
            ) from error
        finally:
            self.lanes.drop(ticket)
            del self._answers[ticket]
        assert answer.values is not None
        return answer.values

    def _start(self) -> None:
        """Let every free slot take a batch."""
        while len(self._running) < self.slots and (batch := self.lanes.take()) is not None:
            # Alone it gets all threads; beside others each has its own.
            threads = 1 if self._running or self.lanes.requests else self.slots
            task = asyncio.create_task(self._run(batch, threads))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._start()

    async def _run(self, batch: Batch, threads: int) -> None:
        start = time.perf_counter()
        x = batch.x
        try:
            values = await asyncio.get_running_loop().run_in_executor(
                self.pool, self.compute, batch.lane, x, threads
            )
        except Exception as error:  # whatever it is, it is for those who asked
            for _, answer in self._asking(batch):
                answer.future.set_exception(error)
            return
        self._rate.add(len(x), time.perf_counter() - start)
        for part, answer in self._asking(batch):
            answer.take(part, values)

    def _asking(self, batch: Batch) -> Iterator[tuple[Part, _Answer]]:
        """Those in a batch who still wait."""
        for part in batch.parts:
            answer = self._answers.get(part.ticket)
            if answer is not None and not answer.future.done():
                yield part, answer
