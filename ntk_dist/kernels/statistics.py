"""What is known of each sample alone: computed once, reused by every block the sample is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Statistics"]


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
