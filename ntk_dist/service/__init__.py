"""The HTTP service: submit jobs, watch them, and ask the models that they leave behind.

``app`` puts the application together, ``serve`` runs it with uvicorn, over the ``connections``
that may be open, or hands it to Ray Serve.
Routes are in ``jobs_routes``, ``uploads_routes``, ``models_routes``, ``predict_routes``,
``service_routes`` and, for the Open Inference Protocol, ``inference_v2``; what they share, from the
database to the counters, is in ``service``.

Every request goes through ``envelope`` (an id, a line in the log, a metric) and ``limits`` (bytes,
patience, how many at once). ``auth`` and ``tokens`` say who asks, ``adoption`` lets in tokens that
were made elsewhere, ``places`` says what a job of a caller may refer to, and ``public_names`` what
that is called when it is told. ``documents`` reads and writes JSON; whatever goes wrong is told by
``problems`` in one shape, which ``documentation``
publishes; ``addresses`` knows the templates of all routes.

``event_stream`` follows jobs, ``uploads`` takes files in parts, ``metrics`` counts. ``catalog``
finds published models, ``model_host`` loads and asks them, ``batching`` joins small requests
unless ``hanging_up`` notices that a caller is gone; ``bodies`` and ``tensors`` are the rows and
answers as bytes. What a browser shows are :mod:`.pages`, which ask the same routes.

Work that waits for the database or the disk is done in threads, never where requests are read.
FastAPI, uvicorn and prometheus_client are imported in this folder only, and not before one of its
modules is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["serve_app"]


def serve_app(arguments: Mapping[str, str]) -> Any:
    """The application for Ray Serve; see :func:`ntk_dist.service.serve.serve_app`."""
    from ntk_dist.service.serve import serve_app

    return serve_app(arguments)
