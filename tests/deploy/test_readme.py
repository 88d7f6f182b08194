"""What deploy/README.md says: its commands, its links and its table."""

from __future__ import annotations

import importlib.util
import re
import shlex
from types import ModuleType

import pytest
from command_lines import parse_command
from images import DEPLOY

TEXT = (DEPLOY / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
BLOCKS = [block for language, block in FENCED if not language]
LINES = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
COMMANDS = [
    words[words.index("ntk-dist") :]
    for words in LINES
    if "ntk-dist" in words and words[0] in {"ntk-dist", "docker"} and "build" not in words
]


def test_commands_are_found():
    assert len(COMMANDS) >= 7
    assert {words[1] for words in COMMANDS} >= {"doctor", "fit", "gram", "serve", "submit", "token"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_understood(words: list[str]):
    assert parse_command(words) is not None


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 10
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("https://"):
            assert (DEPLOY / link).exists(), link


def test_every_example_is_introduced():
    files = [
        file for file in DEPLOY.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ]
    shown = {file.relative_to(DEPLOY).as_posix() for file in files}
    mine = {name for name in shown if "/" in name or name.startswith(("compose", "constraints"))}
    assert [name for name in sorted(mine) if name not in TEXT] == []


@pytest.fixture(scope="module")
def sizing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sizing", DEPLOY / "sizing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table() -> list[list[str]]:
    written = re.search(r"<!-- sizes: begin -->\n(.*)<!-- sizes: end -->", TEXT, re.DOTALL)
    assert written is not None
    return [line.strip("| ").split(" | ") for line in written[1].splitlines()]


def test_the_table_has_a_line_for_each_case(sizing, table):
    assert table[0] == list(sizing.HEAD)
    cases = [(n, f"{r:,}", f"{w:,}") for n, at in sizing.SCALES.items() for r, w in at]
    assert [tuple(line[:3]) for line in table[2:]] == cases


@pytest.mark.slow
@pytest.mark.parametrize("network", ["FC", "CNTK"])
def test_sizes_in_the_table_are_those_of_the_plan(sizing, table, network):
    """The largest ones: each costs some seconds, for rates are measured too."""
    (simulation,) = sizing.simulations(network, sizing.SCALES[network][-1:])
    assert sizing.line(network, simulation) in table
