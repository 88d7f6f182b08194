"""Numbers with units, for people."""

from __future__ import annotations

__all__ = ["format_bytes", "format_count", "format_seconds"]


def format_bytes(n_bytes: float) -> str:
    """``n_bytes`` in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} PiB"


def format_count(count: float) -> str:
    """A large number to two digits: ``7,500,000``; a small one as ``0.58``."""
    return f"{count:.2g}" if count < 10 else f"{float(f'{count:.2g}'):,.0f}"


def format_seconds(seconds: float) -> str:
    """A duration to two digits or so, in the largest unit that it fills."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
