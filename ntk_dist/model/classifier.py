"""Classification by regression onto one-hot targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin

from ntk_dist.events import EventSink, ignore
from ntk_dist.model.base import AbstractNTKEstimator
from ntk_dist.model.targets import encode_classes

__all__ = ["NTKClassifier"]


class NTKClassifier(ClassifierMixin, AbstractNTKEstimator):
    """Classification by regression; takes the parameters of :class:`AbstractNTKEstimator`.

    Each class is a regression target, one-hot minus 1 / n_classes; the prediction is the class
    with the largest value (Lee et al. 2020, "Finite versus infinite neural networks").

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The distinct labels, sorted; besides those of :class:`AbstractNTKEstimator`.
    """

    def _encode_targets(self, y: Any, n_rows: int) -> np.ndarray:
        self.classes_, targets = encode_classes(y, n_rows)
        return targets

    def target_record(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def target_arrays(self) -> dict[str, np.ndarray]:
        """The distinct labels."""
        return {"classes": self.classes_}

    def restore_target(self, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """The inverse of the two above."""
        self.classes_ = arrays["classes"]

    def decision_function(self, X: Any, on_event: EventSink = ignore) -> np.ndarray:
        """The regression value of every class.

        Parameters
        ----------
        X : array of shape (n_samples, *input_shape)
            The same kind of rows that the model was fitted on.
        on_event : callable
            Receives :mod:`ntk_dist.events`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes, positive values mean the second class.
        """
        values = self._decide(X, on_event)
        return values[:, 0] if len(self.classes_) == 2 else values

    def predict(self, X: Any, on_event: EventSink = ignore) -> np.ndarray:
        """The most likely class of every input, shape ``(n_samples,)``."""
        return self.labels_of(self.decision_function(X, on_event))

    def labels_of(self, values: np.ndarray) -> np.ndarray:
        """The most likely class by each row of what :meth:`decision_function` gives."""
        codes = (values > 0).astype(int) if values.ndim == 1 else values.argmax(axis=1)
        labels: np.ndarray = self.classes_[codes]
        return labels
