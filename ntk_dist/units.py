"""Numbers with units, and lists that may be long, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

__all__ = ["first_few", "format_bytes", "format_count", "format_seconds", "parse_bytes"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGTP]?)(i?)B", re.ASCII)
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def format_bytes(n_bytes: float) -> str:
    """``n_bytes`` in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} PiB"


def parse_bytes(text: str) -> int:
    """The bytes in ``"32GB"``, ``"1.5 GiB"`` or ``"512B"``.

    Raises
    ------
    ValueError
        It is no size; the message has no subject, for the caller knows which.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected a size such as 32GB or 1.5GiB, got {text!r}")
    number, power, binary = found.groups()
    return round(float(number) * float(1024 if binary else 1000) ** _POWERS[power])


def format_count(count: float) -> str:
    """A large number to two digits: ``7,500,000``; a small one as ``0.58``."""
    return f"{count:.2g}" if count < 10 else f"{float(f'{count:.2g}'):,.0f}"


def format_seconds(seconds: float) -> str:
    """A duration to two digits or so, in the largest unit that it fills."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"


def first_few(items: Iterable[object], most: int = 10) -> str:
    """The first ``most`` of ``items``, and ``...`` where there are more: ``3, 7, 20, ...``."""
    shown = [str(item) for item in islice(items, most + 1)]
    return ", ".join([*shown[:most], "..."] if len(shown) > most else shown)
