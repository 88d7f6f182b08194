"""Routes about the service itself."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from ntk_dist._version import __version__
from ntk_dist.errors import ServiceError
from ntk_dist.service.auth import Reader
from ntk_dist.service.documentation import problems
from ntk_dist.service.documents import answer
from ntk_dist.service.metrics import CONTENT_TYPE
from ntk_dist.service.service import ServiceHere
from ntk_dist.wire import Version

__all__ = ["router"]

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """Whether requests may be sent here."""

    is_ready: bool


@router.get("/v1/version", response_model=Version, responses=problems())
async def get_version() -> Response:
    """Say which service answers."""
    return answer(Version(name="ntk_dist", version=__version__))


@router.get("/v1/health", response_model=Health, responses=problems(ServiceError))
def get_health(service: ServiceHere) -> Response:
    """Say whether requests may be sent here: not while the service ends or its database is away."""
    service.require_ready()
    return answer({"is_ready": True})


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(),
    },
)
def get_metrics(_: Reader, service: ServiceHere) -> Response:
    """Read counters and gauges in the text format of Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)
