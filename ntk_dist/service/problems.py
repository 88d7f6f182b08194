"""Errors as callers see them: one JSON shape, an id to find them in the log by, no internals."""

from __future__ import annotations

import logging
import math

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ntk_dist.errors import (
    AuthenticationError,
    DefectError,
    ExecutorError,
    NotFoundError,
    NTKDistError,
    OverloadedError,
    RequestError,
    StoreError,
)
from ntk_dist.service.addresses import Addresses
from ntk_dist.service.documents import answer
from ntk_dist.validation import describe_problems
from ntk_dist.wire import problem_of

__all__ = ["DEFECT", "install", "problem", "request_id_of"]

log = logging.getLogger(__name__)

DEFECT = DefectError(
    "something went wrong in the service; its log says what, under the id of this request"
)
LONGEST = 2000
"""Characters of a message: what it quotes came from the caller, who may send megabytes."""


def request_id_of(scope: Scope) -> str:
    """The id that this request was given."""
    return str(scope.get("state", {}).get("request_id", ""))


def problem(scope: Scope, error: NTKDistError, status: int | None = None) -> Response:
    """The answer to a request that came to nothing.

    Parameters
    ----------
    scope
        Of the request.
    error
        What was raised.
    status
        In place of that of its class.
    """
    status = status or error.http_status
    if status >= 500 and error is not DEFECT:  # its traceback is in the log already
        log.error("request %s: %s", request_id_of(scope), error, exc_info=error)
    told = problem_of(_public(error), request_id_of(scope))
    if len(message := told["error"]["message"]) > LONGEST:
        told["error"]["message"] = f"{message[:LONGEST]}..."
    path = scope["path"]
    if path == "/v2" or path.startswith("/v2/"):  # that protocol has a shape of its own
        told = {"error": told["error"]["message"]}
    headers = {}
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return answer(told, status, headers)


def _public(error: NTKDistError) -> NTKDistError:
    """The same without the places and addresses of the operator."""
    if not isinstance(error, StoreError | ExecutorError):
        return error
    sentence = (error.__doc__ or "").partition("\n")[0]
    return type(error)(f"{sentence} The service's log says more, under the id of this request.")


def install(app: FastAPI, addresses: Addresses) -> None:
    """Have everything that goes wrong in ``app`` told in our shape."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, NTKDistError)
        return problem(request.scope, error)

    async def not_valid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(request.scope, RequestError(describe_problems(error)))

    async def not_served(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, method = request.scope["path"], request.method
        if error.status_code == 404:
            told = NotFoundError(f"there is nothing at {path!r}; /openapi.json lists what there is")
            return problem(request.scope, told)
        if error.status_code != 405:
            return problem(request.scope, RequestError(str(error.detail)), error.status_code)
        allowed = addresses.methods(path) or set((error.headers or {}).get("Allow", "").split(", "))
        allow = ", ".join(sorted({*allowed, "OPTIONS"} - {""}))
        if method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allow})
        response = problem(
            request.scope, RequestError(f"{path!r}: expected one of {allow}, got {method!r}"), 405
        )
        response.headers["Allow"] = allow
        return response

    app.add_exception_handler(NTKDistError, ours)
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(HTTPException, not_served)
