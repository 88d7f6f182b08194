"""The stream of a job's events, as a service sends it: server-sent events, read without a gap."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ntk_dist.client.exchange import Terms, failure_of, foreign
from ntk_dist.client.flow import (
    Answer,
    Item,
    Listen,
    NextChunk,
    Pause,
    Request,
    Stream,
    Unanswered,
)
from ntk_dist.client.patience import FailedTry
from ntk_dist.errors import ServiceUnreachableError
from ntk_dist.events import Event, event_of
from ntk_dist.wire import LAST_EVENT_ID

__all__ = ["Message", "MessageReader", "TimedEvent", "follow", "read_event"]

EVENT_STREAM = "text/event-stream"
END = "end"
"""Kind of the message after which nothing follows."""
AGAIN_S = 0.5
"""Pause before a stream that ended before its job is opened again, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One server-sent event."""

    id: str
    """Of the last message that had one."""
    kind: str
    data: str


@dataclass(frozen=True, kw_only=True)
class TimedEvent:
    """Something that happened in a job."""

    id: str
    """What to ask for as ``after`` to hear of what came next."""
    time: datetime
    event: Event


class MessageReader:
    """Messages out of bytes, however these are cut.

    Lines end with a line feed, as those of services of ours do. A message without its empty line
    is still on its way, or was cut off.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}
        self._id = ""
        self.is_alive = False
        """Whether a comment or a ``retry`` came: all that a job says that waits for its turn."""

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that ``chunk`` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        taken = (self._take(line.removesuffix(b"\r").decode(errors="replace")) for line in lines)
        return [message for message in taken if message is not None]

    def _take(self, line: str) -> Message | None:
        if line:
            name, _, value = line.partition(":")  # a comment has an empty name
            self._fields.setdefault(name, []).append(value.removeprefix(" "))
            return None
        found, self._fields = self._fields, {}
        self._id = found.get("id", [self._id])[-1]
        if "data" not in found:
            self.is_alive = self.is_alive or not found.keys().isdisjoint({"", "retry"})
            return None
        kind = found.get("event", ["message"])[-1]
        return Message(id=self._id, kind=kind, data="\n".join(found["data"]))


def read_event(message: Message) -> TimedEvent | None:
    """The event in a message; None if its kind is of a later version."""
    try:
        record: dict[str, Any] = json.loads(message.data)
        time = datetime.fromisoformat(record["time"])
        return TimedEvent(
            id=message.id, time=time, event=event_of({"kind": message.kind, **record})
        )
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def follow(terms: Terms, request: Request, after: str | None) -> Stream[TimedEvent]:
    """The events of a stream, which is opened again where it broke, until all of it is told.

    That it is told says the stream itself: a job may end, and say its last, while its service is
    started again.

    Parameters
    ----------
    terms
        Those of the client.
    request
        What opens the stream.
    after
        Id of the last event that is known; None for all of them.

    Raises
    ------
    ServiceUnreachableError
        What answers sends no events, or stream after stream without a new one.
    """
    failures, since = 0, 0.0
    while True:
        known = {LAST_EVENT_ID: after} if after else {}
        headers = {**request.headers, "Accept": EVENT_STREAM, **known}
        attempt = Request(method=request.method, path=request.path, headers=headers)
        reply: Answer | Unanswered = yield Listen(attempt)
        failure = failure_of(terms.url, attempt, reply) or _no_stream(terms.url, attempt, reply)
        reader, is_told = MessageReader(), False
        while failure is None:
            chunk: bytes | Unanswered | None = yield NextChunk()
            if chunk is None:
                break
            if isinstance(chunk, Unanswered):
                failure = failure_of(terms.url, attempt, chunk)
                break
            for message in reader.feed(chunk):
                if message.kind == END:
                    return
                if message.id and message.id != after:
                    failures, after, is_told = 0, message.id, True
                if (event := read_event(message)) is not None:
                    yield Item(event)
        if failure is None and (is_told or reader.is_alive):
            # A service that is stopped ends its streams so.
            failures = 0
            yield Pause(AGAIN_S)
            continue
        if failure is None:
            failure = FailedTry(
                error=ServiceUnreachableError(
                    f"{attempt.method} {terms.url}{attempt.path}: expected the events of a job, "
                    "got a stream that ended without any; check what stands before the service"
                ),
                may_repeat=True,
            )
        now = terms.clock()
        failures, since = failures + 1, since if failures else now
        pause_s = terms.patience.pause_s(
            failure, failures, elapsed_s=now - since, chance=terms.chance()
        )
        if pause_s is None:
            raise failure.error
        yield Pause(pause_s)


def _no_stream(url: str, request: Request, reply: Answer | Unanswered) -> FailedTry | None:
    """What is wrong with a good answer that is no stream of events."""
    assert isinstance(reply, Answer)
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    return None if kind == EVENT_STREAM else FailedTry(error=foreign(url, request, reply))
