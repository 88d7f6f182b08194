"""What a fit can be told: the kind, the default and the rule of each option, said once.

Estimators and job files are made of these. What both call by the same name is a field of a record
here; the rest has its kind here, with its rule: job files say ``method`` for ``solver``, ``type``
for ``preconditioner`` and ``seed`` for ``random_state``.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "Count",
    "GramOptions",
    "KernelName",
    "Method",
    "PreconditionerName",
    "Rank",
    "Record",
    "Refine",
    "Seed",
    "SolverOptions",
]

LEAST_TOL = 1e-14
"""Float64 sums left true residuals of 1.9e-14 and more on 4 data sets of 1500 rows, whatever the
precision of the blocks."""

KernelName: TypeAlias = Literal["ntk", "nngp"]
Method: TypeAlias = Literal["cg", "direct"]
PreconditionerName: TypeAlias = Literal["rpcholesky", "nystrom", "jacobi", "none"]


def _reachable(tol: float) -> float:
    if tol < LEAST_TOL:
        raise ValueError(
            f"expected at least {LEAST_TOL:g}, better 1e-13, for float64 sums leave 2e-14"
        )
    return tol


def _whole(given: Any) -> Any:
    is_whole = isinstance(given, float) and given.is_integer()
    return int(given) if is_whole else given


Count: TypeAlias = Annotated[PositiveInt, BeforeValidator(_whole)]
"""So many, at least one; ``1e4`` is a whole number, too."""

Seed: TypeAlias = Annotated[NonNegativeInt, BeforeValidator(_whole)]
"""Of random choices."""

Tolerance: TypeAlias = Annotated[float, Field(gt=0, lt=1), AfterValidator(_reachable)]
"""A true relative residual that can be asked for."""


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
    # Also of an integer that no float64 can hold.
    return number and 0 <= value <= sys.float_info.max


Ridges: TypeAlias = Annotated[float | tuple[float, ...], BeforeValidator(_ridges)]
"""One ridge, or several to choose from: finite numbers of at least 0."""


def _has_a_use(rank: int | Literal["auto"], info: ValidationInfo) -> int | Literal["auto"]:
    preconditioner = info.data.get("preconditioner", info.data.get("type"))
    if preconditioner in {"jacobi", "none"} and rank != "auto":
        raise ValueError(
            f"expected 'auto', because preconditioner {preconditioner!r} has no rank (choose "
            "'rpcholesky' or 'nystrom' for one)"
        )
    return rank


Rank: TypeAlias = Annotated[Count | Literal["auto"], AfterValidator(_has_a_use)]
"""Of a preconditioner that has one; declared after the preconditioner's name."""


def _has_an_effect(refine: bool | int, info: ValidationInfo) -> bool | int:
    if refine and info.data.get("solver", info.data.get("method")) == "direct":
        raise ValueError("expected False, because solver 'direct' is not refined (use 'cg')")
    # Job files have the dtype in another section: there it is the estimator that refuses.
    if refine and info.data.get("dtype") == "float64":
        raise ValueError("expected False, because float64 blocks leave nothing to refine")
    return refine


Refine: TypeAlias = Annotated[
    bool | Annotated[NonNegativeInt, BeforeValidator(_whole)], AfterValidator(_has_an_effect)
]
"""Whether to refine, or how many rounds at most; declared after the method and the dtype."""


class Record(BaseModel):
    """Fields that were checked: no other key is taken, and nothing changes afterwards.

    Text is no number and ``True`` is no 1: ``block_rows: yes`` would be blocks of one row.
    """

    # Docstrings of fields become the descriptions in the published schema.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class GramOptions(Record):
    """How the Gram matrix is cut and kept."""

    block_rows: Count | None = None
    """Side of a block; None chooses from the data and the architecture."""
    dtype: Literal["float32", "float64"] = "float32"


class SolverOptions(Record):
    """How the linear system is solved."""

    ridge: Ridges = 0.0
    """Several are compared on held-out training rows, and the best is taken."""
    tol: Tolerance = 1e-6
    max_steps: Count | None = None
    warm_start: bool = False
    """Start from the coefficients of an earlier fit; a job, from the latest model of its name."""
