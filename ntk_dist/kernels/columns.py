"""Samples made ready once to be the columns of many small blocks, as predictions need them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ntk_dist.kernels import fused_dense
from ntk_dist.kernels.coincidence import row_keys
from ntk_dist.kernels.engines import FusedDense
from ntk_dist.kernels.evaluations import Arrays
from ntk_dist.kernels.statistics import Side, Statistics

__all__ = ["PackedColumns"]


class PackedColumns:
    """The columns of any number of blocks of a network without spatial axes.

    Law: ``block(x1)`` is ``Kernel.block(x1, x2)``; to the last bit but for entries of rows that
    are equal or opposite, which come from other statistics of the same sample.

    Parameters
    ----------
    evaluation
        Of the architecture, for such samples.
    samples : (n, features)
        Float32 or float64; not kept.
    statistics
        Theirs.
    kernels
        ``"nngp"``, ``"ntk"`` or both.
    dtype
        Of blocks.
    """

    def __init__(
        self,
        evaluation: FusedDense,
        samples: np.ndarray,
        statistics: Statistics,
        kernels: tuple[str, ...],
        dtype: np.dtype[np.floating],
    ) -> None:
        self._evaluation, self._kernels, self._dtype = evaluation, kernels, dtype
        self._columns = fused_dense.Columns(evaluation.program, samples, dtype)
        self._alone = {name: statistics.kernels[name] for name in kernels}
        self._order = np.argsort(statistics.keys, kind="stable")
        self._keys = statistics.keys[self._order]

    @staticmethod
    def projected_bytes(
        evaluation: FusedDense, n: int, kernels: tuple[str, ...], dtype: np.dtype[np.floating]
    ) -> int:
        """Memory of n samples that are ready."""
        (features,) = evaluation.shape
        packed = fused_dense.columns_bytes(evaluation.program, features, dtype, n)
        # Of each, its kernels, its key and its place among the keys.
        return packed + n * (len(kernels) + 2) * np.float64().itemsize

    def block(self, x1: np.ndarray, threads: int = 1) -> Arrays:
        """Each kernel between all samples of ``x1`` and the columns: (n1, n) each.

        Parameters
        ----------
        x1 : (n1, ...)
            Samples of the shape and dtype that the columns had.
        threads
            How many to use; no bit depends on it.
        """
        samples = np.ascontiguousarray(x1).reshape(len(x1), -1)
        program = self._evaluation.program
        block = fused_dense.dense_block(
            program, samples, self._columns, self._dtype, threads, self._kernels
        )
        for i, j, sign in self._coincidences(samples):
            known = {name: values[j] for name, values in self._alone.items()}
            if sign < 0:
                side = Side(samples[i : i + 1], ())
                both = self._evaluation.each_with_opposite(side, "ntk" in self._kernels, threads)
                known = {name: both[name][0] for name in known}
            for name, value in known.items():
                block[name][i, j] = value
        return block

    def _coincidences(self, samples: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Rows and columns that are equal, with 1, or opposite, with -1.

        Their keys tell, of 64 bits each; and that the directions are the same as well, to the last
        bit, is more than two different samples with one key could hope for.
        """
        keys = row_keys(samples.astype(np.float64, copy=False))
        first = np.searchsorted(self._keys, keys, "left")
        last = np.searchsorted(self._keys, keys, "right")
        for i in (first < last).nonzero()[0]:
            program = self._evaluation.program
            own = fused_dense.Columns(program, samples[i : i + 1], self._dtype).direction(0)
            for j in self._order[first[i] : last[i]]:
                other = self._columns.direction(j)
                for sign in (1, -1):
                    if np.array_equal(sign * own, other):
                        yield int(i), int(j), sign
                        break
