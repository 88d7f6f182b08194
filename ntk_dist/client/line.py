"""The way to a service: what both clients have of httpx, and what no answer means in our words."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntk_dist.client.flow import Answer, Request, Unanswered
from ntk_dist.errors import (
    InvalidInputError,
    MissingDependencyError,
    ServiceTimeoutError,
    ServiceUnreachableError,
)

try:
    import httpx
except ImportError as error:
    raise MissingDependencyError(
        "the client needs httpx, which is not installed; pip install 'ntk_dist[client]'"
    ) from error

__all__ = ["Line", "answer_of", "httpx"]

CONNECT_S = 10.0
"""Longest that a connection may take to be made, in seconds: a network is quick or away."""
LISTEN_S = 60.0
"""A stream of events says something every 15 s; silence of four times that is a lost connection."""
KEEP_S = 3.0
"""An idle connection is used again within this, in seconds: many a proxy hangs up after 5 s, and a
request that is sent just then is lost."""


@dataclass(frozen=True)
class Line:
    """Where a service is, and how it is spoken to.

    Raises
    ------
    InvalidInputError
        From :meth:`options`: ``verify`` names no file of certificates.
    """

    url: str
    """Without a slash at the end."""
    headers: Mapping[str, str] = field(repr=False)
    """Of every request; one of them is a token."""
    timeout_s: float
    """Longest silence of the service that is borne, in seconds."""
    verify: bool | str | Path = True
    """Whether certificates are checked, or the file of the authorities to trust."""

    @property
    def listen_s(self) -> float:
        """The same, while it is listened to."""
        return max(self.timeout_s, LISTEN_S)

    def options(self) -> dict[str, Any]:
        """Arguments of either kind of client that httpx has."""
        return {
            "headers": self.headers,
            "timeout": _timeout(self.timeout_s),
            "verify": _trust(self.url, self.verify),
            "limits": httpx.Limits(keepalive_expiry=KEEP_S),
        }

    def built(
        self,
        http: httpx.Client | httpx.AsyncClient,
        request: Request,
        *,
        is_listening: bool = False,
    ) -> httpx.Request:
        """A request as httpx sends it."""
        return http.build_request(
            request.method,
            self.url + request.path,
            params=request.params or None,
            headers=dict(request.headers),
            content=request.body,
            timeout=_timeout(self.listen_s if is_listening else self.timeout_s),
        )

    def unanswered(
        self, error: httpx.HTTPError, request: Request, *, is_heard: bool = False
    ) -> Unanswered:
        """Why there is no answer, in words of ours.

        Parameters
        ----------
        error
            What httpx says.
        request
            What was asked.
        is_heard
            Whether an answer had begun, and was listened to.
        """
        what = f"{request.method} {self.url}{request.path}"
        reason = str(error) or type(error).__name__
        was_sent, may_pass = True, True
        silent_s = self.listen_s if is_heard else self.timeout_s
        told: ServiceTimeoutError | ServiceUnreachableError
        match error:
            case (
                httpx.ConnectError()
                | httpx.ConnectTimeout()
                | httpx.ProxyError()
                | httpx.UnsupportedProtocol()
            ):
                was_sent, may_pass = False, not _is_distrust(error)
                hint = (
                    "check the address, and that 'ntk-dist serve' runs there"
                    if may_pass
                    else "give the client, as verify, the file of the authority that signed it"
                )
                told = ServiceUnreachableError(
                    f"expected a service at {self.url}, got no connection ({reason}); {hint}"
                )
            case httpx.TimeoutException():
                may_pass = is_heard
                told = ServiceTimeoutError(
                    f"{what}: expected an answer within {silent_s:g} s, got none ({reason}); ask "
                    "for less at a time, or give the client a larger timeout_s"
                )
            case _:
                told = ServiceUnreachableError(
                    f"{what}: the connection broke before all of the answer was there ({reason}); "
                    "check that the service runs, and ask again"
                )
        told.__cause__ = error
        return Unanswered(error=told, was_sent=was_sent, may_pass=may_pass)


def answer_of(response: httpx.Response) -> Answer:
    """An answer that was read whole."""
    return Answer(status=response.status_code, headers=response.headers, body=response.content)


def _timeout(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))


def _trust(url: str, verify: bool | str | Path) -> ssl.SSLContext | bool:
    if not url.startswith("https:"):
        return False  # reading the authorities takes 20 ms
    if isinstance(verify, bool):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise InvalidInputError(
            f"verify: expected True, False or a file of certificates, got {str(verify)!r}: {error}"
        ) from error


def _is_distrust(error: BaseException | None) -> bool:
    """Whether it is a certificate that is not trusted, now or later."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
