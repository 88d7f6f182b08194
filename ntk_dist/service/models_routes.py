"""Routes of models: which there are, and what is known of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from ntk_dist.errors import ArtifactError, ModelNotFoundError
from ntk_dist.service.auth import Reader
from ntk_dist.service.documentation import problems
from ntk_dist.service.documents import answer
from ntk_dist.service.service import ServiceHere
from ntk_dist.wire import Model, ModelList

__all__ = ["router"]

router = APIRouter(tags=["models"])

Name = Annotated[str, Path(description="Of the model, which is that of its job.")]
Version = Annotated[int, Path(ge=1, lt=2**31, description="Of the model.")]


@router.get("/v1/models", response_model=ModelList, responses=problems())
def list_models(_: Reader, service: ServiceHere) -> Response:
    """List the latest version of every model."""
    return answer(service.models.list())


@router.get(
    "/v1/models/{name:segment}",
    response_model=Model,
    responses=problems(ModelNotFoundError, ArtifactError),
)
def get_model(_: Reader, service: ServiceHere, name: Name) -> Response:
    """Look at the latest version of a model."""
    return answer(service.models.describe(name))


@router.get(
    "/v1/models/{name:segment}/versions/{version:segment}",
    response_model=Model,
    responses=problems(ModelNotFoundError, ArtifactError),
)
def get_model_version(_: Reader, service: ServiceHere, name: Name, version: Version) -> Response:
    """Look at one version of a model."""
    return answer(service.models.describe(name, version))
