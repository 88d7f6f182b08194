"""The one contract that the service and its clients share: records, errors and arrays as bytes.

Records are frozen dataclasses; on the wire each is a JSON object with the same keys, times are
ISO 8601 in UTC. :func:`to_json` and :func:`of_json` turn one into the other. Keys of later versions
are passed over, so that an old client reads a new service. A later word for a key that is known,
such as another state of a job, is refused.

An error is one JSON shape everywhere (except on ``/v2`` paths, whose protocol has its own)::

    {"error": {"code": "job_not_found", "message": "...", "request_id": "4f0c..."}}

Arrays travel as JSON lists, as ``application/x-npy`` (NumPy's format, version 1 or 2, never with
objects) or as an Arrow IPC stream. No jax here: a client loads in a fraction of a second.

``records`` holds the names of headers and media types and the records, ``problems`` the errors and
``npy`` the arrays. Names are imported from here.
"""

from __future__ import annotations

from ntk_dist.wire.npy import from_npy, to_npy
from ntk_dist.wire.problems import error_of, problem_of
from ntk_dist.wire.records import (
    ARROW,
    CONTENT_SHA256,
    IDEMPOTENCY_KEY,
    IDEMPOTENT_REPLAY,
    JSON,
    KEY_PATTERN,
    LAST_EVENT_ID,
    MODEL_VERSION,
    NEXT_START,
    NPY,
    REQUEST_ID,
    SCOPES,
    Blocks,
    Failure,
    Job,
    JobPage,
    JobState,
    Model,
    ModelList,
    Progress,
    Scope,
    Upload,
    Version,
    of_json,
    to_json,
)

__all__ = [
    "ARROW",
    "CONTENT_SHA256",
    "IDEMPOTENCY_KEY",
    "IDEMPOTENT_REPLAY",
    "JSON",
    "KEY_PATTERN",
    "LAST_EVENT_ID",
    "MODEL_VERSION",
    "NEXT_START",
    "NPY",
    "REQUEST_ID",
    "SCOPES",
    "Blocks",
    "Failure",
    "Job",
    "JobPage",
    "JobState",
    "Model",
    "ModelList",
    "Progress",
    "Scope",
    "Upload",
    "Version",
    "error_of",
    "from_npy",
    "of_json",
    "problem_of",
    "to_json",
    "to_npy",
]
