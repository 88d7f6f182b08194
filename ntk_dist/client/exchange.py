"""One request: repeated where that is safe, raised where it failed, its answer read as a record."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote

from ntk_dist import wire
from ntk_dist.client.flow import Answer, Flow, Pause, Request, Send, Unanswered
from ntk_dist.client.patience import FailedTry, Patience
from ntk_dist.errors import (
    DefectError,
    JobError,
    NTKDistError,
    OverloadedError,
    RequestError,
    RequestTooLargeError,
    ServiceTimeoutError,
    ServiceUnreachableError,
)

__all__ = ["Terms", "ask", "exchange", "failure_of", "foreign", "path_of"]

NO_SERVICE = {301, 302, 303, 307, 308, 404, 405, 502, 503, 504}
"""What proxies and other servers answer, in words of their own, where no service of ours does."""
AWAY = {502, 503, 504}
"""What a proxy answers that lost its service, or a service that lost its database or workspace: it
may be back in a moment."""
FOR_GOOD = (ServiceTimeoutError, JobError)
"""What would only come again: what took too long takes as long."""
EXCERPT = 200
"""Characters of a body that nobody understood."""

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every request of a client has in common."""

    url: str
    """Of the service, without a slash at the end."""
    patience: Patience = field(default_factory=Patience)
    parallel: int = 4
    """Requests at a time, where one call makes several and the client awaits."""
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def while_waiting(self) -> Terms:
        """Those for somebody who waits for a job, and bears with a service that comes back."""
        return replace(self, patience=self.patience.while_waiting())


def path_of(*parts: str | int) -> str:
    """The path of a resource; names stay one part of it, whatever characters they have."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def exchange(terms: Terms, request: Request) -> Flow[Answer]:
    """The good answer to a request.

    Raises
    ------
    NTKDistError
        What the service raised, or why there is no answer.
    """
    started, failures = terms.clock(), 0
    while True:
        reply: Answer | Unanswered = yield Send(request)
        failure = failure_of(terms.url, request, reply)
        if failure is None:
            assert isinstance(reply, Answer)
            return reply
        failures += 1
        elapsed_s = terms.clock() - started
        pause_s = terms.patience.pause_s(
            failure, failures, elapsed_s=elapsed_s, chance=terms.chance()
        )
        if pause_s is None:
            if failures > 1:
                failure.error.add_note(f"tried {failures} times in {elapsed_s:.1f} s")
            raise failure.error
        yield Pause(pause_s)


def ask(terms: Terms, kind: type[Record], request: Request) -> Flow[Record]:
    """The record that answers a request.

    Raises
    ------
    ServiceUnreachableError
        Something answers that is no service of ours.
    DefectError
        The service answers with another record than was promised.
    """
    answer = yield from exchange(terms, request)
    try:
        return wire.of_json(kind, json.loads(answer.body))
    except RequestError as error:
        raise DefectError(
            f"{_what(terms.url, request)}: {error}; are service and client of one version?"
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON; RequestError is a ValueError too
        raise foreign(terms.url, request, answer) from error


def failure_of(url: str, request: Request, reply: Answer | Unanswered) -> FailedTry | None:
    """What went wrong, if anything did."""
    if isinstance(reply, Unanswered):
        safe = reply.may_pass and (request.is_repeatable or not reply.was_sent)
        return FailedTry(error=reply.error, may_repeat=safe)
    if 200 <= reply.status < 300:
        return None
    told = _json(reply.body)
    is_ours = isinstance(told, Mapping) and "error" in told
    asked_s = _seconds(reply.headers.get("retry-after"))
    error = wire.error_of(reply.status, told) if is_ours else _stranger(url, request, reply)
    if isinstance(error, OverloadedError):
        if not is_ours and asked_s is not None:
            error.retry_after_s = asked_s
        asked_s = error.retry_after_s
    is_away = reply.status in AWAY and not isinstance(error, FOR_GOOD)
    return FailedTry(
        error=error,
        asked_s=asked_s if reply.status in {429, 503} else None,
        # It may have been done before the answer was lost.
        may_repeat=is_away and request.is_repeatable,
    )


def _stranger(url: str, request: Request, answer: Answer) -> NTKDistError:
    """The error behind an answer in words that are not ours."""
    if answer.status == OverloadedError.http_status:
        return OverloadedError(f"{_what(url, request)}: too many requests, says {_who(answer)}")
    if answer.status == RequestTooLargeError.http_status:
        n_bytes = len(request.body or b"")
        return RequestTooLargeError(
            f"{_what(url, request)}: expected a smaller body, says {_who(answer)}, got {n_bytes} "
            "bytes"
        )
    if answer.status in NO_SERVICE:
        return foreign(url, request, answer)
    return wire.error_of(answer.status, answer.body[:EXCERPT].decode(errors="replace"))


def foreign(url: str, request: Request, answer: Answer) -> ServiceUnreachableError:
    """The error behind an answer that none of our services gives."""
    to = answer.headers.get("location")
    hint = f"it points to {to}" if to else "check the address, and what stands before the service"
    return ServiceUnreachableError(
        f"{_what(url, request)}: expected a service of ntk_dist, got {answer.status} from "
        f"{_who(answer)}; {hint}"
    )


def _what(url: str, request: Request) -> str:
    return f"{request.method} {url}{request.path}"


def _who(answer: Answer) -> str:
    return answer.headers.get("server") or "something else"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After; a date, which ours never sends, counts as none."""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None
