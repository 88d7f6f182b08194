"""Every function that is shipped to a worker and called there; what stays there is in ``shards``.

A task is a small frozen record that pickles (where the blocks live, not the blocks) and is called
with its item. Tasks are idempotent: the same item gives the same bytes, whichever worker runs it
and however often.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_dist.errors import (
    BlockCorruptError,
    BlockNotFoundError,
    InvalidInputError,
    NonFiniteDataError,
)
from ntk_dist.events import RepairEvent, report
from ntk_dist.gram.block import compute_block, compute_statistics
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.gram.plan import statistics_batch_rows
from ntk_dist.kernels.coincidence import row_keys
from ntk_dist.kernels.device import device_kind
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.statistics import Statistics
from ntk_dist.store.base import AbstractBlockStore, AbstractRows, AbstractStatisticsStore

__all__ = [
    "AdoptTask",
    "BlockRecord",
    "GramTask",
    "PredictTask",
    "RecentRows",
    "RowBatch",
    "StatisticsRows",
    "StatisticsTask",
    "statistics_of",
]

log = logging.getLogger(__name__)

_Inputs = tuple[np.ndarray, Statistics]
"""Some rows, and what is known of each of them."""


@dataclass(frozen=True)
class BlockRecord:
    """What a worker says about a block it stored."""

    n_bytes: int
    """Bytes of the block, every kernel."""
    seconds: float
    """Time to read its rows, compute it and store it."""
    read_s: float
    """Of them, for its rows and their statistics."""
    write_s: float
    """Of them, for storing it."""


class RecentRows(AbstractRows):
    """Rows of a store, of which each thread remembers the two ranges that it read last.

    Blocks are computed band by band, so of the two ranges of a block one was read for the block
    before; and statistics are checked against rows that are in memory then. A block of 2048 rows
    on 784 features takes 0.13 s of CPU so, 0.145 without. Never more than two ranges are held, and
    those of the block at work count in the plan.

    Parameters
    ----------
    rows
        Where they are kept; pickling leaves the memory behind.
    """

    def __init__(self, rows: AbstractRows) -> None:
        self._rows = rows
        self.shape, self.dtype, self.fingerprint = rows.shape, rows.dtype, rows.fingerprint
        self._recent = threading.local()

    def read(self, rows: slice) -> np.ndarray:
        """Those of ``rows``, as a view that is not to be written to."""
        start, stop, _ = rows.indices(len(self))
        recent: list[tuple[int, np.ndarray]] = getattr(self._recent, "ranges", [])
        for place, (first, values) in enumerate(recent):
            if first <= start and stop <= first + len(values):
                recent.append(recent.pop(place))
                return values[start - first : stop - first]
        # The older one goes first: memory never holds three.
        self._recent.ranges = recent = recent[-1:]
        values = self._rows.read(rows)
        values.setflags(write=False)
        recent.append((start, values))
        return values

    def __reduce__(self) -> tuple[Any, tuple[AbstractRows]]:
        return RecentRows, (self._rows,)


@dataclass(frozen=True)
class StatisticsTask:
    """Compute what is known of each row of a batch alone, and store it whole."""

    kernel: Kernel
    rows: AbstractRows
    store: AbstractStatisticsStore
    device_kind: str
    """What the blocks of the same Gram matrix are computed on."""

    def __call__(self, batch: int) -> int:
        """Statistics of ``batch``: computed, stored, and not returned; says of how many rows.

        Raises
        ------
        InvalidInputError
            This worker computes on another kind of device.
        StoreFullError
            No space is left for them; every other batch is untouched.
        """
        _require_device(self.device_kind)
        return len(self.compute(batch))

    def compute(self, batch: int) -> np.ndarray:
        """Statistics of ``batch``, computed and stored: shape ``(rows, width)``."""
        x = self.rows.read(self.store.rows(batch))
        with np.errstate(over="ignore", invalid="ignore"):  # a block that overflows is refused
            statistics = compute_statistics(self.kernel, x, pad_rows=self.store.batch_rows)
        packed = self.kernel.statistics_layout(x.shape[1:]).pack(statistics)
        self.store.write(batch, packed)
        return packed


class StatisticsRows(AbstractRows):
    """Stored statistics of rows, packed; a batch that is lost or damaged is computed again."""

    def __init__(self, task: StatisticsTask) -> None:
        self._task = task
        self.shape = (len(task.rows), task.store.width)
        self.dtype = np.dtype(np.float64)
        self.fingerprint = f"{task.kernel.fingerprint} of {task.rows.fingerprint}"

    def read(self, rows: slice) -> np.ndarray:
        """Those of ``rows``, shape ``(stop - start, width)``."""
        start, stop, _ = rows.indices(len(self))
        out = np.empty((stop - start, self.shape[1]))
        side = self._task.store.batch_rows
        for batch in range(start // side, -(-stop // side)):
            here = self._task.store.rows(batch)
            first, last = max(start, here.start), min(stop, here.stop)
            values = self._read_batch(batch)
            out[first - start : last - start] = values[first - here.start : last - here.start]
        return out

    def _read_batch(self, batch: int) -> np.ndarray:
        try:
            return self._checked(batch, self._task.store.read(batch))
        except BlockNotFoundError:
            return self._task.compute(batch)
        except BlockCorruptError as error:
            log.warning("computing the statistics of batch %s again: %s", batch, error)
            report(RepairEvent(item=f"statistics of batch {batch}", reason=str(error)))
            return self._task.compute(batch)

    def _checked(self, batch: int, values: np.ndarray) -> np.ndarray:
        """``values``, but not those of another batch: their keys are those of other rows."""
        start = self._task.store.rows(batch).start
        first = self._task.rows.read(slice(start, start + 1))
        layout = self._task.kernel.statistics_layout(first.shape[1:])
        if not np.array_equal(layout.unpack(values[:1]).keys, row_keys(first.astype(np.float64))):
            raise BlockCorruptError(f"batch {batch} holds the statistics of other rows")
        return values


def statistics_of(kernel: Kernel, rows: AbstractRows, store: AbstractBlockStore) -> StatisticsTask:
    """The task that fills the statistics beside the blocks of ``store``."""
    layout = kernel.statistics_layout(rows.shape[1:])
    flops = kernel.flops_per_pair(rows.shape[1:], store.manifest.device_kind)
    batch_rows = statistics_batch_rows(store.grid.block_rows, flops, layout.row_bytes)
    batches = store.statistics(layout.width, batch_rows)
    return StatisticsTask(kernel, rows, batches, store.manifest.device_kind)


def _require_device(wanted: str) -> None:
    """Refuse to compute on another kind of device than the rest of the job."""
    if device_kind() != wanted:
        # Bytes repeat on one kind of device only, and a retried block must repeat.
        raise InvalidInputError(
            f"expected every worker of this job to compute on {wanted}, got {device_kind()} "
            f"on {socket.gethostname()}: start all workers on one kind of device"
        )


@dataclass(frozen=True)
class GramTask:
    """Compute one block of a symmetric Gram matrix and store it whole."""

    kernel: Kernel
    rows: AbstractRows
    statistics: AbstractRows
    """Of those rows, packed."""
    store: AbstractBlockStore
    max_bytes: int
    """Working memory of one block, in bytes."""

    def __call__(self, index: BlockIndex) -> BlockRecord:
        """Block ``index``: computed, stored, and not returned.

        Raises
        ------
        InvalidInputError
            This worker computes on another kind of device than the Gram's other blocks.
        NonFiniteDataError
            The kernel overflows its dtype on these inputs.
        StoreFullError
            No space is left for it; every other block is untouched.
        """
        return self._stored(index)[1]

    def compute(self, index: BlockIndex) -> dict[str, np.ndarray]:
        """Block ``index`` of each kernel, computed and stored; raises what the call does."""
        return self._stored(index)[0]

    def _stored(self, index: BlockIndex) -> tuple[dict[str, np.ndarray], BlockRecord]:
        start = time.perf_counter()
        _require_device(self.store.manifest.device_kind)
        inputs = self._inputs(index)
        read = time.perf_counter()
        blocks = self._blocks(index, inputs)
        computed = time.perf_counter()
        self.store.write(index, blocks)
        end = time.perf_counter()
        return blocks, BlockRecord(
            n_bytes=sum(block.nbytes for block in blocks.values()),
            seconds=end - start,
            read_s=read - start,
            write_s=end - computed,
        )

    def evaluate(self, index: BlockIndex) -> dict[str, np.ndarray]:
        """Block ``index`` of each kernel, computed and not stored.

        Raises
        ------
        NonFiniteDataError
            The kernel overflows its dtype on these inputs.
        """
        return self._blocks(index, self._inputs(index))

    def _inputs(self, index: BlockIndex) -> tuple[_Inputs, _Inputs | None]:
        """Rows and columns of a block; None for the columns where they are the rows."""
        grid = self.store.grid
        left = self._read(grid.rows(index))
        return left, None if grid.is_diagonal(index) else self._read(grid.cols(index))

    def _read(self, rows: slice) -> _Inputs:
        layout = self.kernel.statistics_layout(self.rows.shape[1:])
        return self.rows.read(rows), layout.unpack(self.statistics.read(rows))

    def _blocks(
        self, index: BlockIndex, inputs: tuple[_Inputs, _Inputs | None]
    ) -> dict[str, np.ndarray]:
        (x1, known1), right = inputs
        x2, known2 = (None, None) if right is None else right
        with np.errstate(over="ignore"):  # found below, and said in words
            blocks = compute_block(
                self.kernel,
                x1,
                x2,
                known1,
                known2,
                max_bytes=self.max_bytes,
                pad_rows=self.store.grid.block_rows,
            )
        for name, block in blocks.items():
            if not np.isfinite(block).all():
                raise NonFiniteDataError(
                    f"block {index} of the {name} overflows {block.dtype}: standardize the inputs, "
                    "use smaller W_std, or compute in float64"
                )
        return blocks


@dataclass(frozen=True)
class AdoptTask:
    """Take one block from the Gram matrix of fewer rows, or compute it if it is damaged there."""

    task: GramTask
    source: AbstractBlockStore
    """Has the same block at the same place."""

    def __call__(self, index: BlockIndex) -> bool:
        """Block ``index``, stored; whether it was the other one's.

        Raises
        ------
        As ``GramTask``.
        """
        ours = self.task.store
        try:
            blocks = {kernel: self.source.read(kernel, index) for kernel in ours.kernels}
        except (BlockCorruptError, BlockNotFoundError) as error:
            log.warning("computing block %s: %s", index, error)
            report(RepairEvent(item=str(index), reason=str(error)))
            self.task(index)
            return False
        ours.write(index, blocks)
        return True


@dataclass(frozen=True)
class RowBatch:
    """Some inputs to predict, with their place among all of them."""

    start: int
    x: np.ndarray
    """Shape ``(n, *input_shape)``."""

    def __str__(self) -> str:
        return f"rows {self.start} to {self.start + len(self.x) - 1}"


@dataclass(frozen=True)
class PredictTask:
    """Multiply K(x, X) by the dual coefficients, a range of training rows at a time."""

    kernel: Kernel
    """Evaluates one kernel only."""
    rows: AbstractRows
    """Training inputs X."""
    statistics: AbstractRows
    """Of the training inputs, packed."""
    dual_coef: AbstractRows
    """Shape ``(n_rows, n_targets)``, float64."""
    block_rows: int
    """Training rows per block of K(x, X)."""
    max_bytes: int

    def __call__(self, batch: RowBatch) -> np.ndarray:
        """Predictions for ``batch``, shape ``(n, n_targets)``, summed in float64."""
        (name,) = self.kernel.kernels
        layout = self.kernel.statistics_layout(self.rows.shape[1:])
        out = np.zeros((len(batch.x), self.dual_coef.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            new = compute_statistics(self.kernel, batch.x)
        for start in range(0, len(self.rows), self.block_rows):
            part = slice(start, min(start + self.block_rows, len(self.rows)))
            with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the sum
                block = compute_block(
                    self.kernel,
                    batch.x,
                    self.rows.read(part),
                    new,
                    layout.unpack(self.statistics.read(part)),
                    max_bytes=self.max_bytes,
                )[name]
                out += block.astype(np.float64) @ self.dual_coef.read(part)
        return out
