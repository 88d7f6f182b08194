"""Bringing a database to the tables of this version, with Alembic."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from ntk_dist.database.connection import Connector
from ntk_dist.database.tables import VERSION_TABLE
from ntk_dist.errors import StoreError

__all__ = ["Revisions", "upgrade"]

LOCK = 0x6E746B5F64697374
"""Held by whoever upgrades: "ntk_dist" in ASCII, any other number would do."""

_one_at_a_time = threading.Lock()
"""Alembic hands the connection to the migrations through a global of the process."""


class Revisions(NamedTuple):
    """Of the tables of one database."""

    before: str | None
    """What was found; None where there were no tables."""
    after: str
    """That of this version of the package."""


def upgrade(connector: Connector) -> Revisions:
    """Run the migrations that the database has not seen; all of them or none.

    Services that start at once upgrade one after the other, and the later find nothing to do.

    Raises
    ------
    StoreError
        A later version of this package has changed the tables.
    StoreUnreachableError
        The database does not answer.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    with connector.connect() as connection:
        revisions = _revisions(connection, scripts, connector.place)
        if revisions.before == revisions.after:
            return revisions
        if connector.is_sqlite:
            # Readers go on while one writes; the file remembers it.
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    with _one_at_a_time, connector.alone(LOCK) as connection:
        revisions = _revisions(connection, scripts, connector.place)
        if revisions.before != revisions.after:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return revisions


def _revisions(connection: Connection, scripts: ScriptDirectory, place: str) -> Revisions:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found, head = context.get_current_revision(), scripts.get_current_head()
    assert head is not None, "there is a first migration"
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"database {place}: expected tables of version {head} at most, got version {found}, "
            "which a later ntk_dist has made: install that one, or use another database"
        )
    return Revisions(found, head)
