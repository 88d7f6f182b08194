"""Data files that come over HTTP, in parts that are checked one by one.

::

    WORKSPACE/uploads/ID/parts/0, 1, ...    as they came, each there whole or not at all
    WORKSPACE/uploads/ID/file/FILENAME      all of them, once their SHA-256 is the announced one

The workspace may be a folder, or in object storage. A caller that was cut off asks which parts have
arrived and sends the others.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from ntk_dist.database.opened import Database
from ntk_dist.database.records import UploadRecord
from ntk_dist.errors import (
    ChecksumMismatchError,
    ConflictError,
    DiskBudgetError,
    RequestError,
    RequestTooLargeError,
    StoreError,
    UploadNotFoundError,
)
from ntk_dist.settings import ServiceSettings
from ntk_dist.store.place import AbstractPlace
from ntk_dist.store.workspace import NAME_PATTERN
from ntk_dist.units import first_few, format_bytes
from ntk_dist.wire import JobState, Upload

__all__ = ["SCHEME", "NewUpload", "Uploads"]

log = logging.getLogger(__name__)

PART_BYTES = 8 * 2**20
"""Small enough that sending one again is nothing, large enough that 1 GB is 128 requests."""
KEPT = timedelta(hours=24)
"""An upload that is not complete by then is removed."""
SCHEME = "upload://"
_ID = re.compile(r"[0-9a-f]{32}")


class NewUpload(BaseModel):
    """A file that somebody is about to send."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    filename: str = Field(
        pattern=f"^{NAME_PATTERN}$", max_length=150, examples=["digits.npz", "train.csv.gz"]
    )
    """Its ending says what is in it."""
    n_bytes: int = Field(ge=1, le=2**50, examples=[1048576])
    sha256: str = Field(pattern="^[0-9a-f]{64}$", examples=[hashlib.sha256(b"").hexdigest()])
    """Of the whole file, in lower-case hexadecimal."""


class Uploads:
    """The uploads of one workspace; any number of threads and replicas may share them.

    Parameters
    ----------
    workspace
        Where they are kept.
    database
        Where uploads are listed.
    settings
        Limits.
    """

    def __init__(
        self, workspace: AbstractPlace, database: Database, settings: ServiceSettings
    ) -> None:
        self._workspace = workspace
        self._database = database
        self._max_bytes = settings.max_upload_bytes
        self._kept = timedelta(days=settings.upload_days)
        self._part_bytes = min(PART_BYTES, settings.max_body_bytes)

    def begin(self, announced: NewUpload, owner: str) -> Upload:
        """An upload of which nothing has arrived yet.

        Raises
        ------
        RequestTooLargeError, DiskBudgetError
            It is larger than a file may be, or than there is room for.
        """
        if announced.n_bytes > self._max_bytes:
            raise RequestTooLargeError(
                f"n_bytes: expected at most {format_bytes(self._max_bytes)}, got "
                f"{format_bytes(announced.n_bytes)}"
            )
        free = self._workspace.free_bytes()  # object storage does not say
        # Twice: the parts, and what they are put together to.
        if free is not None and 2 * announced.n_bytes > free:
            raise DiskBudgetError(
                f"expected a file of at most half the {format_bytes(free)} that are free in the "
                f"workspace, got {format_bytes(announced.n_bytes)}"
            )
        record = UploadRecord(
            id=secrets.token_hex(16),
            filename=announced.filename,
            n_bytes=announced.n_bytes,
            sha256=announced.sha256,
            part_bytes=self._part_bytes,
            owner=owner,
            created=datetime.now(UTC),
        )
        self._database.uploads.insert(record)
        return self._view(record)

    def get(self, upload_id: str) -> Upload:
        """How far an upload is.

        Raises
        ------
        UploadNotFoundError
            There is none of that id.
        """
        return self._view(self._record(upload_id))

    def owner_of(self, upload_id: str) -> str:
        """Name of the token that an upload was begun with; empty if none was asked for.

        Raises
        ------
        UploadNotFoundError
            There is none of that id.
        """
        return self._record(upload_id).owner

    def put_part(self, upload_id: str, number: int, sha256: str, content: bytes) -> Upload:
        """The upload with one more part; the same part again changes nothing.

        Raises
        ------
        UploadNotFoundError
            There is no such upload.
        ConflictError
            It is complete.
        RequestError
            It has no such part, or the part is of another length.
        ChecksumMismatchError
            The part arrived otherwise than it was sent.
        """
        record = self._record(upload_id)
        if record.completed is not None:
            raise ConflictError(f"upload {record.id} is complete; begin another one")
        n_parts = _n_parts(record)
        if number >= n_parts:
            raise RequestError(f"part: expected one of 0 to {n_parts - 1}, got {number}")
        expected = min(record.part_bytes, record.n_bytes - number * record.part_bytes)
        if len(content) != expected:
            raise RequestError(
                f"part {number}: expected {expected} bytes of {record.n_bytes}, got {len(content)}"
            )
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise ChecksumMismatchError(
                f"part {number}: expected SHA-256 {sha256}, got {found}; send it again"
            )
        (self._folder(record) / "parts" / str(number)).write_bytes(content)
        return self._view(record)

    def complete(self, upload_id: str) -> Upload:
        """The upload as a file that jobs can read; again changes nothing.

        Raises
        ------
        UploadNotFoundError
            There is no such upload.
        ConflictError
            Parts are missing; the message names them.
        ChecksumMismatchError
            The file is not the one that was announced.
        StoreFullError, StoreUnreachableError
            The workspace cannot be written.
        """
        record = self._record(upload_id)
        if record.completed is None:
            try:
                self._assemble(record)
            except (ConflictError, StoreError):
                # Somebody else may have completed it meanwhile, and tidied up after everybody.
                if self._record(upload_id).completed is None:
                    raise
            record = self._database.uploads.complete(record.id, datetime.now(UTC))
            self._tidy(record)
        return self._view(record)

    def delete(self, upload_id: str) -> None:
        """Forget an upload, and its file.

        Raises
        ------
        UploadNotFoundError
            There is no such upload.
        ConflictError
            A job that is not over reads it.
        """
        record = self._record(upload_id)
        prefix = f"{self._folder(record)}/"
        for job in self._database.jobs.in_state(JobState.QUEUED, JobState.RUNNING):
            if any(place.startswith(prefix) for place in _places(job.spec)):
                raise ConflictError(
                    f"upload {record.id} is read by job {job.id}, which is {job.state}: wait for "
                    "it, or cancel it first"
                )
        self._folder(record).delete()
        self._database.uploads.delete(record.id)

    def sweep(self, now: datetime) -> int:
        """Remove what was never completed, and what no job has read for long; how many that were.

        A job that is over may be resumed, or submitted again, and finds its data for as many days
        as an upload is kept without any.
        """
        return self._sweep_unfinished(now) + self._sweep_unread(now - self._kept)

    def _sweep_unfinished(self, now: datetime) -> int:
        old = self._database.uploads.unfinished(now - KEPT)
        for record in old:
            with suppress(UploadNotFoundError):
                self.delete(record.id)
        return len(old)

    def _sweep_unread(self, before: datetime) -> int:
        old = self._database.uploads.completed(before)
        jobs = self._database.jobs.alive_since(before) if old else []
        read = {place for job in jobs for place in _places(job.spec)}
        count = 0
        for record in old:
            prefix = f"{self._folder(record)}/"
            if any(place.startswith(prefix) for place in read):
                continue
            # Another replica may be faster, and so may a job.
            with suppress(UploadNotFoundError, ConflictError):
                self.delete(record.id)
                count += 1
        return count

    def place(self, name: str) -> str:
        """The path or address that ``upload://ID``, or ``upload://ID:array``, means to a driver.

        Raises
        ------
        UploadNotFoundError
            There is no such upload.
        ConflictError
            It is not complete.
        """
        upload_id, colon, array = name.removeprefix(SCHEME).partition(":")
        record = self._record(upload_id)
        if record.completed is None:
            raise ConflictError(f"{SCHEME}{record.id}: expected a complete upload; complete it")
        return f"{self._file(record)}{colon}{array}"

    def _record(self, upload_id: str) -> UploadRecord:
        if not _ID.fullmatch(upload_id):
            raise UploadNotFoundError(f"expected the id of an upload, got {upload_id!r}")
        return self._database.uploads.get(upload_id)

    def _view(self, record: UploadRecord) -> Upload:
        done = record.completed is not None
        received = range(_n_parts(record)) if done else self._received(record)
        return Upload(
            id=record.id,
            filename=record.filename,
            n_bytes=record.n_bytes,
            sha256=record.sha256,
            part_bytes=record.part_bytes,
            received=tuple(received),
            is_complete=done,
            place=f"{SCHEME}{record.id}",
            created=record.created,
        )

    def _received(self, record: UploadRecord) -> list[int]:
        names = (self._folder(record) / "parts").names()
        return sorted(int(name) for name in names if name.isdecimal())

    def _assemble(self, record: UploadRecord) -> None:
        missing = sorted(set(range(_n_parts(record))) - set(self._received(record)))
        if missing:
            raise ConflictError(
                f"upload {record.id}: expected all {_n_parts(record)} parts, got all but "
                f"{first_few(missing)}; send those"
            )
        self._file(record).write_pieces(self._checked(record), record.n_bytes)

    def _checked(self, record: UploadRecord) -> Iterator[bytes]:
        """All parts; the last one only if all of them together are what was announced."""
        whole, last = hashlib.sha256(), _n_parts(record) - 1
        for number in range(last + 1):
            try:
                part = (self._folder(record) / "parts" / str(number)).read_bytes()
            except FileNotFoundError as error:
                raise ConflictError(
                    f"upload {record.id}: its parts were removed; begin again"
                ) from error
            whole.update(part)
            if number == last and (found := whole.hexdigest()) != record.sha256:
                raise ChecksumMismatchError(
                    f"upload {record.id}: expected SHA-256 {record.sha256} of the whole file, got "
                    f"{found}; send the parts again that are wrong, or begin again"
                )
            yield part

    def _tidy(self, record: UploadRecord) -> None:
        """Remove the parts, and what others left who did not come to the end of putting them."""
        file = self._folder(record) / "file"
        with suppress(StoreError):  # it is there, and that is what counts
            (self._folder(record) / "parts").delete()
            for name in file.names():
                if name != record.filename:
                    (file / name).delete()

    def _folder(self, record: UploadRecord) -> AbstractPlace:
        return self._workspace / "uploads" / record.id

    def _file(self, record: UploadRecord) -> AbstractPlace:
        return self._folder(record) / "file" / record.filename


def _n_parts(record: UploadRecord) -> int:
    return math.ceil(record.n_bytes / record.part_bytes)


def _places(spec: dict[str, object]) -> list[str]:
    """Where a job reads its data."""
    groups = (spec.get("data"), spec.get("test"))
    return [str(place) for group in groups if isinstance(group, dict) for place in group.values()]
