"""Estimators: an architecture and data in, predictions of the infinitely wide network out.

:class:`NTKRegressor` (:mod:`~ntk_dist.model.regressor`) and :class:`NTKClassifier`
(:mod:`~ntk_dist.model.classifier`) follow scikit-learn's rules; what they share is in
:mod:`~ntk_dist.model.base`, and what they may be told in :mod:`~ntk_dist.model.parameters`.
:mod:`~ntk_dist.model.pipeline` is the main job without the estimator: merge repeated rows, solve,
predict; :mod:`~ntk_dist.model.gram` plans and computes the Gram matrix for it, less what
:mod:`~ntk_dist.model.growth` finds of a smaller data set, and :mod:`~ntk_dist.model.solving` goes
from there to dual coefficients, with a ridge of :mod:`~ntk_dist.model.ridge`, from those of an
earlier fit by :mod:`~ntk_dist.model.warm_start`.
:mod:`~ntk_dist.model.preprocess` holds the steps applied to inputs first,
:mod:`~ntk_dist.model.targets` brings targets into columns, and :mod:`~ntk_dist.model.report` says
how good the answer is and what it cost.

:mod:`~ntk_dist.model.portable` makes plain records and arrays of a fitted model,
:mod:`~ntk_dist.model.artifact` keeps them on disk, :mod:`~ntk_dist.model.load` finds and opens
them, and :mod:`~ntk_dist.model.serving` has all that predictions need in memory.
"""

from ntk_dist.model.classifier import NTKClassifier
from ntk_dist.model.regressor import NTKRegressor
from ntk_dist.model.report import FitReport, GramReport

__all__ = ["FitReport", "GramReport", "NTKClassifier", "NTKRegressor"]
