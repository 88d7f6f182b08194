"""The application behind a socket: by uvicorn in this process, or by Ray Serve on a cluster."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ntk_dist.errors import (
    InvalidInputError,
    MissingDependencyError,
    ServiceUnreachableError,
    SettingsError,
)
from ntk_dist.service.app import create_app
from ntk_dist.service.auth import is_loopback
from ntk_dist.service.connections import Connection
from ntk_dist.service.limits import MAX_REQUESTS
from ntk_dist.service.service import Service, ServiceConfig

__all__ = ["serve", "serve_app"]

log = logging.getLogger(__name__)

BACKLOG = 2048
GRACE_S = 30
"""Longest that requests which run when the service ends may still take, in seconds."""


def serve(
    config: ServiceConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    certificate: Path | None = None,
    key: Path | None = None,
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until a SIGTERM or SIGINT; drivers of jobs go on.

    Parameters
    ----------
    config
        What to serve.
    host, port
        Where to listen; port 0 is any that is free.
    certificate, key
        PEM files for TLS, both or neither.
    on_start
        Called with the address once requests are answered.

    Raises
    ------
    InvalidInputError
        No tokens are asked for, and others than this machine could ask.
    SettingsError
        Certificate and key do not belong together.
    ServiceUnreachableError
        The port is taken, or the host is none of this machine.
    NTKDistError
        As :func:`~ntk_dist.service.app.create_app` does.
    """
    if config.is_open and not is_loopback(host):
        raise InvalidInputError(
            f"--insecure: expected a loopback address as --host, got {host!r}: whoever reaches it "
            "could run jobs here; leave --insecure out and make tokens"
        )
    _require_pair(certificate, key)
    if certificate is None and not is_loopback(host):
        log.warning("tokens travel unencrypted: give a certificate, or put TLS in front of this")
    with _listening(host, port) as listener:
        app = create_app(config)
        settings = uvicorn.Config(
            app,
            log_config=None,  # those of the process that calls
            access_log=False,  # our own has the id of the request, and no query
            server_header=False,
            proxy_headers=False,
            http=Connection,
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        address, bound = listener.getsockname()[:2]
        scheme = "http" if certificate is None else "https"
        shown = f"[{address}]" if ":" in address else address
        server = _Server(settings, app.state.service)
        server.told = lambda: on_start(f"{scheme}://{shown}:{bound}")
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends by a signal without handing it on: ending so is what was asked for."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.told: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.told()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.is_stopping = True  # not ready any more, and streams of events end
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _require_pair(certificate: Path | None, key: Path | None) -> None:
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise SettingsError("TLS: expected a certificate and its key, got one of them")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(
            f"TLS: expected a certificate and its key, got {certificate} and {key}: {reason}"
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServiceUnreachableError(
            f"expected to listen on {host}:{port}, got: {reason}; choose another --port or --host"
        ) from error
    # Handed down to every connection. Head and body of an answer are sent one after the other:
    # without this the body waits for the caller to acknowledge the head, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve_app(arguments: Mapping[str, str]) -> Any:
    """The application for Ray Serve: ``serve run ntk_dist.service:serve_app workspace=...``.

    Every replica opens the database and looks after jobs; how many there are is said to Serve.

    Parameters
    ----------
    arguments
        ``workspace``, and ``database`` in place of that of the settings; several machines need
        one in PostgreSQL.

    Raises
    ------
    InvalidInputError
        There is no workspace among them, or something else is.
    MissingDependencyError
        Ray Serve is not installed.
    """
    given = dict(arguments)
    workspace, url = given.pop("workspace", None), given.pop("database", None)
    if workspace is None or given:
        raise InvalidInputError(
            "expected the arguments workspace and, if need be, database, got "
            f"{', '.join(sorted(arguments)) or 'none'}"
        )
    try:
        from ray import serve as ray_serve
    except ImportError as error:
        raise MissingDependencyError(
            f"Ray Serve needs a library that is not installed ({error.name}): "
            "pip install 'ntk_dist[serve]'"
        ) from error
    config = ServiceConfig(workspace=workspace, database_url=url)

    def build() -> Any:
        return create_app(config)

    # Serve would send five requests at a time and hold the others back; ours are bounded here.
    deployment = ray_serve.deployment(name="ntk_dist", max_ongoing_requests=MAX_REQUESTS)
    return deployment(ray_serve.ingress(build)()).bind()
