"""Tokens that were made elsewhere: made good, rotated, and refused, on both databases."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from ntk_dist import cli
from ntk_dist.database import open_database
from ntk_dist.errors import ConflictError, InvalidInputError
from ntk_dist.service.adoption import adopt
from ntk_dist.service.tokens import new_token, require_valid, token_id_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def tokens(database_url):
    with open_database(database_url) as database:
        yield database.tokens


def made(name="bootstrap"):
    return new_token(name, ["admin"], NOW)[0]


def test_a_token_is_adopted_once(tokens):
    text = made()
    first = adopt(tokens, text, name="bootstrap", scopes=["admin"], now=NOW)
    assert (first.is_new, first.revoked) == (True, ())
    kept = tokens.get(token_id_of(text))
    assert first.record == kept == require_valid(text, kept, NOW + HOUR)
    again = adopt(tokens, text, name="bootstrap", scopes=["admin"], now=NOW + HOUR)
    assert (again.is_new, again.revoked, again.record) == (False, (), kept)
    assert tokens.all() == [kept]
    assert text[-43:] not in repr(kept)


def test_the_next_one_ends_those_before_it_and_nobody_elses(tokens):
    theirs = [new_token(name, ["read"], NOW)[1] for name in ("bootstrap", "anna")]
    for record in theirs:
        tokens.insert(record)
    first, second = made(), made()
    old = adopt(tokens, first, name="bootstrap", scopes=["admin"], now=NOW)
    assert old.revoked == (theirs[0].id,)
    new = adopt(tokens, second, name="bootstrap", scopes=["admin"], now=NOW + HOUR)
    assert new.revoked == (token_id_of(first),)
    revoked = {record.id: record.revoked for record in tokens.all()}
    assert revoked == {
        theirs[0].id: NOW,
        theirs[1].id: None,
        token_id_of(first): NOW + HOUR,
        token_id_of(second): None,
    }


def test_what_it_is_good_for_is_said_anew(tokens):
    text = made()
    adopt(tokens, text, name="bootstrap", scopes=["admin"], now=NOW)
    found = adopt(tokens, text, name="bootstrap", scopes=["read", "predict", "read"], now=NOW)
    assert found.record.scopes == ("predict", "read")
    assert tokens.get(found.record.id) == found.record


def test_replicas_that_start_at_once_adopt_one(tokens):
    text, barrier = made(), Barrier(4)

    def start(_):
        barrier.wait(30)
        return adopt(tokens, text, name="bootstrap", scopes=["admin"], now=NOW)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(start, range(4)))
    assert {each.record for each in found} == set(tokens.all())
    assert not any(each.revoked for each in found)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "got nothing"),
        ("hunter2-hunter2", r"got 15 characters \(a token has 61\) that do not begin with 'ntkd_'"),
        ("ntkd_hunter2", r"got 12 characters \(a token has 61\) that begin with 'ntkd_'"),
        ("ntkd_0123456789ab_" + "hunter2" * 6, "got 60 characters"),
        ("ntkd_0123456789AB_" + "hunter2" * 6 + "x", "got 61 characters"),
    ],
)
def test_what_is_no_token_is_refused_without_being_quoted(tokens, text, got):
    with pytest.raises(InvalidInputError, match=f"expected a token, 'ntkd_', .*{got}") as caught:
        adopt(tokens, text, name="bootstrap", scopes=["admin"], now=NOW)
    assert "hunter2" not in str(caught.value)
    assert tokens.all() == []


def test_a_token_of_somebody_else_or_one_that_has_ended_is_refused(tokens):
    text, record = new_token("anna", ["read"], NOW, HOUR)
    tokens.insert(record)
    other_secret = f"{text[:-1]}{'A' if text[-1] != 'A' else 'B'}"
    refused = [
        (other_secret, "anna", NOW, "known here with another secret"),
        (text, "bootstrap", NOW, "known here as that of 'anna'"),
        (text, "anna", NOW + HOUR, "known here as expired on 2026-03-01 13:00 UTC"),
    ]
    for given, name, now, told in refused:
        with pytest.raises(ConflictError, match=told) as caught:
            adopt(tokens, given, name=name, scopes=["admin"], now=now)
        assert text[-43:-1] not in str(caught.value)
    assert tokens.all() == [record]
    tokens.revoke(record.id, NOW)
    with pytest.raises(ConflictError, match="known here as revoked on 2026-03-01 12:00 UTC"):
        adopt(tokens, text, name="anna", scopes=["read"], now=NOW)


@pytest.mark.parametrize("name", ["", "@desk", "boot\nstrap"])
def test_a_name_that_is_none_is_refused(tokens, name):
    with pytest.raises(InvalidInputError, match="name of a token"):
        adopt(tokens, made(), name=name, scopes=["admin"], now=NOW)
    assert tokens.all() == []


def test_the_command_takes_it_from_the_environment(database_url, monkeypatch, capsys):
    command = ["token", "adopt", "--name", "bootstrap", "--scope", "admin"]
    command += ["--database", database_url]

    def run(*options):
        code = cli.run([*command, *options])
        told = capsys.readouterr()
        return code, told.out + told.err

    code, told = run()
    assert (code, "got nothing" in told) == (2, True), told
    first, second = made(), made()
    monkeypatch.setenv("NTK_DIST_TOKEN", f"{first}\n")  # as a Secret made from a file has it
    id = token_id_of(first)
    assert run() == (0, f"token {id} of bootstrap is good from now on, for admin\n")
    assert run() == (0, f"token {id} of bootstrap was known already, for admin\n")
    monkeypatch.setenv("NTK_DIST_TOKEN", second)
    code, told = run("--json")
    document = json.loads(told)
    assert (code, document["is_new"], document["revoked_ids"]) == (0, True, [id])
    assert (document["id"], document["scopes"]) == (token_id_of(second), ["admin"])
    assert "secret_sha256" not in document
    assert second not in told
