"""Exact kernel regression with infinitely wide neural networks, from a laptop to a cluster.

::

    from ntk_dist import NTKClassifier, stax

    net = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
    model = NTKClassifier(net).fit(X, y)

Public names are loaded when first used, so that importing the package costs nothing.

The folders, each of which imports only from those before it: ``kernels`` (a number for a pair of
inputs), ``gram`` (how the matrix is cut), ``store`` and ``executors`` (where blocks live, who
computes them), ``solver``, ``model``, ``analysis``, ``database``, ``jobs``, ``client``, ``service``
and ``cli``. Beside them ``stax`` (architectures), ``tasks`` and ``shards`` (what is shipped to
workers), ``events`` and ``standing`` (what happens, and where a job stands by it), ``wire`` (what
service and client say to each other), ``job_file`` and ``options`` (what a fit can be told),
``settings``, ``validation``, ``errors``, ``units`` (numbers for people) and ``screen`` (where
people watch).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ntk_dist._version import __version__

if TYPE_CHECKING:
    from ntk_dist import stax
    from ntk_dist.client import AsyncClient, Client
    from ntk_dist.model import NTKClassifier, NTKRegressor

__all__ = ["AsyncClient", "Client", "NTKClassifier", "NTKRegressor", "__version__", "stax"]

_HOMES = {
    "AsyncClient": "ntk_dist.client",
    "Client": "ntk_dist.client",
    "NTKClassifier": "ntk_dist.model",
    "NTKRegressor": "ntk_dist.model",
}


def __getattr__(name: str) -> Any:
    if name == "stax":
        return importlib.import_module("ntk_dist.stax")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ntk_dist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
