"""The socket that the service listens on."""

from __future__ import annotations

import socket

from ntk_dist.service.serve import _listening


def test_answers_leave_at_once():
    with (
        _listening("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()) as caller,
    ):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert caller.fileno() >= 0
