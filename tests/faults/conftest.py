"""A server that fails on purpose, between a client and real object storage."""

from __future__ import annotations

import http.client
import itertools
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from ntk_dist.settings import get_settings

FAILURES = ("unavailable", "dropped", "answer lost", "answer cut")


class FailingProxy(ThreadingHTTPServer):
    """Passes requests on, except every tenth; how that one fails takes turns."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.every = 10
        self.gone = False
        self.denied = False
        self.failed: list[str] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def next_failure(self) -> str | None:
        with self._lock:
            if self.gone:
                return "dropped"
            if next(self._numbers) % self.every:
                return None
            self.failed.append(FAILURES[len(self.failed) % len(FAILURES)])
            return self.failed[-1]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        failure = self.server.next_failure()
        if failure == "unavailable":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if failure == "dropped":
            self._hang_up()
            return
        if self.server.denied:
            content = b"<Error><Code>AccessDenied</Code><Token>hidden</Token></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            # The Host header stays: the signature covers it.
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if failure == "answer lost":
            self._hang_up()
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = answer.headers["Content-Length"] if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if failure == "answer cut":
            self.wfile.write(content[: len(content) // 2])
            self._hang_up()
            return
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on


@pytest.fixture
def proxy(s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingProxy]:
    """The environment of ``bucket``, but through a server that fails."""
    with FailingProxy(s3_endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        get_settings.cache_clear()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
