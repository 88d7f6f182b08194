"""The tables of tokens and of uploads, on both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ntk_dist.database import TokenRecord, UploadRecord
from ntk_dist.errors import NotFoundError, UploadNotFoundError

HOUR = timedelta(hours=1)


@pytest.fixture
def token(moment):
    return TokenRecord(
        id="a1",
        name="anna",
        secret_sha256="0" * 64,
        scopes=("read", "submit"),
        created=moment,
        expires=moment + HOUR,
    )


@pytest.fixture
def upload(moment):
    return UploadRecord(
        id="u1",
        filename="x.npy",
        n_bytes=5 * 2**40,
        sha256="0" * 64,
        part_bytes=2**33,
        owner="anna",
        created=moment,
    )


def test_a_token_comes_back_as_it_was(database, token):
    database.tokens.insert(token)
    assert database.tokens.get("a1") == token
    assert database.tokens.get("a2") is None
    assert database.tokens.all() == [token]


def test_a_token_is_revoked_once(database, token, moment):
    database.tokens.insert(token)
    assert database.tokens.revoke("a1", moment).revoked == moment
    assert database.tokens.revoke("a1", moment + HOUR).revoked == moment
    assert database.tokens.get("a1").revoked == moment
    with pytest.raises(NotFoundError, match="expected the id of a token, got 'a2'"):
        database.tokens.revoke("a2", moment)


def test_an_upload_is_completed_once(database, upload, moment):
    database.uploads.insert(upload)
    assert database.uploads.get("u1") == upload
    assert database.uploads.complete("u1", moment).completed == moment
    assert database.uploads.complete("u1", moment + HOUR).completed == moment
    with pytest.raises(UploadNotFoundError, match="got 'u2', which is none"):
        database.uploads.complete("u2", moment)


def test_an_upload_is_forgotten(database, upload):
    database.uploads.insert(upload)
    assert database.uploads.delete("u1")
    assert not database.uploads.delete("u1")
    with pytest.raises(UploadNotFoundError):
        database.uploads.get("u1")


def test_old_uploads_that_were_not_completed_are_found(database, upload, moment):
    for k, (hours, completed) in enumerate([(3, None), (1, None), (2, moment), (0, None)]):
        made = replace(upload, id=f"u{k}", created=moment - hours * HOUR, completed=completed)
        database.uploads.insert(made)
    assert [found.id for found in database.uploads.unfinished(moment - HOUR / 2)] == ["u0", "u1"]


def test_uploads_that_are_complete_for_long_are_found(database, upload, moment):
    for k, hours in enumerate([1, 3, None, 2]):
        completed = None if hours is None else moment - hours * HOUR
        database.uploads.insert(replace(upload, id=f"u{k}", completed=completed))
    assert [found.id for found in database.uploads.completed(moment - 1.5 * HOUR)] == ["u1", "u3"]
