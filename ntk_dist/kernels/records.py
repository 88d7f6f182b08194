"""The records that programs are written in, as arrays that compiled code reads."""

from __future__ import annotations

__all__ = ["integers"]


def integers(names: str, kind: str = "i8") -> list[tuple[str, str]]:
    """Fields of a record, for ``numpy.dtype``: one integer for each of some names."""
    return [(name, kind) for name in names.split()]
