"""The tables of a database: made, kept, and refused where they are of a later version."""

import re
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ntk_dist.database import TokenRecord, open_database
from ntk_dist.database.connection import Connector
from ntk_dist.database.tables import METADATA, VERSION_TABLE
from ntk_dist.errors import StoreError, StoreUnreachableError
from ntk_dist.jobs.queue import utc_now

HEAD = "0001"


def names(connector):
    with connector.connect() as connection:
        return set(connector.engine.dialect.get_table_names(connection))


def test_migrations_lead_to_the_tables_of_this_version(database_url):
    open_database(database_url).close()
    connector = Connector(database_url)
    with connector.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": VERSION_TABLE}
        )
        assert compare_metadata(context, METADATA) == []
    assert names(connector) == {*METADATA.tables, VERSION_TABLE}
    connector.close()


def test_the_revisions_before_and_after_are_told(database_url):
    with open_database(database_url) as database:
        assert database.revisions == (None, HEAD)
    with open_database(database_url) as database:
        assert database.revisions == (HEAD, HEAD)


def test_opening_again_keeps_what_is_there(database_url):
    token = TokenRecord(
        id="a1", name="anna", secret_sha256="0" * 64, scopes=("read",), created=utc_now()
    )
    with open_database(database_url) as database:
        database.tokens.insert(token)
    with open_database(database_url) as database:
        assert database.tokens.all() == [token]


def test_services_that_start_at_once_upgrade_once(database_url):
    script = (
        "import sys; from ntk_dist.database import open_database; print('ready', flush=True); "
        f"input(); open_database({database_url!r}).jobs.counts()"
    )
    services = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for service in services:
            assert service.stdout.readline() == "ready\n"
        told = [service.communicate("go\n", timeout=60)[1] for service in services[::-1]]
    finally:
        for service in services:
            service.kill()
            service.wait()
    assert [service.returncode for service in services] == [0] * 3, told


def test_tables_of_a_later_version_are_left_alone(database_url):
    open_database(database_url).close()
    connector = Connector(database_url)
    with connector.connect() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connector.close()
    expected = f"version {HEAD} at most, got version 9999, which a later ntk_dist has made"
    with pytest.raises(StoreError, match=re.escape(expected)):
        open_database(database_url)


def test_an_upgrade_that_fails_changes_nothing(database_url):
    connector = Connector(database_url)
    with connector.connect() as connection:  # the last that the first migration makes
        connection.exec_driver_sql("CREATE TABLE ntk_dist_uploads (id INTEGER)")
    with pytest.raises(StoreUnreachableError, match="ntk_dist_uploads"):
        open_database(database_url)
    assert names(connector) <= {"ntk_dist_uploads", VERSION_TABLE}
    with connector.connect() as connection:
        connection.exec_driver_sql("DROP TABLE ntk_dist_uploads")
    open_database(database_url).close()
    assert names(connector) == {*METADATA.tables, VERSION_TABLE}
    connector.close()
