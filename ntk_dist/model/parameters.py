"""The numbers and choices of a fit, validated once for estimators, jobs and saved models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from ntk_dist.errors import InvalidInputError
from ntk_dist.validation import Ridges, describe_problems

__all__ = ["Parameters"]


class Parameters(BaseModel):
    """How a model is fitted; what each means stands with the estimators, which take the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kernel: Literal["ntk", "nngp"] = "ntk"
    ridge: Ridges = 0.0
    block_rows: PositiveInt | None = None
    dtype: Literal["float32", "float64"] = "float32"
    tol: float = Field(default=1e-6, gt=0, lt=1)
    solver: Literal["cg", "direct"] = "cg"
    preconditioner: Literal["rpcholesky", "none"] = "rpcholesky"
    rank: PositiveInt | Literal["auto"] = "auto"
    max_steps: PositiveInt | None = None
    random_state: NonNegativeInt = 0
    warm_start: bool = False

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
            raise InvalidInputError(describe_problems(error, {"constrained-int", "int"})) from error
