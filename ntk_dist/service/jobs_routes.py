"""Routes of jobs."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from ntk_dist.errors import (
    ArchitectureError,
    ConflictError,
    IdempotencyError,
    JobNotFoundError,
    JobSpecError,
    RequestTooLargeError,
    UnreadableDataError,
    UnsupportedMediaTypeError,
    UploadNotFoundError,
)
from ntk_dist.jobs.queue import MAX_PAGE
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.service.auth import Reader, Submitter
from ntk_dist.service.documentation import json_body, problems
from ntk_dist.service.documents import answer, read_document
from ntk_dist.service.service import ServiceHere
from ntk_dist.store.workspace import NAME_PATTERN
from ntk_dist.wire import (
    IDEMPOTENCY_KEY,
    IDEMPOTENT_REPLAY,
    KEY_PATTERN,
    LAST_EVENT_ID,
    NEXT_START,
    Blocks,
    Job,
    JobPage,
    JobState,
)

__all__ = ["router"]

router = APIRouter(tags=["jobs"])

EXAMPLE = {
    "name": "digits",
    "task": "classification",
    "data": {
        "x": "upload://4f0c0f7a3e1b4c5d8a9b0c1d2e3f4a5b:x",
        "y": "upload://4f0c0f7a3e1b4c5d8a9b0c1d2e3f4a5b:y",
    },
    "preprocess": ["standardize"],
    "architecture": [
        "serial",
        ["Dense", {"W_std": 1.4, "b_std": 0.1}],
        ["Relu"],
        ["Dense"],
    ],
}
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


async def _job_id(job_id: Annotated[str, Path(description="As submitting it has told.")]) -> str:
    if not _ID.fullmatch(job_id):
        raise JobNotFoundError(f"expected the id of a job, got {job_id!r}; list the jobs")
    return job_id


JobId = Annotated[str, Depends(_job_id)]


class JobFilter(BaseModel):
    """Which jobs are asked for; an unknown name is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")

    state: JobState | None = None
    name: str | None = Field(default=None, pattern=f"^{NAME_PATTERN}$", max_length=100)
    after: str | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=Job,
    openapi_extra=json_body(JobSpec, digits=EXAMPLE),
    responses={
        202: {"headers": {"Location": {"schema": {"type": "string"}, "required": True}}},
        **problems(
            JobSpecError,
            ArchitectureError,
            UnreadableDataError,
            UploadNotFoundError,
            ConflictError,
            IdempotencyError,
            RequestTooLargeError,
            UnsupportedMediaTypeError,
        ),
    },
)
async def submit_job(
    request: Request,
    caller: Submitter,
    service: ServiceHere,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias=IDEMPOTENCY_KEY,
            pattern=f"^{KEY_PATTERN}$",
            description="Of your choice; the same key with the same body is the same job.",
        ),
    ] = None,
) -> Response:
    """Submit a job: the job file as JSON, without a workspace, data by `upload://ID[:array]`.

    The same request with the same key again comes to the same job, and says so in the header
    `Idempotent-Replay`.
    """
    document = await read_document(request, JobSpec, JobSpecError)

    def submit() -> tuple[Job, bool]:
        digest = hashlib.sha256(document.canonical).hexdigest()
        # Asked first: what the same request referred to may be gone by now.
        before = service.queue.submitted_before(
            owner=caller.name, key=idempotency_key, body_sha256=digest
        )
        if before is not None:
            return before, False
        return service.queue.submit(
            service.admitted(document.value),
            owner=caller.name,
            key=idempotency_key,
            body_sha256=digest,
        )

    job, is_new = await run_in_threadpool(submit)
    service.supervisor.wake()
    headers = {"Location": f"{request.scope.get('root_path', '')}/v1/jobs/{job.id}"}
    return answer(
        service.names.json(job),
        202,
        headers if is_new else {**headers, IDEMPOTENT_REPLAY: "true"},
    )


@router.get("/v1/jobs", response_model=JobPage, responses=problems())
def list_jobs(_: Reader, service: ServiceHere, wanted: Annotated[JobFilter, Query()]) -> Response:
    """List jobs, the newest first; only those that run come with their progress."""
    found = service.queue.page(wanted.state, wanted.name, wanted.after, wanted.limit)
    return answer(service.names.json(found))


@router.get("/v1/jobs/{job_id:segment}", response_model=Job, responses=problems(JobNotFoundError))
def get_job(_: Reader, service: ServiceHere, job_id: JobId) -> Response:
    """Look at one job."""
    return answer(service.names.json(service.queue.get(job_id)))


@router.post(
    "/v1/jobs/{job_id:segment}:cancel",
    status_code=202,
    response_model=Job,
    responses={
        200: {"model": Job, "description": "It was cancelled before."},
        **problems(JobNotFoundError, ConflictError),
    },
)
def cancel_job(caller: Submitter, service: ServiceHere, job_id: JobId) -> Response:
    """Have a job of your own end, or as an admin anybody's; what it has computed is kept."""
    caller.require_own(f"job {job_id}", service.queue.owner_of(job_id))
    job, is_new = service.queue.cancel(job_id)
    service.supervisor.wake()
    return answer(service.names.json(job), 202 if is_new else 200)


@router.post(
    "/v1/jobs/{job_id:segment}:resume",
    status_code=202,
    response_model=Job,
    responses={
        200: {"model": Job, "description": "It waits for its turn already."},
        **problems(JobNotFoundError, ConflictError),
    },
)
def resume_job(caller: Submitter, service: ServiceHere, job_id: JobId) -> Response:
    """Have a job of your own (as an admin: any) that failed, was cancelled or is lost go on."""
    caller.require_own(f"job {job_id}", service.queue.owner_of(job_id))
    job, is_new = service.queue.resume(job_id)
    service.supervisor.wake()
    return answer(service.names.json(job), 202 if is_new else 200)


@router.get(
    "/v1/jobs/{job_id:segment}/logs",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(JobNotFoundError),
    },
)
def get_job_logs(
    _: Reader,
    service: ServiceHere,
    job_id: JobId,
    start: Annotated[int, Query(ge=0, lt=2**63, description="First byte.")] = 0,
) -> Response:
    """Read what the driver of the last attempt printed, 4 MiB at a time.

    Places of the service itself are stars.
    """
    found = service.names.log(lambda first: service.queue.logs(job_id, first), start)
    headers = {NEXT_START: str(start + len(found))}
    return Response(found, headers=headers, media_type="text/plain")


@router.get(
    "/v1/jobs/{job_id:segment}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems(JobNotFoundError),
    },
)
async def get_job_events(
    _: Reader,
    request: Request,
    service: ServiceHere,
    job_id: JobId,
    last_event_id: Annotated[
        str | None, Header(alias=LAST_EVENT_ID, description="Go on behind this one.")
    ] = None,
) -> Response:
    """Follow a job by server-sent events, from its beginning to its end."""

    async def admit() -> None:
        (await service.gate.caller(request)).require("read")

    return await service.event_streams.respond(job_id, last_event_id or None, admit)


@router.get(
    "/v1/jobs/{job_id:segment}/blocks",
    response_model=Blocks | None,
    responses=problems(JobNotFoundError),
)
def get_job_blocks(_: Reader, service: ServiceHere, job_id: JobId) -> Response:
    """Look at which blocks of its Gram matrix are stored; null while nobody knows which it is."""
    return answer(service.queue.blocks(job_id))
