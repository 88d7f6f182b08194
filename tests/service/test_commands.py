"""``ntk-dist serve`` and ``ntk-dist token``, as far as no server runs."""

import json
import socket

import pytest

from ntk_dist import cli
from ntk_dist.service.tokens import require_valid, token_id_of


@pytest.fixture
def run(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return code, told.out.strip(), told.err.strip()

    return run


def test_a_token_from_its_making_to_its_end(run, tmp_path):
    here = ["--workspace", tmp_path]
    code, text, _ = run(
        "token", "create", "--name", "anna", "--scope", "read", "--scope", "predict", *here
    )
    assert code == 0
    token_id = token_id_of(text)
    for_a_week = run("token", "create", "--scope", "admin", "--days", "7", "--json", *here)
    made = json.loads(for_a_week[1])
    assert token_id_of(made["token"]) == made["id"]
    assert made["expires"] is not None
    listed = run("token", "list", *here)[1]
    assert f"{token_id}  anna" in listed
    assert "predict,read" in listed
    assert text not in listed
    records = json.loads(run("token", "list", "--json", *here)[1])
    assert {record["id"] for record in records} == {token_id, made["id"]}
    assert not any("secret" in key for record in records for key in record)
    assert run("token", "revoke", token_id, *here)[1] == f"token {token_id} of anna is revoked"
    assert "revoked 2" in run("token", "list", *here)[1]
    code, _, told = run("token", "revoke", "nobody", *here)
    assert code == 2
    assert "expected the id of a token, got 'nobody'" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--days", "99999999999"], "99999999999 is not in the range 1<=x<=36500"),
        (["--name", "anna\nbert"], r"got 'anna\nbert'"),
        (["--name", "anna\x1b[2J"], "without control characters"),
        (["--name", ""], "expected some text"),
        (["--name", "  "], "expected some text"),
        (["--name", "@desk"], "not beginning with '@', got '@desk'"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(run, tmp_path, options, words):
    code, _, told = run("token", "create", "--scope", "read", *options, "--workspace", tmp_path)
    assert (code, len(told.strip().splitlines())) == (2, 1), told
    assert words in told
    assert run("token", "list", "--workspace", tmp_path)[1] == "no tokens"


@pytest.mark.parametrize("command", [["list"], ["revoke", "a1"]])
def test_a_mistyped_workspace_is_not_made(run, tmp_path, command):
    code, _, told = run("token", *command, "--workspace", tmp_path / "wss")
    assert code == 2
    assert f"expected a workspace, got {tmp_path / 'wss'}, where there is none" in told
    assert not list(tmp_path.iterdir())
    here = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    assert (
        run("token", "list", "--workspace", tmp_path / "wss", "--database", here)[1] == "no tokens"
    )


def test_where_a_token_is_kept_is_said_beside_it(run, tmp_path):
    code, text, told = run("token", "create", "--scope", "read", "--workspace", tmp_path / "ws")
    place = told.removeprefix("good for services on ")
    assert (code, place.endswith(f"{tmp_path}/ws/service/state.db")) == (0, True)
    assert token_id_of(text)
    made = run("token", "create", "--scope", "read", "--workspace", tmp_path / "ws", "--json")
    assert json.loads(made[1])["database"] == place


def test_tables_are_made_before_the_service_starts(run, database_url):
    code, told, _ = run("database", "upgrade", "--database", database_url, "--json")
    made = json.loads(told)
    assert (code, made["before"], made["after"]) == (0, None, "0001")
    code, told, _ = run("database", "upgrade", "--database", database_url)
    assert (code, told) == (0, f"database {made['database']}: revision 0001 already")


def test_tables_are_those_of_the_workspace_unless_told_otherwise(run, tmp_path):
    code, told, _ = run("database", "upgrade", "--workspace", tmp_path)
    assert code == 0
    assert told.endswith(f"{tmp_path}/service/state.db: no tables -> 0001")


def test_a_token_is_good_in_the_database_it_was_made_in(run, tmp_path, make_callers):
    text = run("token", "create", "--scope", "read", "--workspace", tmp_path / "ws")[1]
    callers = make_callers()
    assert callers.anyone(text).get("/v1/jobs").status_code == 200
    record = callers.service.database.tokens.get(token_id_of(text))
    assert require_valid(text, record, record.created) is record


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--insecure", "--host", "0.0.0.0"], 2, "expected a loopback address as --host"),
        (["--tls-cert", __file__], 2, "expected a certificate and its key, got one of them"),
        (["--tls-cert", __file__, "--tls-key", __file__], 2, "TLS: expected a certificate"),
        (["--host", "192.0.2.1"], 4, "expected to listen on 192.0.2.1:8080"),
        (["--port", "99999"], 2, "99999"),
        (["--database", "mysql://anna:hunter2@host/name"], 2, "database: expected sqlite"),
        (["--workspace", "ftp://host/x"], 2, "begins with 'ftp:/'"),
    ],
)
def test_a_service_that_cannot_start_says_why(run, tmp_path, options, code, words):
    where = [] if "--workspace" in options else ["--workspace", tmp_path]
    port = [] if {"--port", "192.0.2.1"} & set(options) else ["--port", "0"]
    found, _, told = run("serve", *options, *where, *port)
    assert found == code, told
    assert words in told
    assert "hunter2" not in told


def test_a_port_that_is_taken(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, told = run("serve", "--workspace", tmp_path, "--port", port)
    assert code == 4
    assert f"expected to listen on 127.0.0.1:{port}, got: Address already in use" in told
