"""Fields that job files and estimators share, and what pydantic found of them in one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "UNION_ARMS",
    "PreconditionerName",
    "Rank",
    "Refine",
    "Ridges",
    "Tolerance",
    "describe_problems",
    "require_use_of_rank",
]

LEAST_TOL = 1e-14
"""Float64 sums left true residuals of 1.9e-14 and more on 4 data sets of 1500 rows, whatever the
precision of the blocks."""


def _reachable(tol: float) -> float:
    if tol < LEAST_TOL:
        raise ValueError(f"expected at least {LEAST_TOL:g}, which float64 sums just cannot reach")
    return tol


Tolerance: TypeAlias = Annotated[float, Field(gt=0, lt=1), AfterValidator(_reachable)]
"""A true relative residual that can be asked for."""
PreconditionerName: TypeAlias = Literal["rpcholesky", "nystrom", "jacobi", "none"]
Rank: TypeAlias = PositiveInt | Literal["auto"]
Refine: TypeAlias = bool | NonNegativeInt
"""Whether to refine, or how many rounds at most."""
UNION_ARMS = {"str", "list[any]", "constrained-int", "int", "bool", "literal['auto']"}
"""How pydantic names the alternatives of a union in the place of a problem."""


def require_use_of_rank(rank: Rank, preconditioner: PreconditionerName | None) -> Rank:
    """``rank``, if the preconditioner has one; a name that is None was no name.

    Raises
    ------
    ValueError
        For pydantic to collect.
    """
    if preconditioner in {"jacobi", "none"} and rank != "auto":
        raise ValueError(
            f"expected 'auto', because preconditioner {preconditioner!r} has no rank (choose "
            "'rpcholesky' or 'nystrom' for one)"
        )
    return rank


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


Ridges: TypeAlias = Annotated[float | tuple[float, ...], BeforeValidator(_ridges)]
"""One ridge, or several to choose from: finite numbers of at least 0."""


class HasErrors(Protocol):
    """What pydantic, or a framework that builds on it, raised."""

    def errors(self) -> Sequence[Any]:
        """One mapping for every problem."""
        ...


def describe_problems(error: HasErrors, hidden: Iterable[str] = ()) -> str:
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
            message = message.removeprefix("Value error, ")
            lines.append(f"{place}: {message[0].lower()}{message[1:]}, got {problem['input']!r}")
    return "; ".join(lines)
