"""Connections that send nothing, or half the head of a request: each holds a file, and they end."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ntk_dist.service.limits import MAX_REQUESTS

__all__ = ["Connection", "most_connections"]

log = logging.getLogger(__name__)

HEAD_S = 20.0
"""Longest from a connection, or the first byte of a further request on it, to the end of the
request's head, in seconds. What comes behind the head has a limit of its own."""
FILES_KEPT = 0.25
"""Of the files that a process may open, what is left for anything but connections."""
WARN_S = 60.0
"""The log says at most once in so many seconds that there are too many."""


def most_connections() -> int:
    """How many may be open: twice as many as requests are answered, if there are files for them."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2 * MAX_REQUESTS
    return most if files == resource.RLIM_INFINITY else min(most, int(files * (1 - FILES_KEPT)))


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """uvicorn's protocol, with an end to waiting for heads and to how many are waited for."""

    most = most_connections()
    _warned_s = float("-inf")
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head, or refuse."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            self._warn()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head that begins."""
        before = self.cycle
        if self._deadline is None and (before is None or before.response_complete):
            self._await_head()
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _warn(self) -> None:
        now = self.loop.time()
        if now - Connection._warned_s >= WARN_S:
            Connection._warned_s = now
            log.warning("connections beyond %d are closed at once: too many are open", self.most)
