"""Files and arrays on their way to the service, in parts, each with its checksum."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ntk_dist import wire
from ntk_dist.client.exchange import Terms, ask, exchange, path_of
from ntk_dist.client.flow import Flow, Request, Together, Work
from ntk_dist.errors import (
    ChecksumMismatchError,
    ConflictError,
    DefectError,
    NTKDistError,
    UnreadableDataError,
)
from ntk_dist.wire import Upload

__all__ = ["Content", "content_of", "delivered"]

READ_BYTES = 2**20
"""Of a file at a time, for its checksum."""
NAME_LENGTH = 100
PART_TRIES = 3
"""A part that arrives otherwise than it was sent is sent again, twice."""

Content: TypeAlias = str | Path | np.ndarray
"""What can be uploaded: a file, or an array, which becomes an ``.npy`` file."""


class _AbstractSource(ABC):
    """Bytes that can be read from anywhere."""

    filename: str
    n_bytes: int

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """Those from ``start`` to ``stop``."""

    def sha256(self) -> str:
        """Of all of them."""
        digest = hashlib.sha256()
        for start in range(0, self.n_bytes, READ_BYTES):
            digest.update(self.read(start, min(start + READ_BYTES, self.n_bytes)))
        return digest.hexdigest()


class _FileSource(_AbstractSource):
    def __init__(self, path: Path, filename: str | None) -> None:
        try:
            if path.is_dir():
                raise UnreadableDataError(
                    f"upload: expected a file, got {path}, which is a folder; pack its arrays into "
                    "an .npz, or put it where jobs of the service may read"
                )
            self.n_bytes = path.stat().st_size
            if self.n_bytes == 0:
                raise UnreadableDataError(f"upload: expected data in {path}, got an empty file")
        except OSError as error:
            raise UnreadableDataError(f"upload: expected a file, got {path}: {error}") from error
        self._path = path
        self.filename = filename or _plain_name(path.name)

    def read(self, start: int, stop: int) -> bytes:
        """Those from ``start`` to ``stop``."""
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                data = file.read(stop - start)
        except OSError as error:
            raise UnreadableDataError(f"upload: {self._path} cannot be read: {error}") from error
        if len(data) != stop - start:
            raise UnreadableDataError(
                f"upload: expected {self.n_bytes} bytes of {self._path}, got fewer; did it change "
                "meanwhile?"
            )
        return data


class _ArraySource(_AbstractSource):
    def __init__(self, array: np.ndarray, filename: str | None) -> None:
        if array.dtype.hasobject:
            raise UnreadableDataError(
                f"upload: expected an array of numbers or text, got dtype {array.dtype}"
            )
        self._data = wire.to_npy(array)
        self.n_bytes = len(self._data)
        self.filename = filename or "array.npy"

    def read(self, start: int, stop: int) -> bytes:
        """Those from ``start`` to ``stop``."""
        return self._data[start:stop]


def _plain_name(name: str) -> str:
    """As services take them: they only need to see the suffix."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-NAME_LENGTH:].lstrip(".-") or "data"


def content_of(content: Content, filename: str | None = None) -> _AbstractSource:
    """What is to be uploaded, ready to be read.

    Raises
    ------
    UnreadableDataError
        It is no file that can be read, or an array of objects.
    """
    if isinstance(content, np.ndarray):
        return _ArraySource(content, filename)
    return _FileSource(Path(content).expanduser(), filename)


def delivered(
    terms: Terms, content: Content, filename: str | None = None, resume: str | None = None
) -> Flow[Upload]:
    """The upload once all of it has arrived.

    Parameters
    ----------
    terms
        Those of the client.
    content
        What to send.
    filename
        Whose suffix says what it is; None: that of the file, or ``array.npy``.
    resume
        Id of an upload of the same content that was cut off; None for a new one.
    """
    source: _AbstractSource = yield Work(partial(content_of, content, filename))
    sha256: str = yield Work(source.sha256)
    upload = yield from (
        _resumed(terms, source, sha256, resume) if resume else _begun(terms, source, sha256)
    )
    if upload.is_complete:
        return upload
    if upload.part_bytes < 1:
        raise DefectError(f"upload {upload.id}: expected parts of 1 byte or more, got none")
    n_parts = -(-upload.n_bytes // upload.part_bytes)
    missing = sorted(set(range(n_parts)) - set(upload.received))
    try:
        yield Together((_part(terms, source, upload, k) for k in missing), terms.parallel)
        path = path_of("v1", "uploads", upload.id) + ":complete"
        return (yield from ask(terms, Upload, Request(method="POST", path=path)))
    except NTKDistError as error:
        error.add_note(f"parts that arrived are kept: upload(..., resume={upload.id!r}) goes on")
        raise


def _begun(terms: Terms, source: _AbstractSource, sha256: str) -> Flow[Upload]:
    told = {"filename": source.filename, "n_bytes": source.n_bytes, "sha256": sha256}
    request = Request(
        method="POST",
        path=path_of("v1", "uploads"),
        headers={"Content-Type": wire.JSON},
        body=json.dumps(told).encode(),  # a second one is empty, and swept with the old ones
    )
    return (yield from ask(terms, Upload, request))


def _resumed(terms: Terms, source: _AbstractSource, sha256: str, id: str) -> Flow[Upload]:
    request = Request(method="GET", path=path_of("v1", "uploads", id))
    upload = yield from ask(terms, Upload, request)
    if (upload.n_bytes, upload.sha256) != (source.n_bytes, sha256):
        raise ConflictError(
            f"upload {id}: expected the announced {upload.n_bytes} bytes of SHA-256 "
            f"{upload.sha256}, got {source.n_bytes} of {sha256}; begin a new one"
        )
    return upload


def _part(terms: Terms, source: _AbstractSource, upload: Upload, number: int) -> Flow[None]:
    start = number * upload.part_bytes
    stop = min(start + upload.part_bytes, upload.n_bytes)
    data: bytes = yield Work(partial(source.read, start, stop))
    request = Request(
        method="PUT",
        path=path_of("v1", "uploads", upload.id, "parts", number),
        headers={
            "Content-Type": "application/octet-stream",
            wire.CONTENT_SHA256: hashlib.sha256(data).hexdigest(),
        },
        body=data,
    )
    for tried in range(1, PART_TRIES + 1):
        try:
            yield from exchange(terms, request)
        except ChecksumMismatchError:
            if tried == PART_TRIES:
                raise
        else:
            return
