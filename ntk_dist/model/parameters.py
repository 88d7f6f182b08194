"""The numbers and choices of a fit, validated once for estimators, jobs and saved models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ntk_dist.errors import InvalidInputError
from ntk_dist.validation import (
    UNION_ARMS,
    PreconditionerName,
    Rank,
    Refine,
    Ridges,
    Tolerance,
    describe_problems,
    require_use_of_rank,
)

__all__ = ["Parameters"]


class Parameters(BaseModel):
    """How a model is fitted; what each means stands with the estimators, which take the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kernel: Literal["ntk", "nngp"] = "ntk"
    ridge: Ridges = 0.0
    block_rows: PositiveInt | None = None
    dtype: Literal["float32", "float64"] = "float32"
    tol: Tolerance = 1e-6
    solver: Literal["cg", "direct"] = "cg"
    preconditioner: PreconditionerName = "rpcholesky"
    rank: Rank = "auto"
    refine: Refine = False
    max_steps: PositiveInt | None = None
    random_state: NonNegativeInt = 0
    warm_start: bool = False

    @field_validator("rank")
    @classmethod
    def _rank_has_a_use(cls, rank: Rank, info: ValidationInfo) -> Rank:
        return require_use_of_rank(rank, info.data.get("preconditioner"))

    @field_validator("refine")
    @classmethod
    def _refine_has_a_use(cls, refine: Refine, info: ValidationInfo) -> Refine:
        if refine and info.data.get("solver") == "direct":
            raise ValueError("expected False, because solver 'direct' is not refined (use 'cg')")
        if refine and info.data.get("dtype") == "float64":
            raise ValueError("expected False, because float64 blocks leave nothing to refine")
        return refine

    @property
    def exact_dtype(self) -> Literal["float32", "float64"]:
        """Precision of inputs and of predictions: refined coefficients are those of float64."""
        return "float64" if self.refine else self.dtype

    def require_rows(self, n_rows: int) -> None:
        """Refuse what is larger than the data.

        Raises
        ------
        InvalidInputError
            ``block_rows`` or ``rank`` is more than there are training rows.
        """
        for name in ("block_rows", "rank"):
            value = getattr(self, name)
            if isinstance(value, int) and value > n_rows:
                raise InvalidInputError(f"{name}: expected at most {n_rows} (rows), got {value}")

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> Parameters:
        """The parameters among ``given``; NumPy scalars count as the numbers they are.

        Raises
        ------
        InvalidInputError
            Names every parameter that is out of range or of the wrong kind.
        """
        plain = {
            name: given[name].item() if isinstance(given[name], np.generic) else given[name]
            for name in cls.model_fields
            if name in given
        }
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise InvalidInputError(describe_problems(error, UNION_ARMS)) from error
