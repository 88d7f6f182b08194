"""Opening a database: what is refused, what is told of it, and what is never told."""

import sqlite3
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import replace

import pytest
from pydantic import SecretStr
from required import require
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from ntk_dist.database import TokenRecord, connection, database_url, open_database
from ntk_dist.errors import (
    JobNotFoundError,
    MissingDependencyError,
    RequestError,
    SettingsError,
    StoreFullError,
    StoreUnreachableError,
)

PASSWORD = "sentinel-of-the-password"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"{PASSWORD}@host", "got something else"),
        ("", "got something else"),
        (f"postgresql://u:{PASSWORD}@host:a-port/db", "got something else"),
        (f"mysql://u:{PASSWORD}@host/db", "got one that begins with 'mysql'"),
        ("sqlite://", "got SQLite without a file"),
        ("sqlite:///:memory:", "got SQLite without a file"),
        ("sqlite:////tmp/a?mode=memory", "something behind a question mark"),
    ],
)
def test_urls_that_are_none_are_refused_without_being_quoted(url, why):
    with pytest.raises(SettingsError, match=why) as caught:
        open_database(url)
    assert "expected sqlite:////absolute/path.db or postgresql+psycopg://" in str(caught.value)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_server_that_does_not_answer_is_named_without_the_password(scheme):
    require("postgresql")
    url = f"{scheme}://anna:{PASSWORD}@127.0.0.1:1/jobs?sslpassword={PASSWORD}"
    with pytest.raises(StoreUnreachableError, match="refused") as caught:
        open_database(url)
    assert "postgresql+psycopg://anna:***@127.0.0.1:1/jobs" in str(caught.value)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_no_record_is_quoted_by_an_error(database, new_record):
    database.jobs.insert(new_record(1))
    with database._connector.connect() as opened:
        opened.exec_driver_sql("DROP TABLE ntk_dist_jobs")
    with pytest.raises(StoreUnreachableError, match="ntk_dist_jobs") as caught:
        database.jobs.insert(new_record(2, idempotency_key=PASSWORD))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_connections_that_the_server_closed_are_made_again(postgresql):
    with open_database(postgresql.new_database()) as database:
        database.ping()
        with database._connector.connect() as opened:
            opened.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = current_user AND pid <> pg_backend_pid()"
            )
        barrier = threading.Barrier(2)

        def end_own():
            with pytest.raises(StoreUnreachableError), database._connector.connect() as opened:
                opened.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
            barrier.wait(10)

        thread = threading.Thread(target=end_own)
        thread.start()
        barrier.wait(10)
        thread.join()
        database.ping()
        assert repr(database).startswith("Database('postgresql+psycopg://tester@/postgres?host=")


def test_readers_do_not_wait_for_a_writer_and_writers_say_that_they_did(
    tmp_path, monkeypatch, new_record
):
    monkeypatch.setattr(connection, "WAIT_S", 0.1)
    path = tmp_path / "state.db"
    with open_database(f"sqlite:///{path}") as database:
        database.jobs.insert(new_record(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert database.jobs.get(new_record(1).id) == new_record(1)
        with pytest.raises(StoreUnreachableError, match="database is locked"):
            database.jobs.insert(new_record(2))
        other.execute("ROLLBACK")
        other.close()
        changed = replace(new_record(1), revision=8)
        assert database.jobs.swap(new_record(1), changed)


def test_a_full_disk_is_told_as_one(tmp_path, new_record):
    with open_database(f"sqlite:///{tmp_path / 'state.db'}") as database:
        database.jobs.insert(new_record(1))

        @event.listens_for(database._connector.engine, "checkout")
        def fill(opened, *_):
            opened.execute("PRAGMA max_page_count = 1")  # as many pages as there are

        large = new_record(2, spec={"text": "x" * 100_000})
        with pytest.raises(StoreFullError, match=r"state\.db \(database or disk is full\)") as full:
            database.jobs.insert(large)
        assert "free some space" in str(full.value)
        assert "this user may" not in str(full.value)
        with pytest.raises(StoreFullError), database._connector.alone(7) as together:
            together.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(100000)")
        assert database.jobs.get(new_record(1).id) == new_record(1)
        event.remove(database._connector.engine, "checkout", fill)
        with database._connector.connect() as opened:
            opened.exec_driver_sql("PRAGMA max_page_count = 100000")
        database.jobs.insert(large)
        assert database.jobs.get(large.id) == large


def test_a_full_disk_of_a_server_is_told_as_one(tmp_path):
    class DiskFull(Exception):
        sqlstate = "53100"

    refused = OperationalError("INSERT", {}, DiskFull("could not extend file"))
    with (
        open_database(f"sqlite:///{tmp_path / 'state.db'}") as database,
        pytest.raises(StoreFullError, match="could not extend file"),
        database._connector.connect(),
    ):
        raise refused


def test_the_file_is_made_and_only_its_owner_reads_it(tmp_path):
    workspace = tmp_path / "what? a workspace %20"
    with open_database(database_url(workspace)) as database:
        database.ping()
        folder = workspace / "service"
        assert {path.name for path in folder.iterdir()} >= {"state.db"}
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_place_that_cannot_hold_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnreachableError, match="expected to read and write"):
        open_database(f"sqlite:///{tmp_path / 'file' / 'state.db'}")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreUnreachableError, match="unable to open database file"):
        open_database(f"sqlite:///{tmp_path / 'folder'}")
    (tmp_path / "text").write_text("no database, but long enough to be looked at as one" * 10)
    with pytest.raises(StoreUnreachableError, match="not a database"):
        open_database(f"sqlite:///{tmp_path / 'text'}")


def test_a_workspace_in_object_storage_needs_a_database_elsewhere():
    require("s3")
    given = SecretStr("postgresql://u:p@host/jobs")
    assert database_url("s3://bucket/ws", given) == "postgresql://u:p@host/jobs"
    with pytest.raises(SettingsError, match="set NTK_DIST_SERVICE__DATABASE_URL"):
        database_url("s3://bucket/ws")


def test_missing_libraries_are_named_with_their_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ntk_dist.database.opened", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ntk_dist\[service\]'"):
        open_database(f"sqlite:///{tmp_path / 'state.db'}")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ntk_dist\[postgresql\]'"):
        open_database("postgresql://host/jobs")


def test_records_are_read_without_sqlalchemy():
    script = (
        "import sys, ntk_dist.database, ntk_dist.jobs.lifecycle, ntk_dist.jobs.queue; "
        "print('sqlalchemy' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout == "False\n"


@pytest.mark.parametrize("text", ["job\0", "job\ud800", "j" * 300])
def test_what_no_column_can_hold_is_asked_for_in_vain(database, text):
    refused = (JobNotFoundError, RequestError)
    with pytest.raises(refused):
        database.jobs.get(text)
    with pytest.raises(RequestError) if "\ud800" in text else suppress(RequestError):
        assert database.jobs.by_key(text, text) is None
        assert database.jobs.page(name=text) == []


def test_what_no_column_can_hold_is_refused_and_not_quoted(database, new_record):
    for changes in ({"attempt": 2**70}, {"name": f"{PASSWORD}\ud800"}):
        with pytest.raises(RequestError, match="that a database can keep") as caught:
            database.jobs.insert(new_record(1, **changes))
        assert PASSWORD not in str(caught.value)
    assert database.jobs.page() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "n" * 101}, "name: expected at most 100 characters, got 101"),
        ({"owner": "o" * 201}, "owner: expected at most 200 characters, got 201"),
        ({"lease_holder": "a\0b"}, "lease_holder: expected text without the character NUL"),
        ({"attempt": 2**31}, "attempt: expected a number of 31 bits that a database can keep"),
        ({"model_version": -(2**40)}, "model_version: expected a number of 31 bits"),
    ],
)
def test_both_databases_refuse_what_one_of_them_cannot_keep(database, new_record, changes, told):
    kept = new_record(1)
    database.jobs.insert(kept)
    with pytest.raises(RequestError, match=told):
        database.jobs.insert(new_record(2, **changes))
    with pytest.raises(RequestError, match=told):
        database.jobs.swap(kept, replace(kept, revision=8, **changes))
    assert database.jobs.page() == [kept]


def test_columns_are_filled_to_the_last_character(database, new_record, moment):
    full = new_record(1, name="é" * 100, owner="\U0001f600" * 200, attempt=2**31 - 1)
    database.jobs.insert(full)
    assert database.jobs.get(full.id) == full
    token = TokenRecord(
        id="a1", name="n" * 200, secret_sha256="0" * 64, scopes=("read",), created=moment
    )
    database.tokens.insert(token)
    with pytest.raises(RequestError, match="name: expected at most 200 characters, got 201"):
        database.tokens.insert(replace(token, id="a2", name="n" * 201))
    assert database.tokens.all() == [token]
