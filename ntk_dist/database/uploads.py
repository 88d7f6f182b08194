"""Uploads in the database; their parts are files in the workspace."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, insert, select, update

from ntk_dist.database.records import UploadRecord
from ntk_dist.database.rows import Rows
from ntk_dist.database.tables import UPLOADS
from ntk_dist.errors import UploadNotFoundError

__all__ = ["Uploads"]


class Uploads(Rows[UploadRecord]):
    """The table of uploads."""

    _table, _kind = UPLOADS, UploadRecord

    def insert(self, record: UploadRecord) -> None:
        """Note that a file was announced."""
        with self._connector.connect() as connection:
            connection.execute(insert(UPLOADS).values(self._row(record)))

    def get(self, upload_id: str) -> UploadRecord:
        """One upload.

        Raises
        ------
        UploadNotFoundError
            There is none of that id.
        """
        found = self._one(upload_id)
        if found is None:
            raise UploadNotFoundError(
                f"expected the id of an upload, got {upload_id!r}, which is none (one that is "
                "not completed in time, or not read for long, is removed); begin again"
            )
        return found

    def complete(self, upload_id: str, now: datetime) -> UploadRecord:
        """The upload, whole since ``now``; completing it again changes nothing.

        Raises
        ------
        UploadNotFoundError
            There is none of that id.
        """
        is_it = (UPLOADS.c.id == upload_id) & UPLOADS.c.completed.is_(None)
        with self._connector.connect() as connection:
            connection.execute(update(UPLOADS).where(is_it).values(completed=now))
        return self.get(upload_id)

    def delete(self, upload_id: str) -> bool:
        """Forget an upload; False if there is none of that id."""
        with self._connector.connect() as connection:
            done = connection.execute(delete(UPLOADS).where(UPLOADS.c.id == upload_id))
            return done.rowcount == 1

    def unfinished(self, before: datetime) -> list[UploadRecord]:
        """Uploads that were announced before a moment and never completed, the oldest first."""
        wanted = (UPLOADS.c.created < before) & UPLOADS.c.completed.is_(None)
        return self._all(select(UPLOADS).where(wanted).order_by(UPLOADS.c.created))

    def completed(self, before: datetime) -> list[UploadRecord]:
        """Uploads that were whole before a moment, the oldest first."""
        wanted = UPLOADS.c.completed < before
        return self._all(select(UPLOADS).where(wanted).order_by(UPLOADS.c.completed))
