"""What is known about a signal on its way through the layers: shapes, and whether it is Gaussian.

One abstract interpretation checks an architecture twice: when it is built, with nothing known
about the input, and again with the shape of real data. Whatever is unknown is ``None`` and is
never a reason to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeAlias

from ntk_dist.errors import ArchitectureError, DataShapeError

__all__ = [
    "Place",
    "Signal",
    "State",
    "only_signal",
    "pads",
    "refuse",
    "require_spatial",
    "slide",
    "window_count",
]

Place: TypeAlias = tuple[str, ...]
"""Where in the architecture a layer stands, outermost first."""


def _new_source() -> frozenset[object]:
    return frozenset({object()})


@dataclass(frozen=True)
class Signal:
    """One branch of activations, per sample."""

    spatial: tuple[int | None, ...] | None = None
    """Image size per axis; ``()`` when there are no spatial axes; ``None`` when unknown."""
    channels: int | None = None
    """Features in the finite network; infinite in the kernel."""
    gaussian: bool | None = None
    """Whether the entries are Gaussian in the infinitely wide network."""
    after: str = "the input"
    """What last changed its distribution, for messages."""
    flattened_by: str | None = None
    """The layer that removed the spatial axes, if one did."""
    measured: bool = False
    """Whether the shape comes from real data, which is then what does not fit."""
    sources: frozenset[object] = field(default_factory=_new_source)
    """The random layers it depends on; branches with a common source are correlated."""

    def redrawn(self, after: str, channels: int) -> Signal:
        """The signal after a layer with fresh zero-mean weights: Gaussian, a source of its own."""
        return replace(self, channels=channels, gaussian=True, after=after, sources=_new_source())

    def without_space(self, by: str) -> Signal:
        """The signal after its spatial axes are gone, with as many channels."""
        return replace(self, spatial=(), flattened_by=by)


State: TypeAlias = "Signal | tuple[State, ...] | None"
"""One signal, the branches after a FanOut, or nothing known at all."""


def refuse(place: Place, message: str) -> NoReturn:
    """Raise ArchitectureError, saying where the layer stands."""
    raise ArchitectureError(f"{' > '.join(place)}: {message}" if place else message)


def only_signal(state: State, place: Place) -> Signal:
    """The single signal that most layers take.

    Raises
    ------
    ArchitectureError
        There are several branches.
    """
    if state is None:
        return Signal()
    if isinstance(state, tuple):
        refuse(
            place,
            f"expected one input, got {len(state)} branches; "
            "use parallel for one layer per branch, or FanInSum to add them up",
        )
    return state


def _misfit(signal: Signal, place: Place, message: str) -> NoReturn:
    # The architecture alone was consistent when it was built, so with real data it is the
    # data that has the wrong shape.
    if signal.measured:
        raise DataShapeError(f"{' > '.join(place)}: {message}")
    refuse(place, message)


def pads(size: int, window: int, stride: int, padding: str) -> tuple[int, int]:
    """How many positions to add before and after an axis.

    SAME and CIRCULAR keep ``ceil(size / stride)`` outputs; the extra position of an odd total
    goes to the end, as in XLA.
    """
    if padding == "VALID":
        return 0, 0
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def window_count(size: int, window: int, stride: int, padding: str) -> int:
    """How many windows fit on an axis after padding (zero or less: none does)."""
    return (size + sum(pads(size, window, stride, padding)) - window) // stride + 1


def require_spatial(signal: Signal, rank: int | None, place: Place) -> None:
    """Refuse a layer on images when there is no image, or not one with ``rank`` axes (if given)."""
    if signal.spatial is None:
        return
    if not signal.spatial:
        what = "expected an input with spatial axes, got none"
        if signal.flattened_by is None:
            _misfit(signal, place, f"{what}: samples must be images, channels last")
        refuse(place, f"{what}: {signal.flattened_by} removed them; move this layer before it")
    if rank is not None and rank != len(signal.spatial):
        _misfit(
            signal,
            place,
            f"expected an input with {rank} spatial axes (channels last), got "
            f"{len(signal.spatial)}: shape {_show((*signal.spatial, signal.channels))}",
        )


def slide(
    signal: Signal, window: tuple[int, ...], strides: tuple[int, ...], padding: str, place: Place
) -> tuple[int | None, ...]:
    """The image size after a window has slid over it.

    Raises
    ------
    ArchitectureError, DataShapeError
        No spatial axes, another rank, or an image smaller than the window under VALID.
    """
    require_spatial(signal, len(window), place)
    sizes: Iterable[int | None] = signal.spatial or (None,) * len(window)
    result: list[int | None] = []
    for size, w, stride in zip(sizes, window, strides, strict=True):
        count = None if size is None else window_count(size, w, stride, padding)
        if count is not None and count < 1:
            _misfit(
                signal,
                place,
                f"expected an image of at least {_show(window)} under VALID padding, got "
                f"{_show(signal.spatial or ())}; use SAME, a smaller window or larger images",
            )
        result.append(count)
    return tuple(result)


def _show(sizes: tuple[int | None, ...]) -> str:
    return " × ".join("?" if s is None else str(s) for s in sizes)
