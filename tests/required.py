"""What a test needs and a machine may lack: skipped then, or failed where it is asked for."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any, NoReturn

import pytest

LIBRARIES = {
    "dask": "distributed",
    "ray": "ray",
    "serve": "grpc_reflection",  # comes with ray[serve] alone
    "s3": "obstore",
    "postgresql": "psycopg",
    "helm": "kubernetes_validate",
}
"""The names that ``NTK_DIST_REQUIRE`` may give, and the library that a test of each imports."""
NAMES = {*LIBRARIES, "chromium", "promtool"}


def asked_for() -> set[str]:
    """What ``NTK_DIST_REQUIRE`` names."""
    names = {name.strip() for name in os.environ.get("NTK_DIST_REQUIRE", "").split(",")} - {""}
    if unknown := names - NAMES:  # a slip there would let a test be skipped
        got = ", ".join(sorted(unknown))
        raise pytest.UsageError(
            f"NTK_DIST_REQUIRE: expected some of {', '.join(sorted(NAMES))}, got {got}"
        )
    return names


def leave_out(name: str, why: str) -> NoReturn:
    """Skip whatever needs ``name``, or fail where it is required."""
    if name not in NAMES:
        raise ValueError(f"expected one of {', '.join(sorted(NAMES))}, got {name}")
    if name in asked_for():
        pytest.fail(f"{why}, and NTK_DIST_REQUIRE names {name}", pytrace=False)
    pytest.skip(why, allow_module_level=True)


def require(name: str, module: str | None = None) -> Any:
    """That module, by default the one that ``name`` is about."""
    module = module or LIBRARIES[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of other people's imports
            return importlib.import_module(module)
    except ImportError as error:
        leave_out(name, f"{module} cannot be imported ({error})")
