"""An earlier fit as the place where the next one starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntk_dist.store.base import AbstractRows
from ntk_dist.store.dataset import row_pieces
from ntk_dist.store.repeats import hash_rows

__all__ = ["EarlierFit"]


@dataclass(frozen=True)
class EarlierFit:
    """Coefficients of an earlier fit, by row."""

    rows: AbstractRows
    """Its distinct training inputs."""
    dual_coef: np.ndarray
    """Shape ``(n_earlier, n_targets)``."""

    def coefficients(self, x: np.ndarray, n_targets: int) -> tuple[np.ndarray, int]:
        """Coefficients to start from, and how many rows they were known for.

        Rows that were not there start at zero; so do all if there were other inputs, or another
        number of targets. How often a row occurs does not matter: these are the coefficients of
        distinct rows, which without a ridge do not depend on it.

        Parameters
        ----------
        x
            Distinct rows, as the kernel will see them.
        n_targets
            Columns wanted.

        Returns
        -------
        start : (len(x), n_targets)
        n_known : int
        """
        start = np.zeros((len(x), n_targets))
        alike = (self.rows.shape[1:], self.rows.dtype) == (x.shape[1:], x.dtype)
        if not alike or self.dual_coef.shape[1] != n_targets:
            return start, 0
        # 64 bits tell rows apart; if two ever met, this would be a worse start and no more.
        before = np.concatenate([hash_rows(self.rows.read(p)) for p in row_pieces(self.rows)])
        _, old, new = np.intersect1d(before, hash_rows(x), return_indices=True)
        start[new] = self.dual_coef[old]
        return start, len(new)
