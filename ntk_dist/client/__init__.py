"""The Python client of a running service: submit, watch, predict.

::

    from ntk_dist import Client

    with Client("http://127.0.0.1:8080", token="...") as client:
        job = client.submit("job.yaml", upload=True)
        job.wait(progress=True)
        labels = client.model("digits").predict(X)

:class:`AsyncClient` has the same methods, to be awaited. Both are made from one description of what
is sent when: ``flow`` says how, ``exchange`` is one request with its retries (which ``patience``
decides from values alone), ``http`` and ``line`` are the only files that talk to httpx. ``clients``
holds what a client can do, once ``arguments`` has checked what it was given, ``jobs``, ``models``
and ``uploads`` what can be done with what it finds, ``submission`` makes a request of a job file,
``events`` reads the stream of a job and ``display`` shows it. Nothing here knows kernels, stores or
jax: a client loads in a fraction of a second.
"""

from __future__ import annotations

from ntk_dist.client.clients import AsyncClient, Client
from ntk_dist.client.events import TimedEvent
from ntk_dist.client.jobs import JobHandle
from ntk_dist.client.models import ModelHandle

__all__ = ["AsyncClient", "Client", "JobHandle", "ModelHandle", "TimedEvent"]
