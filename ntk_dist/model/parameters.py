"""The numbers and choices of a fit, validated once for estimators, jobs and saved models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from ntk_dist.errors import InvalidInputError
from ntk_dist.options import (
    GramOptions,
    KernelName,
    Method,
    PreconditionerName,
    Rank,
    Refine,
    Seed,
    SolverOptions,
)
from ntk_dist.validation import UNION_ARMS, describe_problems

__all__ = ["Parameters"]


class Parameters(SolverOptions, GramOptions):
    """How a model is fitted; what each means stands with the estimators, which take the same."""

    kernel: KernelName = "ntk"
    solver: Method = "cg"
    preconditioner: PreconditionerName = "rpcholesky"
    rank: Rank = "auto"
    refine: Refine = False
    random_state: Seed = 0

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
