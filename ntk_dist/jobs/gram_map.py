"""Which blocks of a Gram matrix are in the workspace already."""

from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
KEPT_S = 60.0
"""A map that nobody asked for is forgotten after so long, in seconds."""


@dataclass
class _Entry:
    """What is known of one matrix."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever lists its blocks."""
    blocks: Blocks | None = None
    good_until: float = -math.inf
    asked: float = -math.inf
    ended: set[str] = field(default_factory=set)
    """Runs that were over before the blocks were listed last, so that none of theirs is missing."""

    def has_all_of(self, ended: str | None) -> bool:
        return ended is None or ended in self.ended


class GramMaps:
    """Maps of the Gram matrices of one workspace; threads may share one.

    One of them lists the blocks of a matrix, which takes seconds for many in object storage; those
    who ask for it meanwhile get the map of before, and other matrices are not kept waiting.

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
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        """Of the entries; never held while anything is read."""

    def of(self, key: str, ended: str | None = None) -> Blocks | None:
        """The map of one Gram matrix; None where there is none of that key.

        Parameters
        ----------
        key
            Of the matrix.
        ended
            A run that is over: a map from before its end is not good enough, since whoever asks
            may not ask again.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        entry = self._entry(key)
        # Only who has no map at all waits for it, or none of a run that is over.
        must_wait = entry.blocks is None or not entry.has_all_of(ended)
        if not entry.turn.acquire(blocking=must_wait):
            return entry.blocks
        try:
            start = self._clock()
            if start >= entry.good_until or not entry.has_all_of(ended):
                place = self._root / key
                entry.blocks = _map_of(ZarrBlockStore.open(place)) if is_gram(place) else None
                now = self._clock()
                if entry.blocks is not None:  # one that is not there yet may be any moment
                    entry.good_until = now + max(LEAST_S, (now - start) / COST_SHARE)
                    entry.ended |= set() if ended is None else {ended}
            return entry.blocks
        finally:
            entry.turn.release()

    def _entry(self, key: str) -> _Entry:
        """That of one matrix; those that nobody asks for any more are dropped."""
        with self._lock:
            now = self._clock()
            self._entries = {
                k: entry
                for k, entry in self._entries.items()
                if entry.turn.locked() or now < max(entry.asked + KEPT_S, entry.good_until)
            }
            entry = self._entries.setdefault(key, _Entry())
            entry.asked = now
            return entry


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
