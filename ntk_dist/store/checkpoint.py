"""Work in progress, written down whole so that whoever comes after a crash goes on from there.

One object holds it all: a mark, a digest of the rest, and the arrays. It is replaced in one move,
so there is the last checkpoint or the one before it, and a torn one fails its digest.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from ntk_dist.store.place import AbstractPlace

__all__ = ["Checkpoint"]

log = logging.getLogger(__name__)

MARK = b"ntk_dist checkpoint 1\n"
DIGEST_BYTES = 32
HEAD_BYTES = len(MARK) + DIGEST_BYTES
IDENTITY = "identity"
"""The array that says what the others belong to, as JSON in bytes."""


class Checkpoint:
    """A place for the arrays of one piece of work, which its identity tells from all others.

    Parameters
    ----------
    place
        Where checkpoints are kept; made when the first is saved.
    identity
        Everything that the arrays depend on. Work of another identity has another file.
    """

    def __init__(self, place: AbstractPlace, identity: Mapping[str, str]) -> None:
        self._identity = json.dumps(dict(identity), sort_keys=True).encode()
        name = hashlib.blake2b(self._identity, digest_size=16).hexdigest()
        self._place = place
        self.file = place / name
        """The file."""

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep ``arrays`` in the place of what was kept before.

        Takes as much memory again as they have, on the way. Nothing is forced out to the disk: a
        process that dies loses nothing by it, and what a machine that dies tears is found by its
        digest.

        Raises
        ------
        StoreFullError, StoreUnreachableError
            They were not kept; those before them are still there.
        """
        data = io.BytesIO()
        data.write(MARK + bytes(DIGEST_BYTES))
        identity = np.frombuffer(self._identity, np.uint8)
        np.savez(data, allow_pickle=False, **{IDENTITY: identity, **arrays})
        with data.getbuffer() as whole:
            whole[len(MARK) : HEAD_BYTES] = _digest(whole[HEAD_BYTES:])
        self.file.write_bytes(data.getvalue())  # the buffer itself, not a copy

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays saved last; None where there are none that can be trusted.

        What is damaged, or belongs to other work, is left out of account with a warning.
        """
        try:
            return self._decoded(self.file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, zipfile.BadZipFile) as error:  # ours are OSErrors too
            log.warning("starting afresh, not from the checkpoint %s: %s", self.file, error)
            return None

    def _decoded(self, data: bytes) -> dict[str, np.ndarray]:
        if data[:HEAD_BYTES] != MARK + _digest(memoryview(data)[HEAD_BYTES:]):
            raise ValueError("it is damaged")
        stream = io.BytesIO(data)
        stream.seek(HEAD_BYTES)
        with np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        identity = arrays.pop(IDENTITY, np.empty(0, np.uint8)).tobytes()
        if identity != self._identity:
            raise ValueError(f"it belongs to {identity.decode(errors='replace')}")
        return arrays

    def delete(self) -> None:
        """Forget what was kept, and what writers that were killed long ago left half done."""
        # Whoever comes next finds out by the digest or identity; this is only for the space.
        with suppress(OSError):
            self.file.delete()
            self._place.sweep_orphans()

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.file)!r})"


def _digest(body: memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
