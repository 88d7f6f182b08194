"""Errors as the body of an answer, and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ntk_dist import errors
from ntk_dist.errors import DefectError, NTKDistError, OverloadedError

__all__ = ["error_of", "problem_of"]

_CLASSES: dict[str, type[NTKDistError]] = {
    cls.code: cls for cls in (getattr(errors, name) for name in errors.__all__)
}


def problem_of(error: NTKDistError, request_id: str) -> dict[str, Any]:
    """What a caller is told of an error."""
    told: dict[str, Any] = {"code": error.code, "message": str(error), "request_id": request_id}
    if isinstance(error, OverloadedError):
        told["retry_after_s"] = error.retry_after_s
    return {"error": told}


def error_of(status: int, body: object) -> NTKDistError:
    """The error that the service raised; a :class:`DefectError` if the body is none of ours."""
    told = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(told, Mapping) or not isinstance(told.get("message"), str):
        text = told if isinstance(told, str) else repr(body)[:200]  # /v2 answers with a sentence
        return DefectError(f"the service answered {status}: {text}")
    error = _CLASSES.get(str(told.get("code")), DefectError)(told["message"])
    if request_id := told.get("request_id"):
        error.add_note(f"request {request_id}")
    after_s = told.get("retry_after_s")
    # NaN, too, is not at least 0; an integer may be larger than any float.
    if (
        isinstance(error, OverloadedError)
        and isinstance(after_s, int | float)
        and 0 <= after_s <= sys.float_info.max
    ):
        error.retry_after_s = float(after_s)
    return error
