"""What every request goes through: an id, a line in the log, a metric, and an end in words."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ntk_dist.errors import NTKDistError
from ntk_dist.service.addresses import Addresses
from ntk_dist.service.metrics import Metrics
from ntk_dist.service.problems import DEFECT, problem, request_id_of
from ntk_dist.wire import REQUEST_ID

__all__ = ["Envelope"]

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
GONE = 499
"""In logs and metrics: the caller hung up before there was an answer."""


class _HeadAnsweredError(Exception):
    """A stream need not be read when only its headers were asked for."""


class Envelope:
    """Outermost middleware of the service."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, addresses: Addresses) -> None:
        self._app = app
        self._metrics = metrics
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        known = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": known}
        method = scope["method"]
        if method == "HEAD":  # the same as GET, but for the body; the server goes on seeing HEAD
            scope = {**scope, "method": "GET"}
        start, status = time.perf_counter(), 0

        async def enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = known
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cache-Control", "no-store")
            elif method == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                if message.get("more_body"):
                    raise _HeadAnsweredError
                return
            await send(message)

        try:
            await self._app(scope, receive, enveloped)
        except _HeadAnsweredError:
            pass
        except ClientDisconnect:
            status = status or GONE
        except Exception as error:
            if status:  # half an answer is out: only a cut connection tells that it is half
                log.exception("request %s broke off", known)
                raise
            ours = error if isinstance(error, NTKDistError) else DEFECT
            if ours is DEFECT:
                log.exception("request %s: %s", known, type(error).__name__)
            await problem(scope, ours)(scope, receive, enveloped)
        finally:
            seconds = time.perf_counter() - start
            template = self._addresses.template(scope["path"])
            self._metrics.count(method, template, status or GONE, seconds)
            self._tell(scope, method, status or GONE, seconds)

    def _tell(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        # As it was sent: decoded, an address may hold the end of a line, and a line of its own.
        path = scope.get("raw_path", scope["path"].encode()).decode("ascii", "backslashreplace")
        caller = scope["state"].get("caller", "-")
        log.info(
            "%s %s %d %.1f ms caller=%s request=%s",
            method,
            path,
            status,
            seconds * 1000,
            caller,
            request_id_of(scope),
        )
