"""How the threads and devices of one machine are divided between its worker processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["count_gpus", "worker_environment"]

# Every pool a worker may start. JAX's own CPU pool listens to NPROC alone; OpenBLAS with two
# threads beside a second busy process factors a 2500 x 2500 matrix 6 to 8 times slower than with
# one.
_THREAD_VARIABLES = (
    "NPROC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NTK_DIST_THREADS",
)
# What JAX may take of a device by itself; the rest is for cuBLAS and cuDNN workspaces.
_DEVICE_FRACTION = 0.9


def worker_environment(
    n_workers: int,
    threads: int,
    gpus: int = 0,
    index: int = 0,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Environment variables of one worker process, so that all together use the machine once.

    Parameters
    ----------
    n_workers
        Worker processes on this machine.
    threads
        Threads all of them may use together.
    gpus
        Devices of this machine; dealt round robin, and shared where workers outnumber them.
    index
        Which worker, from 0.
    extra
        More variables (a compilation cache, credentials); they win.
    """
    share = str(max(1, threads // n_workers))
    env = dict.fromkeys(_THREAD_VARIABLES, share)
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if gpus:
        device = index % gpus
        sharing = len(range(device, n_workers, gpus))
        env["CUDA_VISIBLE_DEVICES"] = str(device)
        env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{_DEVICE_FRACTION / sharing:.3f}"
    return {**env, **(extra or {})}


def count_gpus() -> int:
    """NVIDIA devices this process may use.

    Counted without JAX, which would take memory of each device in a process that only drives
    others.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
