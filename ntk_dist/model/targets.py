"""Targets checked and brought into float64 columns."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from ntk_dist.errors import LabelError
from ntk_dist.units import first_few

__all__ = ["encode_classes", "encode_targets", "one_line"]


def encode_targets(y: Any, n_rows: int) -> np.ndarray:
    """Regression targets as float64, shape ``(n_rows,)`` or ``(n_rows, n_targets)`` as given.

    Raises
    ------
    LabelError
        Not numeric, not finite, or not one per row.
    """
    _require(y)
    _require_finite(y, "targets")
    try:
        targets: np.ndarray = check_array(
            y, ensure_2d=False, dtype=np.float64, input_name="y", estimator="NTKRegressor"
        )
    except (TypeError, ValueError) as error:
        raise LabelError(f"targets: {one_line(error)}") from error
    if targets.ndim > 2:
        raise LabelError(f"targets: expected one or two axes, got shape {targets.shape}")
    _match(targets, n_rows)
    return targets


def encode_classes(y: Any, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct classes, and the targets one-hot minus 1 / n_classes.

    Two classes need one column (their targets are each other's negative); its sign is that of
    the second class.

    Returns
    -------
    classes : (n_classes,)
    targets : (n_rows, n_classes) or (n_rows, 1)

    Raises
    ------
    LabelError
        Not one label per row, not labels at all, or a single class.
    """
    _require(y)
    _require_finite(y, "labels")
    try:
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
    except (TypeError, ValueError) as error:
        raise LabelError(f"labels: {one_line(error)}") from error
    if labels.dtype.kind not in "biufUO":
        raise LabelError(f"labels: expected numbers or text, got {labels.dtype}")
    _match(labels, n_rows)
    classes, codes = np.unique(labels, return_inverse=True)
    if classes.dtype == object:
        # Labels from a table: text or numbers after all, and a model keeps nothing else.
        classes = np.array(classes.tolist())
    if len(classes) < 2:
        raise LabelError(f"labels: expected at least two classes, got one class: {classes[0]}")
    targets = np.eye(len(classes))[codes] - 1.0 / len(classes)
    return classes, targets[:, 1:] if len(classes) == 2 else targets


def _require(y: Any) -> None:
    if y is None:
        raise LabelError("this estimator requires y to be passed, but the target y is None")


def _require_finite(y: Any, what: str) -> None:
    try:
        values = np.asarray(y)
    except ValueError:
        return  # ragged: scikit-learn's own check says so
    if not values.ndim or values.dtype.kind not in "fO":
        return
    if values.dtype.kind == "f":
        usable = np.isfinite(values)
    else:  # text of a table is objects, those that are missing among them
        usable = np.array([not _is_missing(value) for value in values.flat]).reshape(values.shape)
    if not usable.all():
        rows = np.flatnonzero(~usable.reshape(len(values), -1).all(axis=1))
        kind = "NaN or infinity" if values.dtype.kind == "f" else "NaN, None or another NA"
        raise LabelError(
            f"{what}: Input y contains {kind} in {len(rows)} rows of {len(values)}: "
            f"{first_few(rows)}"
        )


def _is_missing(value: object) -> bool:
    # Those of pandas by name: it need not be there.
    of_pandas = type(value).__name__ in {"NAType", "NaTType"}
    return value is None or of_pandas or (isinstance(value, float) and math.isnan(value))


def one_line(error: Exception) -> str:
    """An error of scikit-learn's in one line, without the arrays that it prints."""
    text = re.sub(r"array=.*?\]\.", "", str(error), flags=re.DOTALL)
    text = re.sub(r"(Complex data not supported).*", r"\1", text, flags=re.DOTALL)
    return " ".join(text.split())


def _match(targets: np.ndarray, n_rows: int) -> None:
    if len(targets) != n_rows:
        raise LabelError(
            f"expected one target per row: {n_rows} rows, got {len(targets)} targets "
            "(inconsistent numbers of samples)"
        )
