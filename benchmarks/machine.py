"""The machine that a benchmark ran on, and the share of it that everybody gets."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits

from ntk_dist import __version__
from ntk_dist.settings import cpu_count

__all__ = ["describe_machine", "keep_to_threads"]


def keep_to_threads(threads: int) -> None:
    """Give this process and its children as many CPUs, and BLAS as many threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    threadpool_limits(threads, "blas")


def describe_machine(threads: int) -> str:
    """Processor, threads, BLAS and versions, in three lines."""
    blas = [
        f"{pool['internal_api']} {pool['version']} ({pool['num_threads']} threads)"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "jax", "numba"))
    return (
        f"{_processor()}, {cpu_count()} CPUs, {threads} threads, load {os.getloadavg()[0]:.1f}\n"
        f"BLAS {', '.join(sorted(set(blas)))}\n"
        f"ntk_dist {__version__}, Python {sys.version.split()[0]}, {libraries}"
    )


def _processor() -> str:
    """What the system calls it."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
