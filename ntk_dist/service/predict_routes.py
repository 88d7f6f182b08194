"""Routes of predictions."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from ntk_dist.errors import (
    ArtifactError,
    DataShapeError,
    InvalidInputError,
    MemoryBudgetError,
    ModelNotFoundError,
    NonFiniteDataError,
    RequestTooLargeError,
    ServiceTimeoutError,
    UnsupportedMediaTypeError,
)
from ntk_dist.service.auth import Predictor
from ntk_dist.service.bodies import accepted, encode, kind_of, rows_of
from ntk_dist.service.documentation import problems
from ntk_dist.service.hanging_up import unless_gone
from ntk_dist.service.model_host import Answer
from ntk_dist.service.service import Service, ServiceHere
from ntk_dist.wire import ARROW, JSON, MODEL_VERSION, NPY

__all__ = ["router"]

router = APIRouter(tags=["predictions"])

Version = Annotated[int, Path(ge=1, lt=2**31, description="Of the model.")]
Name = Annotated[str, Path(description="Of the model.")]
Wanted = Annotated[
    Literal["y", "label"],
    Query(description="What an .npy answer holds; the other kinds hold both."),
]

_BINARY = {"type": "string", "format": "binary"}
_ROWS: dict[str, Any] = {
    "type": "object",
    "required": ["rows"],
    "additionalProperties": False,
    "properties": {
        "rows": {
            "type": "array",
            "description": "Rows, nested as deep as one input has axes.",
            "items": {"type": "array", "items": {}},
        }
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model", "version", "y"],
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "integer"},
        "y": {
            "type": "array",
            "description": "Of each row its prediction, or predictions, or the score of each "
            "class; for two classes one score, positive for the second.",
            "items": {},
        },
        "label": {
            "type": "array",
            "description": "The class of each row, of a classifier.",
            "items": {},
        },
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": _ROWS,
                "examples": {"two rows": {"value": {"rows": [[0.1, 0.2], [0.3, 0.4]]}}},
            },
            NPY: {"schema": _BINARY},
            ARROW: {"schema": _BINARY},
        },
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Predictions, as Accept wants them, or else as the rows came.",
        "headers": {MODEL_VERSION: {"schema": {"type": "integer"}, "required": True}},
        "content": {
            JSON: {"schema": _ANSWER},
            NPY: {"schema": _BINARY},
            ARROW: {"schema": _BINARY},
        },
    },
    **problems(
        ModelNotFoundError,
        UnsupportedMediaTypeError,
        RequestTooLargeError,
        DataShapeError,
        NonFiniteDataError,
        InvalidInputError,
        ArtifactError,
        MemoryBudgetError,
        ServiceTimeoutError,
    ),
}


@router.post(
    "/v1/models/{name:segment}:predict",
    response_class=Response,
    openapi_extra=_BODY,
    responses=_RESPONSES,
)
async def predict(
    _: Predictor, service: ServiceHere, request: Request, name: Name, output: Wanted = "y"
) -> Response:
    """Predict rows with the latest version of a model."""
    return await _predict(service, request, name, None, output)


@router.post(
    "/v1/models/{name}/versions/{version:segment}:predict",
    response_class=Response,
    openapi_extra=_BODY,
    responses=_RESPONSES,
)
async def predict_with_version(
    _: Predictor,
    service: ServiceHere,
    request: Request,
    name: Name,
    version: Version,
    output: Wanted = "y",
) -> Response:
    """Predict rows with one version of a model."""
    return await _predict(service, request, name, version, output)


async def _predict(
    service: Service, request: Request, name: str, version: int | None, output: str
) -> Response:
    host = service.models
    host.require_room()
    headers = request.headers
    sent = kind_of(headers.get("content-type"), headers.get("content-encoding"))
    wanted = accepted(headers.get("accept"), sent)
    model = await host.find(name, version)  # before a large body is read in vain
    body = await request.body()
    x = await host.parse(partial(rows_of, body, sent), len(body))
    if x.ndim == 2 and x.shape[1:] != model.row_shape and sent == ARROW:
        x = _unflattened(x, model.row_shape)  # a table has no other axes
    answer = await unless_gone(request, host.predict(name, version, x))
    content = await host.parse(partial(_encoded, answer, wanted, output), answer.y.nbytes)
    return Response(content, media_type=wanted, headers={MODEL_VERSION: str(answer.model.version)})


def _unflattened(x: np.ndarray, row_shape: tuple[int, ...]) -> np.ndarray:
    fits = x.shape[1] == np.prod(row_shape)
    return x.reshape(len(x), *row_shape) if fits else x


def _encoded(answer: Answer, kind: str, output: str) -> bytes:
    about = {"model": answer.model.name, "version": answer.model.version}
    if output == "label":
        if answer.label is None:
            raise InvalidInputError(
                f"output: expected 'y' of model {answer.model.name}, which is none of classes, "
                "got 'label'"
            )
        if kind == NPY:
            return encode(kind, answer.label, None, about)
    return encode(kind, answer.output, answer.label, about)
