"""The tables of this version; :mod:`.rows` says how a record becomes a row of one.

Alembic's migrations are what makes them in a database; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)

__all__ = ["JOBS", "METADATA", "TOKENS", "UPLOADS", "VERSION_TABLE"]

METADATA = MetaData()
VERSION_TABLE = "ntk_dist_schema"
"""Where Alembic notes which migration was the last."""


class Moment(TypeDecorator[datetime]):
    """A moment in UTC; SQLite knows no time zones and keeps the fields of the date."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The same moment in UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"expected a time with its time zone, got {value}")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The moment, with its time zone again."""
        if value is None or value.tzinfo is not None:
            return None if value is None else value.astimezone(UTC)
        return value.replace(tzinfo=UTC)


PLAIN = JSON(none_as_null=True)
"""JSON as text: PostgreSQL's other kind, JSONB, refuses some strings that are fine here."""

JOBS = Table(
    "ntk_dist_jobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("spec", PLAIN, nullable=False),
    Column("state", String(16), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("resumes", Integer, nullable=False),
    Column("owner", String(200), nullable=False),
    Column("idempotency_key", String(200)),
    Column("body_sha256", String(64), nullable=False),
    Column("launcher", String(16), nullable=False),
    Column("run", String(64)),
    Column("handle", PLAIN, nullable=False),
    Column("is_cancelling", Boolean, nullable=False),
    Column("lease_holder", String(200)),
    Column("lease_until", Moment),
    Column("created", Moment, nullable=False),
    Column("updated", Moment, nullable=False),
    Column("started", Moment),
    Column("finished", Moment),
    Column("failure", PLAIN),
    Column("model_version", Integer),
    Column("score", Float),
    Column("report", PLAIN),
    # Of two requests with one key that come at once, the database lets one in.
    UniqueConstraint("owner", "idempotency_key", name="ntk_dist_jobs_by_key"),
    Index("ntk_dist_jobs_by_state", "state", "id"),
    Index("ntk_dist_jobs_by_name", "name", "id"),
)

TOKENS = Table(
    "ntk_dist_tokens",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("scopes", PLAIN, nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment),
    Column("revoked", Moment),
)

UPLOADS = Table(
    "ntk_dist_uploads",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("filename", String(255), nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("part_bytes", BigInteger, nullable=False),
    Column("owner", String(200), nullable=False),
    Column("created", Moment, nullable=False),
    Column("completed", Moment),
    Index("ntk_dist_uploads_by_created", "created"),
)
