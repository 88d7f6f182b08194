"""What a pydantic validation found, in one line of ours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError

__all__ = ["Ridges", "describe_problems"]


def _ridges(given: Any) -> float | tuple[float, ...]:
    plain = given.tolist() if isinstance(given, np.ndarray | np.generic) else given
    several = isinstance(plain, list | tuple)
    values = [v.item() if isinstance(v, np.generic) else v for v in (plain if several else [plain])]
    if not values or not all(map(_is_ridge, values)):
        raise PydanticCustomError(
            "ridge",
            "Input should be a finite number of at least 0, or a list of them to choose from",
        )
    return tuple(map(float, values)) if several else float(values[0])


def _is_ridge(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


Ridges = Annotated[float | tuple[float, ...], BeforeValidator(_ridges)]
"""One ridge, or several to choose from: finite numbers of at least 0."""


def describe_problems(error: ValidationError, hidden: Iterable[str] = ()) -> str:
    """Every problem with its place, what was expected and what came instead.

    Parameters
    ----------
    error
        What pydantic raised.
    hidden
        Parts of places that say nothing to a person, such as the arms of a union.
    """
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"] if str(part) not in hidden)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{place}: unknown key")
        elif problem["type"] == "missing":
            lines.append(f"{place}: missing")
        else:
            message = problem["msg"].replace("Input should be", "expected", 1)
            lines.append(f"{place}: {message[0].lower()}{message[1:]}, got {problem['input']!r}")
    return "; ".join(lines)
