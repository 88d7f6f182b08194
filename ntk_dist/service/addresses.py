"""Which templates of addresses the service has, and which of them a request means."""

from __future__ import annotations

import re
from functools import cached_property

from fastapi import FastAPI
from starlette.convertors import Convertor, register_url_convertor

__all__ = ["ELSEWHERE", "Addresses"]

ELSEWHERE = "elsewhere"
"""Stands for every address that is none, so that nobody makes labels of metrics up."""


class _Segment(Convertor[str]):
    """A step of an address without a colon, behind which the name of an action comes."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("segment", _Segment())


class Addresses:
    """The addresses in the OpenAPI document of an application."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    @cached_property
    def _templates(self) -> list[tuple[re.Pattern[str], str, set[str]]]:
        found = []
        for path, item in self._app.openapi()["paths"].items():
            pattern = re.compile(re.sub(r"\\{\w+\\}", _Segment.regex, re.escape(path)))
            found.append((pattern, path, {method.upper() for method in item}))
        return found

    def template(self, path: str) -> str:
        """``/v1/jobs/{job_id}`` for the address of some job."""
        return next((t for pattern, t, _ in self._templates if pattern.fullmatch(path)), ELSEWHERE)

    def methods(self, path: str) -> set[str]:
        """What can be asked of an address, HEAD where GET can; nothing if it is none."""
        found: set[str] = set()
        for pattern, _, methods in self._templates:
            if pattern.fullmatch(path):
                found |= methods
        return found | {"HEAD"} if "GET" in found else found
