"""Other packages as long-lived processes, each under an interpreter that has it installed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ntk_dist.settings import cpu_count

__all__ = ["WORKERS", "Block", "Peer"]

WORKERS = {
    "neural-tangents": "neural_tangents_worker.py",
    "scikit-ntk": "scikit_ntk_worker.py",
}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
"""Variables that set the threads of BLAS and XLA."""
WORSE = 0.9
"""A larger block is tried unless the last one fell below this share of the best rate."""


@dataclass(frozen=True)
class Block:
    """A square block that a peer computed."""

    side: int
    """Samples on either side."""
    seconds: float
    ntk: np.ndarray

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return self.side**2 / self.seconds


class Peer:
    """One package in one precision; a context manager, as it holds a process and a folder.

    The process inherits the CPUs that this one may run on.
    """

    def __init__(self, name: str, interpreter: str, dtype: str) -> None:
        self.dtype = dtype
        self._folder = tempfile.TemporaryDirectory()
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
        jax = {"JAX_ENABLE_X64": str(int(dtype == "float64")), "JAX_PLATFORMS": "cpu"}
        threads = dict.fromkeys(THREADS, str(cpu_count()))
        self._process = subprocess.Popen(
            [interpreter, str(Path(__file__).parent / "peers" / WORKERS[name])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=inherited | jax | threads,
        )
        self.versions: str = self._told()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        _open(self._process.stdin).close()
        self._process.wait()
        _open(self._process.stdout).close()
        self._folder.cleanup()

    def block(
        self, request: dict[str, Any], x1: np.ndarray, x2: np.ndarray | None, side: int
    ) -> Block:
        """The kernel between the first ``side`` samples of each; ``None`` for those of ``x1``."""
        folder = Path(self._folder.name)
        paths: list[str | None] = []
        for name, x in (("x1", x1), ("x2", x2)):
            path = folder / f"{name}.npy"
            if x is not None:
                np.save(path, x[:side].astype(self.dtype))
            paths.append(None if x is None else str(path))
        out = folder / "out.npy"
        print(
            json.dumps(request | {"x": paths, "out": str(out)}),
            file=_open(self._process.stdin),
            flush=True,
        )
        return Block(side, self._told(), np.load(out))

    def best(
        self,
        request: dict[str, Any],
        x1: np.ndarray,
        x2: np.ndarray | None,
        start: int,
        most_s: float,
    ) -> Block:
        """The block of the side with the best rate.

        Sides grow from ``start`` as 1, 2, 3, 4, 6, 8, 12, ..., while there are samples, a call is
        expected to take at most ``most_s`` seconds, and the rate does not fall behind.
        """
        first, *larger = _sides(start, len(x1) if x2 is None else min(len(x1), len(x2)))
        best = last = self.block(request, x1, x2, first)
        for side in larger:
            if side**2 / last.rate > most_s or last.rate < WORSE * best.rate:
                break
            last = self.block(request, x1, x2, side)
            best = max(best, last, key=lambda block: block.rate)
        return best

    def _told(self) -> Any:
        line = _open(self._process.stdout).readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with status {self._process.wait()}")
        return json.loads(line)


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # both are pipes
    return stream


def _sides(start: int, most: int) -> list[int]:
    """``start`` times 1, 2, 3, 4, 6, 8, ..., and ``most`` in place of all beyond it."""
    return sorted({min(first << k, most) for first in (start, 3 * start) for k in range(16)})
