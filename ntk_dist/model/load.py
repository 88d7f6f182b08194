"""Fitted models found and opened, whatever their kind."""

from __future__ import annotations

from pathlib import Path

from ntk_dist.errors import ArtifactError
from ntk_dist.executors import AbstractExecutor
from ntk_dist.model.artifact import is_model, read_artifact
from ntk_dist.model.classifier import NTKClassifier
from ntk_dist.model.portable import unpack
from ntk_dist.model.regressor import NTKRegressor

__all__ = ["find_model", "load_model"]


def find_model(path: str | Path) -> Path:
    """The model folder that ``path`` means: itself, or the latest version inside it.

    Raises
    ------
    ArtifactError
        There is no model.
    """
    path = Path(path)
    if is_model(path):
        return path
    versions = [p for p in path.iterdir() if p.name.isdecimal()] if path.is_dir() else []
    latest = max(versions, key=lambda p: int(p.name), default=path)
    if not is_model(latest):
        raise ArtifactError(
            f"expected a model folder, or a folder of versions, at {path}; got neither"
        )
    return latest


def load_model(
    path: str | Path, *, executor: str | AbstractExecutor = "local"
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
