"""What is known of each sample alone: computed once, reused by every block the sample is in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Side", "Statistics", "StatisticsLayout"]


@dataclass(frozen=True, eq=False)
class Statistics:
    """The kernels of each sample with itself, and its variances on the way through the layers."""

    kernels: dict[str, np.ndarray]
    """``ntk`` and ``nngp`` of each sample with itself: (n_rows,) each."""
    variances: tuple[np.ndarray, ...]
    """What enters each activation and LayerNorm, per position: (n_rows, ...) each."""
    keys: np.ndarray
    """Tells which samples may be equal or opposite, see ``coincidence.row_keys``: (n_rows,)."""

    def __len__(self) -> int:
        return len(next(iter(self.kernels.values())))

    def __getitem__(self, rows: slice | np.ndarray) -> Statistics:
        """The statistics of some rows: a slice (no copy), or an array of indices."""
        return Statistics(
            {name: values[rows] for name, values in self.kernels.items()},
            tuple(values[rows] for values in self.variances),
            self.keys[rows],
        )

    @property
    def nbytes(self) -> int:
        """Memory it takes, in bytes."""
        return sum(a.nbytes for a in (*self.kernels.values(), *self.variances, self.keys))

    @classmethod
    def concatenate(cls, parts: Sequence[Statistics]) -> Statistics:
        """The statistics of several runs of rows, one after another."""
        first = parts[0]
        return cls(
            {name: np.concatenate([p.kernels[name] for p in parts]) for name in first.kernels},
            tuple(
                np.concatenate([p.variances[i] for p in parts]) for i in range(len(first.variances))
            ),
            np.concatenate([p.keys for p in parts]),
        )


@dataclass(frozen=True, eq=False)
class Side:
    """The samples of the rows, or of the columns, of a block, as an evaluation needs them."""

    samples: np.ndarray
    """(n, *shape), float32 or float64."""
    variances: Sequence[np.ndarray]
    """What ``Statistics.variances`` holds of them."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice | np.ndarray) -> Side:
        """Some of them: a slice (no copy), or an array of indices."""
        return Side(self.samples[rows], [values[rows] for values in self.variances])


@dataclass(frozen=True)
class StatisticsLayout:
    """How the statistics of a sample stand in one row of float64 numbers, to be stored.

    First the kernels, then the key as its upper and its lower 32 bits, which are numbers that
    survive any tool that copies numbers, then the variances one after another.
    """

    kernels: tuple[str, ...]
    dtype: np.dtype[Any]
    """Of the kernels; float64 holds float32 exactly."""
    variances: tuple[tuple[int, ...], ...]
    """Shape per sample of what enters each activation and LayerNorm."""

    @property
    def width(self) -> int:
        """Numbers per sample."""
        return len(self.kernels) + 2 + sum(map(math.prod, self.variances))

    @property
    def row_bytes(self) -> int:
        """Bytes per sample, as stored."""
        return self.width * np.dtype(np.float64).itemsize

    def pack(self, statistics: Statistics) -> np.ndarray:
        """Statistics as rows: (n_rows, width), float64."""
        n = len(statistics)
        keys = statistics.keys
        columns = [
            *(statistics.kernels[name].reshape(n, 1) for name in self.kernels),
            (keys >> np.uint64(32)).reshape(n, 1),
            (keys & np.uint64(2**32 - 1)).reshape(n, 1),
            *(each.reshape(n, -1) for each in statistics.variances),
        ]
        return np.concatenate([column.astype(np.float64) for column in columns], axis=1)

    def unpack(self, rows: np.ndarray) -> Statistics:
        """The inverse of :meth:`pack`; variances are views."""
        n, start = len(rows), len(self.kernels) + 2
        upper, lower = (rows[:, start - k].astype(np.uint64) for k in (2, 1))
        variances = []
        for shape in self.variances:
            stop = start + math.prod(shape)
            variances.append(rows[:, start:stop].reshape(n, *shape))
            start = stop
        return Statistics(
            {name: rows[:, i].astype(self.dtype) for i, name in enumerate(self.kernels)},
            tuple(variances),
            (upper << np.uint64(32)) | lower,
        )
