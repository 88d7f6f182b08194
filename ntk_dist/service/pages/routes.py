"""Routes of the pages and of the files that they load."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from ntk_dist._version import __version__
from ntk_dist.errors import NotFoundError
from ntk_dist.standing import PHASES

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

HERE = Path(__file__).parent
PAGE_HEADERS = {
    # Nothing from elsewhere, no script within a page, no text that becomes elements; and no form
    # is ever sent by the browser itself, which would put what was typed into an address.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
FOREVER = "public, max-age=31536000, immutable"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def _read_assets() -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((HERE / "assets").iterdir())}


ASSETS = _read_assets()
"""Some 50 kB in all."""
DIGEST = hashlib.sha256(b"".join(ASSETS.values())).hexdigest()[:16]
"""In the addresses of assets: another version has other addresses, so these may be kept forever."""

_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _page(request: Request, template: str) -> Response:
    root = request.scope.get("root_path", "")
    text = _templates.get_template(template).render(
        root=root, assets=f"{root}/assets/{DIGEST}", version=__version__, phases=PHASES
    )
    return Response(text, headers=PAGE_HEADERS, media_type="text/html")


@router.get("/")
def show_jobs(request: Request) -> Response:
    """All jobs."""
    return _page(request, "jobs.html")


@router.get("/jobs/{job_id:segment}")
def show_job(request: Request) -> Response:
    """One job; the script knows which from the address."""
    return _page(request, "job.html")


@router.get("/models")
def show_models(request: Request) -> Response:
    """All models."""
    return _page(request, "models.html")


@router.get("/models/{name:segment}")
@router.get("/models/{name:segment}/versions/{version:segment}")
def show_model(request: Request) -> Response:
    """One model, or one version of it."""
    return _page(request, "model.html")


@router.get("/assets/{digest}/{name}")
def get_asset(digest: str, name: str) -> Response:
    """A script, the style sheet, or the icon."""
    found = ASSETS.get(name)
    if found is None:
        raise NotFoundError(f"there is no asset {name!r} of the pages")
    # A page of another replica, of another version, may ask: it gets ours, and must ask again.
    caching = FOREVER if digest == DIGEST else "no-cache"
    headers = {"Cache-Control": caching}
    return Response(found, headers=headers, media_type=KINDS[Path(name).suffix])
