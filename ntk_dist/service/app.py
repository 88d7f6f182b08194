"""The application: routes, and what every request goes through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ntk_dist._version import __version__
from ntk_dist.service import (
    inference_v2,
    jobs_routes,
    models_routes,
    pages,
    predict_routes,
    service_routes,
    uploads_routes,
)
from ntk_dist.service.documentation import TAGS, DocumentedAPI
from ntk_dist.service.envelope import Envelope
from ntk_dist.service.limits import Limits
from ntk_dist.service.problems import install
from ntk_dist.service.service import Service, ServiceConfig

__all__ = ["create_app"]

ROUTERS = (
    service_routes.router,
    jobs_routes.router,
    uploads_routes.router,
    models_routes.router,
    predict_routes.router,
    inference_v2.router,
    pages.router,
)


def create_app(config: ServiceConfig) -> FastAPI:
    """An ASGI application; jobs are looked after between the start and the end of its lifespan.

    Raises
    ------
    NTKDistError
        As :class:`~ntk_dist.service.service.Service` does: at once, not when the first request
        comes.
    """
    service = Service(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = DocumentedAPI(
        title="ntk_dist",
        summary="Exact kernel regression with infinitely wide neural networks.",
        version=__version__,
        openapi_tags=TAGS,
        lifespan=lifespan,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    install(app, app.addresses)
    # The last one is the outermost.
    app.add_middleware(Limits, max_body_bytes=config.settings.max_body_bytes)
    app.add_middleware(Envelope, metrics=service.metrics, addresses=app.addresses)
    return app
