"""When the solver writes its state down, and how it finds it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_dist.errors import StoreError
from ntk_dist.events import CheckpointEvent, EventSink
from ntk_dist.store.checkpoint import Checkpoint

__all__ = ["CHECKPOINT_EVERY_S", "StateKeeper", "arrays_of", "values_of"]

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 10.0
"""Seconds between checkpoints, at least."""
SHARE = 0.01
"""Most of the time that goes into checkpoints: after one that took a second, none for 100."""
BYTES_PER_S = 50e6
"""How fast the first is expected to be written, before any has been timed: a state of 20 MB (50,000
rows, 10 targets) took 0.2 to 0.35 s on a busy machine."""


class SolverState(Protocol):
    """Everything that the next pass of a solver depends on."""

    @property
    def step(self) -> int:
        """Steps so far."""

    @property
    def products(self) -> int:
        """Products so far: what tells a state from an older one."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything by its name, to be written down."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> Self:
        """The inverse of :meth:`to_arrays`, for a right-hand side of ``shape``.

        Raises
        ------
        LookupError, TypeError, ValueError
            The arrays are not those of such a state.
        """


def arrays_of(state: Any, without: str = "") -> dict[str, NDArray[Any]]:
    """The fields of a dataclass as arrays by their names, but the one of ``without``."""
    names = [field.name for field in fields(state) if field.name != without]
    return {name: np.asarray(getattr(state, name)) for name in names}


def values_of(
    kind: type[Any], arrays: Mapping[str, NDArray[Any]], without: str = ""
) -> dict[str, Any]:
    """The inverse of :func:`arrays_of`: what the fields of ``kind`` were.

    Raises
    ------
    KeyError
        One of them is not there.
    """
    found = {f.name: arrays[f.name] for f in fields(kind) if f.name != without}
    return {name: value if value.ndim else value.item() for name, value in found.items()}


State = TypeVar("State", bound=SolverState)


class StateKeeper(Generic[State]):
    """Keeps the state of one solve from getting lost, at no more than 1 % of its time.

    Parameters
    ----------
    kind
        The class of the state.
    checkpoint
        Where to; None keeps nothing.
    every_s
        Seconds between checkpoints, at least.
    on_event
        Told of a :class:`~ntk_dist.events.CheckpointEvent` for each.
    """

    def __init__(
        self,
        kind: type[State],
        checkpoint: Checkpoint | None,
        every_s: float,
        on_event: EventSink,
    ) -> None:
        self._kind = kind
        self._checkpoint, self._every_s, self._on_event = checkpoint, every_s, on_event
        self._cost_s: float | None = None
        self._began_at = self._saved_at = time.perf_counter()
        self._saved_passes = 0
        self.resumed_from_step: int | None = None
        """Step of the state that :meth:`find` found."""

    def find(self, shape: tuple[int, int]) -> State | None:
        """The state to go on from; None where there is none for a system of this shape."""
        arrays = self._checkpoint.load() if self._checkpoint else None
        if arrays is None:
            return None
        try:
            state = self._kind.from_arrays(arrays, shape)
        except (LookupError, TypeError, ValueError) as error:
            log.warning("starting afresh, not from %s: %s", self._checkpoint, error)
            return None
        self._saved_passes = state.products
        self.resumed_from_step = state.step
        self._on_event(CheckpointEvent(state="resumed", step=state.step))
        return state

    def after_pass(self, state: State) -> None:
        """Write ``state`` down if it is time to."""
        if self._is_worth_it(state) and time.perf_counter() - self._saved_at >= self._every_s:
            self.save(state)

    def after_last_pass(self, state: State) -> None:
        """Write the answer down, if the whole solve took as long as is between checkpoints."""
        if self._is_worth_it(state) and time.perf_counter() - self._began_at >= self._every_s:
            self.save(state)

    def save(self, state: State) -> None:
        """Write ``state`` down unless it was before.

        Failing to is no reason to give the solve up: it is logged.
        """
        if self._checkpoint is None or state.products == self._saved_passes:
            return
        started = time.perf_counter()
        try:
            self._checkpoint.save(state.to_arrays())
        except StoreError as error:
            log.warning("no checkpoint after step %d: %s", state.step, error)
        else:
            self._saved_passes = state.products
            self._on_event(CheckpointEvent(state="saved", step=state.step))
        self._saved_at = time.perf_counter()
        self._cost_s = self._saved_at - started

    def _is_worth_it(self, state: State) -> bool:
        """Whether all the time since the last checkpoint is worth what the next one costs."""
        if self._checkpoint is None:
            return False
        if (cost_s := self._cost_s) is None:
            cost_s = sum(array.nbytes for array in state.to_arrays().values()) / BYTES_PER_S
        return time.perf_counter() - self._saved_at >= cost_s / SHARE
