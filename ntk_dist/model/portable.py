"""A fitted estimator as plain records and arrays, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from sklearn.utils.validation import check_is_fitted

from ntk_dist.errors import ArtifactError, NTKDistError
from ntk_dist.executors import AbstractExecutor
from ntk_dist.model.artifact import Artifact
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.preprocess import Preprocessor
from ntk_dist.model.report import FitReport
from ntk_dist.stax import from_json

if TYPE_CHECKING:
    from ntk_dist.model.base import AbstractNTKEstimator

    Estimator = TypeVar("Estimator", bound=AbstractNTKEstimator)

__all__ = ["pack", "unpack"]


def pack(model: AbstractNTKEstimator) -> Artifact:
    """The fitted model as an artifact; executor and workspace stay behind."""
    check_is_fitted(model, "dual_coef_")
    preprocessor = model.preprocessor_
    arrays = {
        f"preprocess.{position}.{name}": values
        for position, state in enumerate(preprocessor.states)
        for name, values in state.items()
    }
    if hasattr(model, "feature_names_in_"):
        arrays["feature_names_in"] = model.feature_names_in_.astype(str)
    record = {
        "estimator": type(model).__name__,
        "architecture": json.loads(model.network_.to_json()),
        "parameters": model.parameters_.model_dump(),
        "preprocess": list(preprocessor.steps),
        "input_shape": list(preprocessor.input_shape),
        "input_range": list(model.input_range_),
        "n_features_in": model.n_features_in_,
        "report": model.report_.to_dict(),
        "target": model.target_record(),
    }
    arrays |= model.target_arrays()
    return Artifact(record, arrays, model.rows_, model.dual_coef_, model.statistics_)


def unpack(
    kind: type[Estimator], artifact: Artifact, executor: str | AbstractExecutor
) -> Estimator:
    """The fitted model in an artifact.

    Raises
    ------
    ArtifactError
        It holds a model of another kind, or a part of it is missing or makes no sense.
    """
    record, arrays = artifact.record, artifact.arrays
    if record.get("estimator") != kind.__name__:
        raise ArtifactError(f"expected a {kind.__name__}, got a {record.get('estimator')}")
    try:
        parameters = Parameters.checked(record["parameters"])
        model = kind(
            from_json(json.dumps(record["architecture"])),
            preprocess=record["preprocess"],
            executor=executor,
            **parameters.model_dump(),
        )
        model.network_, model.parameters_ = model.network, parameters
        steps = tuple(record["preprocess"])
        states = tuple(
            {
                name.removeprefix(f"preprocess.{position}."): values
                for name, values in arrays.items()
                if name.startswith(f"preprocess.{position}.")
            }
            for position in range(len(steps))
        )
        model.preprocessor_ = Preprocessor(steps, states, tuple(record["input_shape"]))
        model.n_features_in_ = record["n_features_in"]
        if "feature_names_in" in arrays:
            model.feature_names_in_ = arrays["feature_names_in"].astype(object)
        low, high = record["input_range"]
        model.input_range_ = (float(low), float(high))
        model.rows_ = artifact.rows
        model.statistics_ = artifact.statistics
        model.dual_coef_ = artifact.dual_coef
        model.report_ = FitReport.from_dict(record["report"])
        model.ridge_ = model.report_.solve.ridge
        model.restore_target(record["target"], arrays)
    except (AttributeError, KeyError, TypeError, ValueError, NTKDistError) as error:
        raise ArtifactError(f"model.json makes no sense: {error!r}") from error
    return model
