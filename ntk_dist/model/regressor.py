"""Regression with the kernel of an infinitely wide network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin

from ntk_dist.events import EventSink, ignore
from ntk_dist.model.base import AbstractNTKEstimator
from ntk_dist.model.targets import encode_targets

__all__ = ["NTKRegressor"]


class NTKRegressor(RegressorMixin, AbstractNTKEstimator):
    """Ridgeless (or ridge) regression; takes the parameters of :class:`AbstractNTKEstimator`.

    Examples
    --------
    >>> from ntk_dist import NTKRegressor, stax
    >>> net = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
    >>> NTKRegressor(net).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0]).predict([[1.0]]).round(3)
    array([1.])
    """

    def _encode_targets(self, y: Any, n_rows: int) -> np.ndarray:
        targets = encode_targets(y, n_rows)
        self.one_target_ = targets.ndim == 1
        return targets.reshape(n_rows, -1)

    def target_record(self) -> dict[str, Any]:
        """Whether the targets of ``fit`` had one axis."""
        return {"one_target": self.one_target_}

    def target_arrays(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def restore_target(self, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """The inverse of the two above."""
        self.one_target_ = bool(record["one_target"])

    def predict(self, X: Any, on_event: EventSink = ignore) -> np.ndarray:
        """Predictions for new inputs.

        Parameters
        ----------
        X : array of shape (n_samples, *input_shape)
            The same kind of rows that the model was fitted on.
        on_event : callable
            Receives :mod:`ntk_dist.events`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            One axis if the targets of ``fit`` had one.
        """
        values = self._decide(X, on_event)
        return values[:, 0] if self.one_target_ else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
