"""A fitted model on disk: everything needed to predict, and nothing executable.

::

    MODEL/model.json     what it is: parameters, architecture, preprocessing, report
    MODEL/arrays/        what preprocessing learned, and the classes
    MODEL/rows/          distinct training inputs
    MODEL/dual_coef/     their coefficients

Arrays are checksummed Zarr; nothing is ever pickled. ``model.json`` is written last, so a folder
without it is no model.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntk_dist._version import __version__
from ntk_dist.errors import ArtifactError, DataError
from ntk_dist.store.arrays import read_arrays, write_arrays
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.dataset import ZarrRows, write_rows
from ntk_dist.store.location import refusals

__all__ = [
    "Artifact",
    "is_model",
    "read_artifact",
    "read_record",
    "replace_artifact",
    "write_artifact",
]

FORMAT = 1
RECORD = "model.json"


def is_model(folder: str | Path) -> bool:
    """Whether ``folder`` holds a fitted model."""
    return (Path(folder) / RECORD).is_file()


@dataclass(frozen=True)
class Artifact:
    """What a model folder holds."""

    record: dict[str, Any]
    """JSON types only."""
    arrays: dict[str, np.ndarray]
    rows: AbstractRows
    dual_coef: np.ndarray


def write_artifact(folder: str | Path, artifact: Artifact) -> None:
    """Write a model into an empty ``folder``.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        The folder cannot be written; it holds no model then.
    """
    folder = Path(folder)
    write_arrays(folder / "arrays", artifact.arrays)
    write_rows(folder / "rows", artifact.rows.read(slice(0, len(artifact.rows))))
    write_rows(folder / "dual_coef", artifact.dual_coef)
    record = {"format": FORMAT, "package_version": __version__, **artifact.record}
    with refusals(folder):
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def replace_artifact(folder: str | Path, artifact: Artifact) -> None:
    """Write a model to ``folder``, in place of a model that may be there.

    The new model is complete before the old one goes.

    Raises
    ------
    ArtifactError
        Something that is no model is there.
    """
    folder = Path(folder)
    if folder.exists() and not is_model(folder) and (folder.is_file() or any(folder.iterdir())):
        raise ArtifactError(f"expected a free place or a model to replace at {folder}, got neither")
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    with refusals(folder):
        draft.mkdir(parents=True)
        try:
            write_artifact(draft, artifact)
            if folder.exists():
                old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
                folder.rename(old)
                try:
                    draft.rename(folder)
                except OSError:
                    old.rename(folder)
                    raise
                shutil.rmtree(old)
            else:
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def read_record(folder: str | Path) -> dict[str, Any]:
    """The ``model.json`` of a model folder.

    Raises
    ------
    ArtifactError
        There is none, it is not ours, or a newer version wrote it.
    """
    path = Path(folder) / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"expected a fitted model at {folder}, got no {RECORD} there"
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise ArtifactError(
            f"{path}: expected model format {FORMAT}, got {found}: read it with the version of "
            "ntk_dist that wrote it"
        )
    return record


def read_artifact(folder: str | Path) -> Artifact:
    """The model in ``folder``; its training rows stay on disk.

    Raises
    ------
    ArtifactError
        It is no model, or a part of it is missing or damaged.
    """
    folder = Path(folder)
    record = read_record(folder)
    arrays = read_arrays(folder / "arrays")
    try:
        rows = ZarrRows(folder / "rows")
        dual_coef = ZarrRows(folder / "dual_coef")
        return Artifact(record, arrays, rows, dual_coef.read(slice(0, len(dual_coef))))
    except DataError as error:
        raise ArtifactError(f"the model at {folder} is damaged: {error}") from error
