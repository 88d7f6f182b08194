"""Compiled functions where nothing can be kept."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.caching import CacheImpl

from ntk_dist.kernels import compiling
from ntk_dist.kernels.compiling import kept_on_disk


def _double(x: np.ndarray) -> None:
    for i in range(len(x)):
        x[i] *= 2


def test_without_a_folder_to_write_to_functions_are_still_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    function = kept_on_disk(_double, "double", (compiling,))
    assert function.stats.cache_path is None
    x = np.arange(3.0)
    function(x)
    assert x.tolist() == [0, 2, 4]
