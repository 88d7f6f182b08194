"""Routes of uploads."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from ntk_dist.errors import (
    ChecksumMismatchError,
    ConflictError,
    DiskBudgetError,
    RequestTooLargeError,
    StoreFullError,
    UnsupportedMediaTypeError,
    UploadNotFoundError,
)
from ntk_dist.service.auth import Caller, Submitter
from ntk_dist.service.documentation import binary_body, json_body, problems
from ntk_dist.service.documents import answer, read_document
from ntk_dist.service.service import Service, ServiceHere
from ntk_dist.service.uploads import NewUpload
from ntk_dist.wire import CONTENT_SHA256, Upload

__all__ = ["router"]

router = APIRouter(tags=["uploads"])

UploadId = Annotated[str, Path(description="As beginning it has told.")]


@router.post(
    "/v1/uploads",
    status_code=201,
    response_model=Upload,
    openapi_extra=json_body(
        NewUpload, digits={"filename": "digits.npz", "n_bytes": 9, "sha256": "0" * 64}
    ),
    responses={
        201: {"headers": {"Location": {"schema": {"type": "string"}, "required": True}}},
        **problems(RequestTooLargeError, DiskBudgetError, UnsupportedMediaTypeError),
    },
)
async def begin_upload(request: Request, caller: Submitter, service: ServiceHere) -> Response:
    """Announce a file; the answer says how long its parts are to be."""
    document = await read_document(request, NewUpload)
    upload = await run_in_threadpool(service.uploads.begin, document.value, caller.name)
    location = f"{request.scope.get('root_path', '')}/v1/uploads/{upload.id}"
    return answer(upload, 201, {"Location": location})


@router.put(
    "/v1/uploads/{upload_id:segment}/parts/{number}",
    response_model=Upload,
    openapi_extra=binary_body(),
    responses=problems(
        UploadNotFoundError,
        ConflictError,
        ChecksumMismatchError,
        RequestTooLargeError,
        StoreFullError,
    ),
)
async def put_part(
    request: Request,
    caller: Submitter,
    service: ServiceHere,
    upload_id: UploadId,
    number: Annotated[int, Path(ge=0, lt=2**31, description="From 0.")],
    sha256: Annotated[
        str,
        Header(
            alias=CONTENT_SHA256,
            pattern="^[0-9a-f]{64}$",
            description="Of this part, in lower-case hexadecimal.",
        ),
    ],
) -> Response:
    """Send one part, in any order, as often as it takes."""
    content = await request.body()

    def put() -> Upload:
        _require_own(caller, service, upload_id)
        return service.uploads.put_part(upload_id, number, sha256, content)

    return answer(await run_in_threadpool(put))


@router.post(
    "/v1/uploads/{upload_id:segment}:complete",
    response_model=Upload,
    responses=problems(UploadNotFoundError, ConflictError, ChecksumMismatchError, StoreFullError),
)
def complete_upload(caller: Submitter, service: ServiceHere, upload_id: UploadId) -> Response:
    """Put the parts together, and make sure that they are the announced file."""
    _require_own(caller, service, upload_id)
    return answer(service.uploads.complete(upload_id))


@router.get(
    "/v1/uploads/{upload_id:segment}",
    response_model=Upload,
    responses=problems(UploadNotFoundError),
)
def get_upload(_: Submitter, service: ServiceHere, upload_id: UploadId) -> Response:
    """Look at which parts have arrived."""
    return answer(service.uploads.get(upload_id))


@router.delete(
    "/v1/uploads/{upload_id:segment}",
    status_code=204,
    response_class=Response,
    responses=problems(UploadNotFoundError, ConflictError),
)
def delete_upload(caller: Submitter, service: ServiceHere, upload_id: UploadId) -> Response:
    """Remove an upload and its file."""
    _require_own(caller, service, upload_id)
    service.uploads.delete(upload_id)
    return Response(status_code=204)


def _require_own(caller: Caller, service: Service, upload_id: str) -> None:
    caller.require_own(f"upload {upload_id}", service.uploads.owner_of(upload_id))
