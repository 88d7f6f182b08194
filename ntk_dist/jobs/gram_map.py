"""Which blocks of a Gram matrix are in the workspace already."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from itertools import chain

import numpy as np

from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.store.place import AbstractPlace
from ntk_dist.store.zarr import ZarrBlockStore, is_gram
from ntk_dist.wire import Blocks

__all__ = ["GramMaps", "positions"]

LEAST_S = 1.0
"""A map is good for so long, in seconds."""
COST_SHARE = 0.05
"""Or for longer where listing is slow: it takes at most this share of the time."""


class GramMaps:
    """Maps of the Gram matrices of one workspace; threads may share one.

    Parameters
    ----------
    clock
        Seconds; a test may bring its own.
    """

    def __init__(
        self, workspace: AbstractPlace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = workspace / "grams"
        self._clock = clock
        self._known: dict[str, tuple[float, Blocks]] = {}
        """With the time until which it is good."""
        self._lock = threading.Lock()

    def of(self, key: str) -> Blocks | None:
        """The map of one Gram matrix; None where there is none of that key.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        with self._lock:
            start = self._clock()
            # Those of matrices that nobody looks at any more are not kept.
            self._known = {k: entry for k, entry in self._known.items() if entry[0] > start}
            if key not in self._known:
                if not is_gram(self._root / key):
                    return None
                blocks = _map_of(ZarrBlockStore.open(self._root / key))
                now = self._clock()
                self._known[key] = (now + max(LEAST_S, (now - start) / COST_SHARE), blocks)
            return self._known[key][1]


def _map_of(store: ZarrBlockStore) -> Blocks:
    grid, stored = store.grid, store.present()
    bits = np.zeros(grid.n_blocks, dtype=bool)
    bits[positions(grid, stored)] = True
    return Blocks(
        n_rows=grid.n_rows,
        block_rows=grid.block_rows,
        side=grid.shape[0],
        n_blocks=grid.n_blocks,
        n_stored=len(stored),
        packed=base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode(),
    )


def positions(grid: BlockGrid, blocks: frozenset[BlockIndex]) -> np.ndarray:
    """Where blocks come in the order of a symmetric grid, shape ``(n_blocks,)``."""
    i, j = np.fromiter(chain.from_iterable(blocks), np.int64).reshape(-1, 2).T
    found: np.ndarray = i * grid.shape[0] - i * (i - 1) // 2 + (j - i)
    return found
