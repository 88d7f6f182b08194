"""The OpenAPI document of the service: one table of errors, and bodies that routes read themselves.

Routes read their bodies when the caller is known to be one, not before; so FastAPI, which would
read them first, is told about them here.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ntk_dist.errors import (
    AuthenticationError,
    DefectError,
    ForbiddenError,
    NTKDistError,
    OverloadedError,
    RequestError,
    StoreUnreachableError,
)
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.service.addresses import Addresses
from ntk_dist.service.uploads import NewUpload
from ntk_dist.wire import JSON

__all__ = ["TAGS", "DocumentedAPI", "Problem", "binary_body", "json_body", "problems"]

TAGS = [
    {"name": "jobs", "description": "Fit models: submit, watch, cancel, resume."},
    {"name": "models", "description": "What jobs have published."},
    {"name": "predictions", "description": "What models say of new rows."},
    {
        "name": "open inference protocol",
        "description": "The same models for clients of version 2 of that protocol.",
    },
    {"name": "uploads", "description": "Data files for jobs, in parts that are checked."},
    {"name": "service", "description": "The service itself."},
]
_EVERYWHERE = (
    AuthenticationError,
    ForbiddenError,
    RequestError,
    OverloadedError,
    DefectError,
    StoreUnreachableError,
)
"""What any request may come to."""


class ProblemDetails(BaseModel):
    """What went wrong."""

    code: str
    """Stable, for machines."""
    message: str
    """Expected, got, what to do: for people."""
    request_id: str
    """As in the header X-Request-Id: the service's log says more under it."""
    retry_after_s: float | None = None
    """Where asking again helps."""


class Problem(BaseModel):
    """The shape of every error."""

    error: ProblemDetails


def problems(*kinds: type[NTKDistError]) -> dict[int | str, dict[str, Any]]:
    """The errors of a route beside those that every request may come to, by status."""
    told: dict[int, list[str]] = {}
    every: dict[type[NTKDistError], None] = dict.fromkeys((*_EVERYWHERE, *kinds))
    for kind in every:
        sentence = (kind.__doc__ or "").partition("\n")[0]
        told.setdefault(kind.http_status, []).append(f"`{kind.code}`: {sentence}")
    return {
        status: {"model": Problem, "description": "\n\n".join(lines)}
        for status, lines in sorted(told.items())
    }


def json_body(kind: type[BaseModel], **examples: dict[str, Any]) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads a JSON document of a kind."""
    content: dict[str, Any] = {"schema": {"$ref": _REFERENCE.format(model=kind.__name__)}}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {JSON: content}}}


def binary_body() -> dict[str, Any]:
    """``openapi_extra`` of a route that reads bytes."""
    schema = {"type": "string", "format": "binary"}
    content = {"application/octet-stream": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


_REFERENCE = "#/components/schemas/{model}"


class DocumentedAPI(FastAPI):
    """An application whose document has all that it reads and answers."""

    @cached_property
    def addresses(self) -> Addresses:
        """The templates of all that is in the document."""
        return Addresses(self)

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        document = super().openapi()
        schemas = document["components"]["schemas"]
        if JobSpec.__name__ not in schemas:
            _, read = models_json_schema(
                [(JobSpec, "validation"), (NewUpload, "validation")], ref_template=_REFERENCE
            )
            schemas.update(read["$defs"])
            del schemas[JobSpec.__name__]["properties"]["workspace"]  # the service has its own
            _drop_framework_errors(document)
        return document


def _drop_framework_errors(document: dict[str, Any]) -> None:
    """What FastAPI says of requests that do not validate, which are told in our shape here."""
    for item in document["paths"].values():
        for operation in item.values():
            told = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(told):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
