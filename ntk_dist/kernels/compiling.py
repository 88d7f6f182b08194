"""Functions compiled once per machine, and found on disk afterwards by all its processes."""

from __future__ import annotations

import hashlib
import inspect
import logging
import socket
import time
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

from numba import njit
from numba.core import event

from ntk_dist.events import CompileEvent, report
from ntk_dist.kernels.lanes import COMPILER_OPTIONS

__all__ = ["kept_on_disk"]

log = logging.getLogger(__name__)


def kept_on_disk(
    function: Callable[..., Any], name: str, sources: Sequence[ModuleType], announce: bool = False
) -> Any:
    """A compiled function for arguments of one list of types.

    numba recompiles when the file of a function changes, but not when the file of one that it
    calls does; so the digest of all of them is part of the name on disk.

    Parameters
    ----------
    function
        A plain one, that takes arrays and numbers and reads no variables of another function.
    name
        What to call it. Types have names of their own: processes that write different functions
        under one name at the same time may take each other's for theirs.
    sources
        The modules that it is made of.
    announce
        Whether compiling takes so long that people should know: what they wait for, from the log,
        and what they waited for, from a :class:`~ntk_dist.events.CompileEvent`.
    """
    assert isinstance(function, FunctionType)
    text = "".join(map(inspect.getsource, sources))
    entry = FunctionType(function.__code__, function.__globals__, function.__name__)
    entry.__qualname__ = f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    try:
        kept = njit(cache=True, **COMPILER_OPTIONS)(entry)
    except RuntimeError:  # numba found no folder to write to: each process compiles for itself
        kept = njit(**COMPILER_OPTIONS)(entry)
    if announce:
        event.register("numba:compile", _Announcement(kept, name.replace("_", " ")))
    return kept


class _Announcement(event.Listener):
    """Says what is being waited for, unless the compiled function was found on disk."""

    def __init__(self, kept: Any, name: str) -> None:
        self._kept = kept
        self._name = name
        self._started = 0.0

    def on_start(self, event: Any) -> None:
        """Called before numba compiles any function."""
        if event.data["dispatcher"] is self._kept:
            self._started = time.perf_counter()
            place = self._kept.stats.cache_path or "this process"
            log.info("compiling the %s: some seconds, and then kept in %s", self._name, place)

    def on_end(self, event: Any) -> None:
        """Called after it."""
        if event.data["dispatcher"] is self._kept:
            seconds = time.perf_counter() - self._started
            report(CompileEvent(engine=self._name, seconds=seconds, host=socket.gethostname()))
