"""Who asks, and whether they may."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from ntk_dist.database.records import TokenRecord
from ntk_dist.errors import AuthenticationError, ForbiddenError
from ntk_dist.service.tokens import require_valid, token_id_of
from ntk_dist.wire import SCOPES, Scope

__all__ = ["Caller", "Gate", "Predictor", "Reader", "Submitter", "is_loopback", "requires"]

REMEMBERED_S = 5.0
"""A record is read once in so many seconds, so a revoked token goes that much longer at most."""
REMEMBERED = 1024


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Somebody who was let in."""

    name: str
    """That of the token; empty where none is asked for."""
    scopes: tuple[Scope, ...]

    def require(self, scope: Scope) -> None:
        """Refuse what the token is not for.

        Raises
        ------
        ForbiddenError
            It has neither this scope nor ``admin``.
        """
        if not {scope, "admin"} & set(self.scopes):
            raise ForbiddenError(
                f"expected a token with scope {scope!r}, got one with "
                f"{', '.join(map(repr, self.scopes))}"
            )

    def require_own(self, what: str, owner: str) -> None:
        """Refuse to change what somebody else has made.

        Parameters
        ----------
        what
            What it is, for messages.
        owner
            Name of the token it was made with, or empty; two tokens of one name are one owner.

        Raises
        ------
        ForbiddenError
            The token has another name, and not the scope ``admin``.
        """
        if "admin" in self.scopes or (owner and owner == self.name):
            return
        whose = f"a token of {owner!r}, who made it, or one" if owner else "a token"
        raise ForbiddenError(
            f"{what}: expected {whose} with scope 'admin', got one of {self.name!r}"
        )


class Gate:
    """Turns the head of a request into a caller.

    Parameters
    ----------
    find
        The record of a token by its id; called in a thread.
    is_open
        Let everybody in who speaks to this machine from this machine, without a token.
    clock
        Seconds; a test may bring its own.
    """

    def __init__(
        self,
        find: Callable[[str], TokenRecord | None],
        *,
        is_open: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._is_open = is_open
        self._clock = clock
        self._known: dict[str, tuple[float, TokenRecord]] = {}

    async def caller(self, request: Request) -> Caller:
        """Who sent a request.

        Raises
        ------
        AuthenticationError
            It has no token, or one that is not valid.
        ForbiddenError
            No token is asked for, and it comes from a page of somebody else.
        StoreUnreachableError
            The database does not answer.
        """
        if self._is_open:
            _require_same_machine(request)
            return Caller(name="", scopes=SCOPES)
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if not token or kind.lower() != "bearer":
            raise AuthenticationError("expected the header 'Authorization: Bearer TOKEN', got none")
        record = require_valid(token, await self._record(token_id_of(token)), datetime.now(UTC))
        return Caller(name=record.name, scopes=record.scopes)

    async def _record(self, token_id: str) -> TokenRecord | None:
        now = self._clock()
        until, known = self._known.get(token_id, (0.0, None))
        if known is not None and now < until:
            return known
        record = await run_in_threadpool(self._find, token_id)
        if record is not None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[token_id] = (now + REMEMBERED_S, record)
        return record


def is_loopback(host: str) -> bool:
    """Whether only this machine can speak to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _require_same_machine(request: Request) -> None:
    """Without tokens, a web page that is open in a browser here must not be a caller.

    Such a page sends its own name as the host (when it has that name point to this machine), or
    is told by the browser to come from elsewhere.
    """
    host = request.url.hostname or ""
    if not is_loopback(host):
        raise ForbiddenError(
            f"expected 'localhost' or a loopback address as the host, got {host!r}: a service "
            "without tokens answers only those"
        )
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise ForbiddenError("a service without tokens answers no pages of other sites")


_scheme = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="A token that `ntk-dist token create` has made.",
)


def requires(scope: Scope) -> Any:
    """The dependency of a route on a caller with a scope."""

    async def caller(request: Request, _: Annotated[Any, Security(_scheme)]) -> Caller:
        found: Caller = await request.app.state.service.gate.caller(request)
        request.state.caller = found.name or "-"
        found.require(scope)
        return found

    return Depends(caller)


Reader = Annotated[Caller, requires("read")]
Predictor = Annotated[Caller, requires("predict")]
Submitter = Annotated[Caller, requires("submit")]
