"""Work in progress, written down whole so that whoever comes after a crash goes on from there.

One object holds it all: a mark, a digest of the rest, and the arrays. It is replaced in one move,
so there is the last checkpoint or the one before it, and a torn one fails its digest.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import uuid
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ntk_dist.store.location import absolute, refusals

__all__ = ["Checkpoint"]

log = logging.getLogger(__name__)

MARK = b"ntk_dist checkpoint 1\n"
DIGEST_BYTES = 32
IDENTITY = "identity"
"""The array that says what the others belong to, as JSON in bytes."""


class Checkpoint:
    """A place for the arrays of one piece of work, which its identity tells from all others.

    Parameters
    ----------
    folder
        Where checkpoints are kept; made when the first is saved.
    identity
        Everything that the arrays depend on. Work of another identity has another file.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, str]) -> None:
        self._identity = json.dumps(dict(identity), sort_keys=True).encode()
        name = hashlib.blake2b(self._identity, digest_size=16).hexdigest()
        self.location = Path(absolute(folder), name)
        """The file."""

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep ``arrays`` in the place of what was kept before.

        Takes as much memory again as they have. Nothing is forced out to the disk: a process that
        dies loses nothing by it, and what a machine that dies tears is found by its digest.

        Raises
        ------
        StoreFullError, StoreUnreachableError
            They were not kept; those before them are still there.
        """
        data = io.BytesIO()
        identity = np.frombuffer(self._identity, np.uint8)
        np.savez(data, allow_pickle=False, **{IDENTITY: identity, **arrays})
        body = data.getbuffer()
        draft = self.location.with_name(f".{self.location.name}.{uuid.uuid4().hex}")
        with refusals(self.location):
            draft.parent.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open("wb") as file:
                    file.write(MARK + _digest(body))
                    file.write(body)
                draft.rename(self.location)
            finally:
                draft.unlink(missing_ok=True)

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays saved last; None where there are none that can be trusted.

        What is damaged, or belongs to other work, is left out of account with a warning.
        """
        try:
            with refusals(self.location):
                data = self.location.read_bytes() if self.location.is_file() else None
            return None if data is None else self._decoded(data)
        except (OSError, ValueError, zipfile.BadZipFile) as error:  # ours are OSErrors too
            log.warning("starting afresh, not from the checkpoint %s: %s", self.location, error)
            return None

    def _decoded(self, data: bytes) -> dict[str, np.ndarray]:
        head = len(MARK) + DIGEST_BYTES
        body = memoryview(data)[head:]
        if data[:head] != MARK + _digest(body):
            raise ValueError("it is damaged")
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        identity = arrays.pop(IDENTITY, np.empty(0, np.uint8)).tobytes()
        if identity != self._identity:
            raise ValueError(f"it belongs to {identity.decode(errors='replace')}")
        return arrays

    def delete(self) -> None:
        """Forget what was kept, and what writers that were killed left half done."""
        # Whoever comes next finds out by the digest or identity; this is only for the space.
        with suppress(OSError):
            self.location.unlink(missing_ok=True)
            for draft in self.location.parent.glob(f".{self.location.name}.*"):
                draft.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.location)!r})"


def _digest(body: memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
