"""Who runs the tasks: threads of this process, Dask workers or Ray workers.

An executor knows nothing of kernels, blocks or stores. It offers two things (:mod:`.base`):
``map_unordered`` for stateless idempotent tasks, and ``shards`` for objects that live on workers
and are called many times. One driving loop (:mod:`.drive`) owns the bounded window, the retries
(:mod:`.retry` decides them from numbers alone), straggler duplicates, events and cancellation, so
every engine behaves alike; an engine file only says how to submit, wait and cancel. What came of
one try is told by :mod:`.outcome`; in which order the answers of shards are added, by
:mod:`.tree`; how the workers of one machine divide it, by :mod:`.environment`. Engines are
:mod:`.local`, :mod:`.dask` and :mod:`.ray`. Of Dask, :mod:`.dask_cluster` starts workers here,
:mod:`.dask_workers` knows which are there, :mod:`.dask_shards` which of them has what, and
:mod:`.dask_worker` is what they run; :mod:`.ray_shards` is the like of Ray. Engines are imported
when they are named, so neither Dask nor Ray is needed by those who do not use it.

Choose ``local`` on one machine, ``dask`` or ``ray`` for several processes on it, and
``dask://host:port`` or ``ray://host:port`` for a cluster that is already there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ntk_dist.errors import InvalidInputError
from ntk_dist.executors.base import AbstractExecutor, AbstractShards
from ntk_dist.executors.retry import RetryPolicy
from ntk_dist.settings import MOST_CPUS

__all__ = [
    "AbstractExecutor",
    "AbstractShards",
    "RetryPolicy",
    "borrowed",
    "make_executor",
    "parse_executor",
]

_CHOICES = (
    "'local', 'local:THREADS', 'dask', 'dask:WORKERS', 'dask://HOST:PORT', 'tcp://HOST:PORT', "
    "'tls://HOST:PORT', 'ray', 'ray:WORKERS', 'ray:auto', 'ray://HOST:PORT'"
)
_ADDRESS = re.compile(r"(dask|tcp|tls|ray)://.+:\d+")
_COUNTED = re.compile(r"(local|dask|ray)(?::([1-9]\d*))?")


def make_executor(
    spec: str | AbstractExecutor, *, env: Mapping[str, str] | None = None
) -> AbstractExecutor:
    """The executor that ``spec`` names; an executor object is returned as it is.

    Parameters
    ----------
    spec
        ``"local"`` or ``"local:4"`` (threads of this process); ``"dask"``, ``"dask:3"``, ``"ray"``
        or ``"ray:3"`` (that many worker processes on this machine, stopped by ``close``);
        ``"dask://host:port"``, ``"tcp://..."``, ``"tls://..."`` or ``"ray://host:port"`` (a cluster
        that is already running, left running by ``close``); ``"ray:auto"`` (the cluster that this
        process is part of, such as a job that Ray started).
    env
        Environment variables for the worker processes this call starts.

    Raises
    ------
    InvalidInputError
        ``spec`` is none of these.
    MissingDependencyError
        The engine's library is not installed.
    ExecutorUnreachableError
        Nothing answers at the address.
    """
    if isinstance(spec, AbstractExecutor):
        return spec
    engine, place = parse_executor(spec)
    if engine == "local":
        from ntk_dist.executors.local import LocalExecutor

        return LocalExecutor(place["n_workers"])
    if engine == "ray":
        from ntk_dist.executors.ray import RayExecutor

        return RayExecutor(**place, env=env)
    from ntk_dist.executors.dask import DaskExecutor

    return DaskExecutor(**place, env=env)


@contextmanager
def borrowed(
    spec: str | AbstractExecutor, env: Mapping[str, str] | None = None
) -> Iterator[AbstractExecutor]:
    """The executor ``spec`` names, closed afterwards only if it was made here."""
    executor = make_executor(spec, env=env)
    try:
        yield executor
    finally:
        if executor is not spec:
            executor.close()


def parse_executor(spec: str) -> tuple[str, dict[str, Any]]:
    """``local``, ``dask`` or ``ray``, and what that is made with; nothing is started or imported.

    Raises
    ------
    InvalidInputError
        ``spec`` is none that :func:`make_executor` knows, or wants more threads or workers than
        any machine has CPUs.
    """
    text = spec if isinstance(spec, str) else ""
    if text == "ray:auto":
        return "ray", {"address": "auto"}
    if address := _ADDRESS.fullmatch(text):
        engine = "ray" if address[1] == "ray" else "dask"  # tcp and tls are how Dask is spoken to
        return engine, {"address": text}
    if counted := _COUNTED.fullmatch(text):
        # The first digits are enough to see that there are too many.
        n_workers = int(counted[2][:9]) if counted[2] else None
        if n_workers is not None and n_workers > MOST_CPUS:
            what = "threads" if counted[1] == "local" else "workers on this machine"
            raise InvalidInputError(
                f"executor: expected at most {MOST_CPUS} {what}, got {spec!r}: as many as there "
                "are CPUs is enough"
            )
        return counted[1], {"n_workers": n_workers}
    raise InvalidInputError(f"executor: expected one of {_CHOICES}, got {spec!r}")
