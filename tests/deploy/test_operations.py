"""The operations page: its commands are run, its words are those of the code."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from commands import complaint, programs

from ntk_dist.database import open_database
from ntk_dist.jobs.queue import utc_now
from ntk_dist.service.adoption import adopt
from ntk_dist.service.tokens import new_token, require_valid, token_id_of
from ntk_dist.settings import ServiceSettings, Settings
from ntk_dist.store.workspace import Workspace
from ntk_dist.units import parse_bytes

REPOSITORY = Path(__file__).parents[2]
FILE = REPOSITORY / "deploy" / "operations.md"
PAGE = FILE.read_text()
WHOLE = re.MULTILINE | re.DOTALL
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##+ |\Z)", PAGE, WHOLE))


def blocks(heading: str) -> list[str]:
    """The commands of a section, block by block."""
    return re.findall(r"^```sh\n(.*?)^```", SECTIONS[heading], WHOLE)


def run(script: str, folder: Path, **variables: str) -> str:
    """What a shell prints that is given one block, and stops at what fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    programs = [str(found) for found in Path("/usr/lib/postgresql").glob("*/bin")]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": ":".join([path, *programs]), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_words(node: ast.AST) -> str | None:
    """A text of the code, with what is put into it as an ellipsis."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(in_words(part) or "…" for part in node.values)
    return None


TEXTS = {
    text
    for file in (REPOSITORY / "ntk_dist").rglob("*.py")
    for node in ast.walk(ast.parse(file.read_text()))
    if (text := in_words(node))
}


def test_a_workspace_with_sqlite_comes_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ws/service/state.db"
    with Workspace(tmp_path / "ws").new_model("m") as draft:
        (draft.place / "model.json").write_bytes(b"{}")
    (tmp_path / "ws" / "cache").mkdir()
    (tmp_path / "ws" / "cache" / "program").touch()
    back_up, restore = blocks("The workspace and SQLite")
    # Open, as that of a service is: what was written last is beside the file, not in it.
    with open_database(url) as database:
        database.tokens.insert(new_token("anna", ["read"], utc_now())[1])
        assert (tmp_path / "ws" / "service" / "state.db-wal").stat().st_size > 0
        run(back_up, tmp_path)
        kept = database.tokens.all()
        database.tokens.insert(new_token("too late", ["read"], utc_now())[1])
    assert "revision" in run(restore, tmp_path)
    with open_database(url) as database:
        assert database.tokens.all() == kept
    assert (tmp_path / "ws" / "models" / "m" / "1" / "model.json").is_file()
    assert not (tmp_path / "ws" / "cache").exists()
    assert (tmp_path / "ws.before" / "cache" / "program").exists()


def test_a_database_in_postgresql_comes_back(tmp_path: Path, postgresql: Any) -> None:
    import psycopg

    name = f"operations_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql.parameters, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = f"postgresql+psycopg://tester@/{name}?host={postgresql.folder}"
    variables = {"NTK_DIST_SERVICE__DATABASE_URL": url}
    back_up, restore = blocks("PostgreSQL")
    with open_database(url) as database:
        text, record = new_token("anna", ["read"], utc_now())
        database.tokens.insert(record)
        run(back_up, tmp_path, **variables)
        database.tokens.revoke(record.id, utc_now())
    assert "revision" in run(restore, tmp_path, **variables)
    with open_database(url) as database:
        (found,) = database.tokens.all()
        assert require_valid(text, found, utc_now()) == record


def test_a_token_from_outside_is_rotated(tmp_path: Path) -> None:
    (rotate,) = [block for block in blocks("Tokens and other secrets") if "adopt" in block]
    with open_database(f"sqlite:///{tmp_path}/ws/service/state.db") as database:
        old = new_token("bootstrap", ["admin"], utc_now())[0]
        adopt(database.tokens, old, name="bootstrap", scopes=["admin"], now=utc_now())
        told = run(f"{rotate}\necho $token", tmp_path).splitlines()
        assert "good from now on, for admin" in told[0]
        assert database.tokens.get(token_id_of(old)).revoked is not None
        require_valid(told[-1], database.tokens.get(token_id_of(told[-1])), utc_now())


def test_every_command_is_one() -> None:
    lines = re.findall(r"^(?:\w+=\S+ )*(ntk-dist .+)$", PAGE, re.MULTILINE)
    lines += re.findall(r"`(ntk-dist [a-z]+ [^`]+)`", PAGE)
    assert len(lines) > 15
    known = programs()
    for line in lines:
        program, *words = shlex.split(line)
        assert complaint(known[program], words) is None, line


def test_commands_of_the_script_are_taken() -> None:
    (block,) = re.findall(r"^```\n(.*?)^```", SECTIONS["Trying it on one machine"], WHOLE)
    script = REPOSITORY / "deploy" / "one_machine_cluster.py"
    told = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for line in block.splitlines():
        program, file, *words = shlex.split(line)
        assert (program, REPOSITORY / file) == ("python", script)
        assert {word for word in words if word.startswith("--")} <= set(
            re.findall(r"--[a-z]+", told)
        )


def messages() -> list[str]:
    rows = re.findall(r"^\| `(.+?)` \|", SECTIONS["Troubleshooting"], re.MULTILINE)
    assert len(rows) > 25
    return rows


@pytest.mark.parametrize("message", messages())
def test_a_message_is_one_of_the_code(message: str) -> None:
    assert any(message in text for text in TEXTS)


def test_what_a_plan_prints_is_explained_by_its_own_words() -> None:
    table = re.findall(
        r"^\| (`.+?) \|", SECTIONS["What a job costs, before it is run"], re.MULTILINE
    )
    words = {word for row in table for word in re.findall(r"`([^`]+)`", row)}
    assert len(words) >= 7
    assert words <= TEXTS | {"workspace"}, "a line or a column of a plan"


def test_settings_are_there_and_are_what_the_page_says() -> None:
    own = {f"NTK_DIST_{name.upper()}": field for name, field in Settings.model_fields.items()}
    of_service = {
        f"NTK_DIST_SERVICE__{name.upper()}": field
        for name, field in ServiceSettings.model_fields.items()
    }
    known = own | of_service
    named = set(re.findall(r"NTK_DIST_[A-Z_]*[A-Z]", PAGE)) - {"NTK_DIST_TOKEN"}
    assert named <= known.keys()
    said = re.findall(r"`(NTK_DIST_\w+)` \(([^)]+)\)", PAGE)
    assert len(said) >= 6
    for name, value in said:
        plain = value.replace(",", "")
        assert known[name].default == (float(plain) if plain.isdigit() else parse_bytes(plain))


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, anchor = target.partition("#")
        assert not anchor or anchor in anchors, target
        # The page that says how to install comes from another part of this folder.
        assert not file or (FILE.parent / file).exists(), target
