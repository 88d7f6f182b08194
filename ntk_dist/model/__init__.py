"""Estimators: an architecture and data in, predictions of the infinitely wide network out.

:class:`NTKRegressor` and :class:`NTKClassifier` follow scikit-learn's rules.
:mod:`~ntk_dist.model.pipeline` is the main job without the estimator: merge repeated rows, solve,
predict; :mod:`~ntk_dist.model.gram` plans and computes the Gram matrix for it.
:mod:`~ntk_dist.model.preprocess` holds the steps applied to inputs first,
:mod:`~ntk_dist.model.targets` brings targets into columns,
:mod:`~ntk_dist.model.artifact` keeps a fitted model on disk, and :mod:`~ntk_dist.model.serving`
all that predictions need of it in memory.
"""

from ntk_dist.model.classifier import NTKClassifier
from ntk_dist.model.regressor import NTKRegressor
from ntk_dist.model.report import FitReport, GramReport

__all__ = ["FitReport", "GramReport", "NTKClassifier", "NTKRegressor"]
