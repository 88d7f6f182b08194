"""What the database keeps of jobs, tokens and uploads: plain records, no SQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ntk_dist.wire import Failure, JobState, Scope

__all__ = ["JobRecord", "TokenRecord", "UploadRecord"]


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job as the service knows it; what its driver writes down stays in the workspace."""

    id: str
    name: str
    spec: dict[str, Any]
    """The job file, every place in it absolute."""
    state: JobState = JobState.QUEUED
    revision: int = 0
    """Counts changes: a change is kept only if nobody else made one since it was read."""
    attempt: int = 0
    """How often a driver was started."""
    resumes: int = 0
    """How often in a row it was started again without being asked to."""
    owner: str = ""
    """Name of the token that submitted it."""
    idempotency_key: str | None = None
    body_sha256: str = ""
    """Of what was submitted, to tell a repeated request from another one under the same key."""
    launcher: str = "process"
    """Who runs the driver: ``process`` or ``ray``."""
    run: str | None = None
    """Name of the run of this attempt: ``WORKSPACE/jobs/NAME/RUN``."""
    handle: dict[str, Any] = field(default_factory=dict)
    """What the launcher needs to find the driver again."""
    is_cancelling: bool = False
    lease_holder: str | None = None
    """The replica that looks after the driver."""
    lease_until: datetime | None = None
    """After that any replica may."""
    created: datetime
    updated: datetime
    started: datetime | None = None
    """Of this attempt."""
    finished: datetime | None = None
    failure: Failure | None = None
    model_version: int | None = None
    score: float | None = None
    report: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """A token without its secret."""

    id: str
    name: str
    secret_sha256: str
    """The secret has 256 random bits, so one fast hash is as good as a slow one."""
    scopes: tuple[Scope, ...]
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class UploadRecord:
    """A file on its way into the workspace."""

    id: str
    filename: str
    n_bytes: int
    sha256: str
    part_bytes: int
    owner: str
    created: datetime
    completed: datetime | None = None
