"""JSON documents in and out of the service."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ntk_dist.errors import (
    InvalidInputError,
    RequestError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)
from ntk_dist.job_file import no_key_twice
from ntk_dist.units import format_bytes
from ntk_dist.validation import UNION_ARMS, describe_problems
from ntk_dist.wire import JSON, to_json

__all__ = ["MAX_DOCUMENT_BYTES", "Document", "answer", "read_document"]

MAX_DOCUMENT_BYTES = 2**20
"""A job file with a network of 1000 layers is 34 kB; data have addresses of their own."""
INLINE_BYTES = 2**14
"""What is read on the event loop, in some milliseconds; the longest take most of a second."""

Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True)
class Document(Generic[Kind]):
    """What a caller sent, validated."""

    value: Kind
    canonical: bytes
    """The same for every spelling of the same document."""


def answer(record: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A record as the body of an answer."""
    # Escaped, because an error may quote half a surrogate pair, which is no UTF-8.
    content = json.dumps(to_json(record), separators=(",", ":"), allow_nan=False)
    return Response(content, status, headers, media_type=JSON)


async def read_document(
    request: Request, kind: type[Kind], refusal: type[InvalidInputError] = RequestError
) -> Document[Kind]:
    """The JSON document in the body of a request.

    Parameters
    ----------
    request
        Its body is read whole, and is bounded by :mod:`.limits` too.
    kind
        What it has to be.
    refusal
        The error if it is JSON but not that.

    Raises
    ------
    UnsupportedMediaTypeError
        It does not say that it is JSON.
    RequestTooLargeError
        It is longer than 1 MiB; no more of it is read.
    RequestError
        It is not JSON, has a key twice, or text or numbers in it that nothing can be kept as.
    """
    given = request.headers.get("content-type", "nothing")
    if given.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaTypeError(f"Content-Type: expected {JSON}, got {given!r}")
    body = await _bounded_body(request)
    if len(body) <= INLINE_BYTES:
        return _document(body, kind, refusal)
    return await run_in_threadpool(_document, body, kind, refusal)


async def _bounded_body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        _require_fits(int(announced[:20]))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _require_fits(len(body))
    return bytes(body)


def _require_fits(n_bytes: int) -> None:
    if n_bytes > MAX_DOCUMENT_BYTES:
        raise RequestTooLargeError(
            f"expected a JSON document of at most {format_bytes(MAX_DOCUMENT_BYTES)}, got "
            f"{format_bytes(n_bytes)} or more: send files as uploads"
        )


def _document(body: bytes, kind: type[Kind], refusal: type[InvalidInputError]) -> Document[Kind]:
    try:
        found = json.loads(
            body,
            parse_float=_finite,
            parse_constant=_no_number,
            object_pairs_hook=no_key_twice,
        )
        canonical = json.dumps(found, sort_keys=True, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError("expected text in Unicode, got half a surrogate pair") from error
    except ValueError as error:
        raise RequestError(f"expected a JSON document, got: {error}") from error
    except RecursionError as error:
        raise RequestError("expected a JSON document, got brackets nested too deep") from error
    if rb"\u0000" in canonical:
        raise RequestError("expected text without the character NUL, got some")
    if not isinstance(found, dict):
        raise refusal(f"expected a JSON object, got {type(found).__name__}")
    try:
        return Document(kind.model_validate(found), canonical)
    except ValidationError as error:
        raise refusal(describe_problems(error, UNION_ARMS)) from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]}, which is too large a number")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text}, which is no JSON")
