"""In which order many parts become one sum, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["add_in_pairs"]

Part = TypeVar("Part")


def add_in_pairs(parts: Sequence[Part], add: Callable[[Part, Part], Part]) -> Part:
    """The sum of all parts: neighbours first, then the sums of neighbours, and so on.

    The order depends on how many there are and on nothing else, so floating-point sums repeat to
    the last bit; ``add`` is called once less than there are parts, and the longest chain of
    additions is the logarithm of their number.

    Parameters
    ----------
    parts
        At least one: numbers or arrays, or references to some.
    add
        One addition, of a part and a later one. The sum belongs where the first of them is.
    """
    if not parts:
        raise ValueError("expected at least one part to add, got none")
    sums = list(parts)
    step = 1
    while step < len(sums):
        for first in range(0, len(sums) - step, 2 * step):
            sums[first] = add(sums[first], sums[first + step])
        step *= 2
    return sums[0]
