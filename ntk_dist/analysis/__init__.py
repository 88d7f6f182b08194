"""Results that people would rather look at than read.

:mod:`~ntk_dist.analysis.plots` is the only place that imports matplotlib.
"""

__all__: list[str] = []
