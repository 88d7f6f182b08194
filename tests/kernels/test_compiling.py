"""Compiled functions where nothing can be kept, and who hears of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
from numba.core.caching import CacheImpl

from ntk_dist.events import CompileEvent, collected
from ntk_dist.kernels import compiling
from ntk_dist.kernels.compiling import kept_on_disk
from ntk_dist.kernels.threads import in_threads


def _double(x: np.ndarray) -> None:
    for i in range(len(x)):
        x[i] *= 2


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])


def test_without_a_folder_to_write_to_functions_are_still_compiled() -> None:
    function = kept_on_disk(_double, "double", (compiling,))
    assert function.stats.cache_path is None
    x = np.arange(3.0)
    function(x)
    assert x.tolist() == [0, 2, 4]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_task_reports_what_it_compiled_once_whichever_thread_did(threads: int) -> None:
    function = kept_on_disk(_double, "doubling_engine", (compiling,), announce=True)

    def work(pieces: Iterator[np.ndarray]) -> None:
        for piece in pieces:
            function(piece)

    with collected() as events:
        in_threads(threads, work, iter(np.ones((9, 4))))
    (event,) = events
    assert isinstance(event, CompileEvent)
    assert (event.engine, event.host) == ("doubling engine", socket.gethostname())
    assert 0 < event.seconds < 60
