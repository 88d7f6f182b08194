"""The Open Inference Protocol, version 2: clients made for other servers work with this one.

A model takes one input ``x``, rows first, and answers ``y`` (n, n_targets): predictions, or the
score of each class; for two classes one score, positive for the second. A classifier also answers
``label`` (n,).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from ntk_dist._version import __version__
from ntk_dist.errors import (
    ArtifactError,
    DataShapeError,
    MemoryBudgetError,
    ModelNotFoundError,
    NonFiniteDataError,
    NTKDistError,
    RequestTooLargeError,
    ServiceError,
    ServiceTimeoutError,
    StoreError,
    UnsupportedMediaTypeError,
)
from ntk_dist.service.auth import Predictor
from ntk_dist.service.bodies import require_uncompressed
from ntk_dist.service.documentation import problems
from ntk_dist.service.hanging_up import unless_gone
from ntk_dist.service.service import ServiceHere
from ntk_dist.service.tensors import HEADER_LENGTH, answer_body, datatype_of, parse_request
from ntk_dist.wire import JSON

__all__ = ["router"]

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

BINARY = "application/octet-stream"
Name = Annotated[str, Path(description="Of the model.")]
Version = Annotated[int, Path(ge=1, lt=2**31, description="Of the model.")]


class V2Problem(BaseModel):
    """What went wrong."""

    error: str


def _problems(*kinds: type[NTKDistError]) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, in the shape that this protocol has for them."""
    return {status: {**told, "model": V2Problem} for status, told in problems(*kinds).items()}


_READ = _problems(ModelNotFoundError, ArtifactError)
_INFER = _problems(
    ModelNotFoundError,
    UnsupportedMediaTypeError,
    RequestTooLargeError,
    DataShapeError,
    NonFiniteDataError,
    ArtifactError,
    MemoryBudgetError,
    ServiceTimeoutError,
)
_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "items": _TENSOR},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                },
                "examples": {
                    "two rows": {
                        "value": {
                            "inputs": [
                                {
                                    "name": "x",
                                    "shape": [2, 2],
                                    "datatype": "FP32",
                                    "data": [0.1, 0.2, 0.3, 0.4],
                                }
                            ]
                        }
                    }
                },
            },
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("", responses=_problems())
async def get_server() -> dict[str, Any]:
    """Say which server answers, and what it can beyond the protocol."""
    return {"name": "ntk_dist", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", responses=_problems())
async def is_live() -> dict[str, bool]:
    """Say that the server runs."""
    return {"live": True}


@router.get("/health/ready", responses=_problems(ServiceError))
def is_ready(service: ServiceHere) -> dict[str, bool]:
    """Say whether requests may be sent here."""
    service.require_ready()
    return {"ready": True}


@router.get("/models/{name}/ready", responses=_READ)
@router.get("/models/{name}/versions/{version}/ready", responses=_READ)
async def is_model_ready(
    service: ServiceHere, name: Name, version: Version | None = None
) -> dict[str, Any]:
    """Say whether a model can be asked; it is loaded when it is, if need be."""
    try:
        await service.models.find(name, version, may_list=False)
    except StoreError as error:  # which says where it is, and anybody may ask here
        raise type(error)(f"model {name!r} cannot be read; those with a token hear why") from error
    return {"name": name, "ready": True}


@router.get("/models/{name}", responses=_READ)
@router.get("/models/{name}/versions/{version}", responses=_READ)
async def get_model(
    _: Predictor, service: ServiceHere, name: Name, version: Version | None = None
) -> dict[str, Any]:
    """Say what a model takes and answers."""
    model = await service.models.find(name, version)
    outputs = [{"name": "y", "datatype": "FP64", "shape": [-1, model.n_targets]}]
    if model.classes is not None:
        kind = datatype_of(np.array(model.classes).dtype)
        outputs.append({"name": "label", "datatype": kind, "shape": [-1]})
    taken = {"float32": "FP32", "float64": "FP64"}[model.dtype]
    return {
        "name": model.name,
        "versions": [str(number) for number in model.versions],
        "platform": "ntk_dist",
        "inputs": [{"name": "x", "datatype": taken, "shape": [-1, *model.row_shape]}],
        "outputs": outputs,
    }


@router.post("/models/{name}/infer", openapi_extra=_BODY, responses=_INFER)
@router.post("/models/{name}/versions/{version}/infer", openapi_extra=_BODY, responses=_INFER)
async def infer(
    _: Predictor, service: ServiceHere, request: Request, name: Name, version: Version | None = None
) -> Response:
    """Predict rows: tensors as JSON, or as bytes behind it."""
    host = service.models
    host.require_room()
    require_uncompressed(request.headers.get("content-encoding"))
    await host.find(name, version)  # before a large body is read in vain
    body = await request.body()
    asked = await host.parse(
        partial(parse_request, body, request.headers.get(HEADER_LENGTH)), len(body)
    )
    answer = await unless_gone(request, host.predict(name, version, asked.x))
    tensors = {"y": answer.y} if answer.label is None else {"y": answer.y, "label": answer.label}
    about = {"model_name": name, "model_version": str(answer.model.version)}
    content, head = await host.parse(partial(answer_body, asked, about, tensors), answer.y.nbytes)
    if head is None:
        return Response(content, media_type=JSON)
    return Response(content, media_type=BINARY, headers={HEADER_LENGTH: str(head)})
