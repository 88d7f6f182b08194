"""Fitted models found and opened, whatever their kind."""

from __future__ import annotations

from ntk_dist.errors import ArtifactError
from ntk_dist.executors import AbstractExecutor
from ntk_dist.model.artifact import is_model, read_artifact
from ntk_dist.model.classifier import NTKClassifier
from ntk_dist.model.portable import unpack
from ntk_dist.model.regressor import NTKRegressor
from ntk_dist.store.location import Location, open_place
from ntk_dist.store.place import AbstractPlace, numbers_in

__all__ = ["find_model", "load_model"]


def find_model(path: Location) -> AbstractPlace:
    """The place of the model that ``path`` means: itself, or the latest version inside it.

    Raises
    ------
    ArtifactError
        There is no model.
    StoreUnreachableError
        Nobody can tell.
    """
    place = open_place(path)
    if is_model(place):
        return place
    versions = (place / str(number) for number in reversed(numbers_in(place.names())))
    latest = next(filter(is_model, versions), None)
    if latest is None:
        raise ArtifactError(
            f"expected a model folder, or a folder of versions, at {path}; got neither"
        )
    return latest


def load_model(
    path: Location, *, executor: str | AbstractExecutor = "local"
) -> NTKClassifier | NTKRegressor:
    """The classifier or regressor in the folder ``path``.

    Raises
    ------
    ArtifactError
        It is no model, or is damaged.
    """
    artifact = read_artifact(path)
    name = artifact.record.get("estimator")
    if name == "NTKClassifier":
        return unpack(NTKClassifier, artifact, executor)
    if name == "NTKRegressor":
        return unpack(NTKRegressor, artifact, executor)
    raise ArtifactError(f"expected a fitted classifier or regressor at {path}, got {name}")
