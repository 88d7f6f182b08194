"""Connections to SQLite or PostgreSQL, and their refusals in our words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ntk_dist.errors import (
    MissingDependencyError,
    RequestError,
    SettingsError,
    StoreFullError,
    StoreUnreachableError,
)
from ntk_dist.store.place import refusals
from ntk_dist.wire import to_json

__all__ = ["Connector"]

WAIT_S = 15
"""How long a connection, or a lock that somebody else holds, is waited for. Every statement takes
milliseconds; only an upgrade of a large database takes longer, and then the caller is told."""
EXPECTED = (
    "expected sqlite:////absolute/path.db or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"
)


class Connector:
    """Where connections come from: each statement is a transaction of its own, or all together.

    Parameters
    ----------
    url
        As for :func:`~ntk_dist.database.open_database`.
    """

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        told = {key: self._url.query[key] for key in ("host", "port") if key in self._url.query}
        self.place = self._url.set(query=told).render_as_string(hide_password=True)
        """The URL without what may be secret."""
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        try:
            self.engine = create_engine(
                self._url,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,  # an error would quote a job, or the hash of a token
                json_serializer=_json_text,
                # A server that was started again has closed every connection of before.
                pool_pre_ping=not self.is_sqlite,
                pool_timeout=WAIT_S,
                connect_args={"timeout": WAIT_S} if self.is_sqlite else {"connect_timeout": WAIT_S},
            )
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.place} needs a library that is not installed ({error.name}): "
                "pip install 'ntk_dist[postgresql]'"
            ) from error
        if self.is_sqlite:
            _prepare(self._url)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection for the body.

        Raises
        ------
        StoreFullError
            No space is left for what is to be written.
        StoreUnreachableError
            The database does not answer, or refuses.
        RequestError
            No column can hold a value; it is not quoted.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except IntegrityError:
            raise  # that is an answer, and whoever asked knows what it means
        except (DataError, OverflowError, UnicodeEncodeError) as error:
            # PostgreSQL keeps no NUL, neither keeps half a surrogate pair or 65 bits of an integer.
            raise RequestError(
                f"expected text and numbers that a database can keep, got: {_first_line(error)}"
            ) from error
        except (DBAPIError, PoolTimeoutError) as error:
            cause = getattr(error, "orig", None) or error
            if _is_full(cause):
                raise StoreFullError(
                    f"no space is left for the database {self.place} ({_first_line(cause)}); what "
                    "was written before is kept: free some space and do the same again"
                ) from error
            raise StoreUnreachableError(
                f"expected an answer of the database {self.place}, got: {_first_line(cause)}; "
                "check that it runs and that this user may read and write it"
            ) from error
        except StatementError as error:  # a value that is no column's: a defect of the caller
            raise (error.orig or error) from None

    @contextmanager
    def alone(self, lock: int) -> Iterator[Connection]:
        """A connection for the body, all of it one transaction; nothing stays if it raises.

        Parameters
        ----------
        lock
            Key of PostgreSQL's advisory lock: every other body of that key waits outside. SQLite
            keeps everybody out who writes. A process that is killed holds neither any more.

        Raises
        ------
        StoreFullError, StoreUnreachableError, RequestError
            As for :meth:`connect`.
        """
        with self.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="READ COMMITTED")
                with connection.begin():
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")
                    yield connection
                return
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with suppress(DBAPIError):  # on a full disk SQLite has done it by itself
                    connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
        backend = url.get_backend_name()
        if backend in {"postgres", "postgresql"}:
            # SQLAlchemy would take whichever driver is its default in this version.
            return url.set(drivername="postgresql+psycopg")
    except (ArgumentError, NoSuchModuleError, ValueError):
        # What was given is not quoted: it may hold a password.
        raise SettingsError(f"database: {EXPECTED}, got something else") from None
    if backend != "sqlite":
        raise SettingsError(f"database: {EXPECTED}, got one that begins with {backend!r}")
    if url.database in {None, "", ":memory:"} or url.query:
        raise SettingsError(
            f"database: {EXPECTED}, got SQLite without a file, or with something behind a question "
            "mark"
        )
    return url.set(drivername="sqlite+pysqlite")


def _prepare(url: URL) -> None:
    """A file that only this user can read; those that SQLite puts beside it are made alike."""
    path = Path(url.database or "")
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)


def _json_text(value: object) -> str:
    return json.dumps(to_json(value), allow_nan=False)


def _is_full(cause: BaseException) -> bool:
    code = getattr(cause, "sqlite_errorcode", None)
    # The low byte is the kind of an error of SQLite; 53100 is disk_full in PostgreSQL's appendix A.
    is_sqlite_full = code is not None and code & 0xFF == sqlite3.SQLITE_FULL
    return is_sqlite_full or getattr(cause, "sqlstate", None) == "53100"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
