"""What a stored Gram matrix belongs to, so that it is never taken for another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ntk_dist._version import __version__
from ntk_dist.errors import ManifestMismatchError
from ntk_dist.gram.grid import BlockGrid

__all__ = ["Manifest"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The identity of a Gram matrix: whoever opens it must agree on every field but the version."""

    architecture: str
    """Fingerprint of the architecture."""
    data_rows: str
    """Fingerprint of the inputs that make the rows."""
    data_cols: str
    """Fingerprint of the inputs that make the columns; equal to ``data_rows`` when symmetric."""
    n_rows: int
    n_cols: int
    block_rows: int
    symmetric: bool
    kernels: tuple[str, ...]
    """Sorted kernel names."""
    dtype: str
    device_kind: str
    """``cpu`` or ``gpu``: blocks repeat bit for bit only on one kind, so kinds are not mixed."""
    format: int = FORMAT
    package_version: str = __version__

    def __post_init__(self) -> None:
        # Else the same two kernels in another order would be another Gram.
        object.__setattr__(self, "kernels", tuple(sorted(self.kernels)))

    @property
    def grid(self) -> BlockGrid:
        """How the matrix is cut."""
        return BlockGrid(self.n_rows, self.n_cols, self.block_rows, self.symmetric)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this Gram in a workspace."""
        identity = {k: v for k, v in self.to_dict().items() if k != "package_version"}
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {**asdict(self), "kernels": list(self.kernels)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Manifest:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        ManifestMismatchError
            The record has other fields than this version writes.
        """
        try:
            return cls(**{**record, "kernels": tuple(record["kernels"])})
        except (KeyError, TypeError) as error:
            raise ManifestMismatchError(
                f"the manifest of a stored Gram matrix has unexpected fields ({error}); "
                "it was written by another version of ntk_dist: use another workspace"
            ) from error

    def require_same(self, stored: Manifest, where: str) -> None:
        """Refuse a stored Gram that belongs to something else.

        Raises
        ------
        ManifestMismatchError
            Names every field that differs, expected and got.
        """
        mine, theirs = self.to_dict(), stored.to_dict()
        differing = [k for k in mine if k != "package_version" and mine[k] != theirs[k]]
        if differing:
            details = "; ".join(f"{k}: expected {mine[k]}, got {theirs[k]}" for k in differing)
            raise ManifestMismatchError(
                f"the Gram matrix at {where} belongs to something else ({details}); "
                "use another workspace, or remove that folder"
            )
