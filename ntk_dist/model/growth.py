"""A data set that grew, or lost its last rows: what a Gram matrix of the same first rows has.

Rows are compared with those the workspace keeps, range by range, so an ancestor is found by what
it holds and never by its name. Preprocessing that looks at all rows, such as standardizing,
changes the first ones too: keep that of the earlier fit (``warm_start=True``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ntk_dist.errors import BlockCorruptError, BlockNotFoundError, StoreError, UnreadableDataError
from ntk_dist.events import EventSink, RepairEvent
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.store.base import AbstractBlockStore, AbstractRows, AbstractStatisticsStore
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.workspace import AbstractWorkspace

__all__ = ["Ancestor", "find_ancestor", "shared_rows", "side_of_ancestor"]

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096
LARGEST_CHANGE_OF_SIDE = 4
"""A grown data set may want larger blocks than its ancestor's; up to this factor, keeping those is
dearer by a few per cent of overhead and saves the ancestor's share of all blocks."""


@dataclass(frozen=True)
class Ancestor:
    """A stored Gram matrix whose first rows are ours."""

    store: AbstractBlockStore
    shared_rows: int
    """So many of its first rows are also the first ones of ours."""

    def blocks(self, missing: Iterable[BlockIndex]) -> list[BlockIndex]:
        """Those of ``missing`` that it has, of rows that are shared."""
        present, theirs = self.store.present(), self.store.grid
        whole = self.shared_rows // theirs.block_rows
        return [b for b in missing if b.j < whole and b in present]

    def give_statistics(
        self, missing: Mapping[int, int], ours: AbstractStatisticsStore, on_event: EventSink
    ) -> dict[int, int]:
        """Copy those batches of ``missing`` that it has, of shared rows; what is then missing.

        ``on_event`` hears of those that are damaged, which somebody has to compute again.
        """
        theirs = self.store.statistics(ours.width, ours.batch_rows)
        left = dict(missing)
        if theirs.batch_rows != ours.batch_rows:
            return left
        for batch in theirs.present() & set(missing):
            rows = ours.rows(batch)
            if rows.stop <= self.shared_rows:
                try:
                    # Where ours are fewer rows than theirs, our last batch is the shorter one.
                    ours.write(batch, theirs.read(batch)[: rows.stop - rows.start])
                except (BlockCorruptError, BlockNotFoundError) as error:
                    log.warning("computing the statistics of batch %s: %s", batch, error)
                    item = f"statistics of batch {batch}"
                    on_event(RepairEvent(item=item, reason=str(error)))
                else:
                    del left[batch]
        return left


def find_ancestor(
    manifest: Manifest, rows: AbstractRows, workspace: AbstractWorkspace
) -> Ancestor | None:
    """The Gram matrix in the workspace that shares most first rows with ours, whole blocks of them.

    It has the kernels, the precision, the blocks' side and the kind of device of ours.
    """
    alike = _alike(manifest, rows, workspace)
    of_side = (each for each in alike if each.store.grid.block_rows == manifest.block_rows)
    others = (each for each in of_side if each.store.manifest.key != manifest.key)
    return max(others, key=lambda each: each.shared_rows, default=None)


def side_of_ancestor(
    manifest: Manifest, rows: AbstractRows, workspace: AbstractWorkspace
) -> int | None:
    """The side of the blocks that saves most, in rows, where nobody named one; None: nothing does.

    Parameters
    ----------
    manifest
        Ours, with the side that would be chosen otherwise.
    rows
        Ours.
    workspace
        Where ancestors are.
    """
    near = (
        each
        for each in _alike(manifest, rows, workspace)
        if manifest.block_rows <= LARGEST_CHANGE_OF_SIDE * each.store.grid.block_rows
    )

    def saves(each: Ancestor) -> tuple[int, bool]:
        return each.shared_rows, each.store.manifest.key == manifest.key

    best = max(near, key=saves, default=None)
    return None if best is None else best.store.grid.block_rows


def shared_rows(one: AbstractRows, other: AbstractRows) -> int:
    """How many first rows of both are the same, byte for byte."""
    if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
        return 0
    most = min(len(one), len(other))
    for start in range(0, most, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, most))
        a, b = (np.ascontiguousarray(each.read(part)) for each in (one, other))
        differs = (a.view(np.uint8) != b.view(np.uint8)).reshape(len(a), -1).any(axis=1)
        if differs.any():
            return start + int(np.argmax(differs))
    return most


def _alike(
    manifest: Manifest, rows: AbstractRows, workspace: AbstractWorkspace
) -> Iterator[Ancestor]:
    """Gram matrices of the same kind that share at least one whole block of first rows.

    Ours is among them, if it is there, and those of our rows in blocks of another side.
    """
    for store in workspace.gram_stores():
        found = store.manifest
        as_ours = replace(
            found,
            data_rows=manifest.data_rows,
            data_cols=manifest.data_cols,
            n_rows=manifest.n_rows,
            n_cols=manifest.n_cols,
            block_rows=manifest.block_rows,
        )
        if as_ours.key != manifest.key:
            continue
        if found.data_rows == rows.fingerprint:
            yield Ancestor(store, len(rows))
            continue
        try:
            theirs = workspace.stored_rows(found.data_rows)
            shared = 0 if theirs is None else shared_rows(theirs, rows)
        except (StoreError, UnreadableDataError):
            continue  # what cannot be compared is nobody's ancestor
        if shared >= found.block_rows:
            yield Ancestor(store, shared)
