"""The HTTP service: submit jobs, watch them, and ask the models that they leave behind.

:mod:`.app` puts the application together from the routers of jobs, uploads, models and predictions
(``*_routes``, and ``inference_v2`` for the Open Inference Protocol); :mod:`.service` is what they
share: database, queue, supervisor, uploads, models. Every request goes through :mod:`.envelope`
(an id, a line in the log, a metric) and :mod:`.limits` (bytes of its body); :mod:`.auth` and
:mod:`.tokens` say who asks, :mod:`.places` what a job of a caller may refer to. Whatever goes
wrong is told by :mod:`.problems` in one shape, which :mod:`.documentation` publishes. Work that
waits for the database or the disk is done in threads, never where requests are read.

What a browser shows of all that are :mod:`.pages`, which ask the same routes.

:mod:`.serve` runs the application with uvicorn, or hands it to Ray Serve. FastAPI, uvicorn and
prometheus_client are imported in this folder only, and not before one of its modules is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["serve_app"]


def serve_app(arguments: Mapping[str, str]) -> Any:
    """The application for Ray Serve; see :func:`ntk_dist.service.serve.serve_app`."""
    from ntk_dist.service.serve import serve_app

    return serve_app(arguments)
