"""What is required must be there: nothing is left out in silence where `.ci/run` asks for it."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import required

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(required.LIBRARIES))
def test_a_library_that_is_absent_fails_where_it_is_required_and_is_skipped_elsewhere(
    name, monkeypatch
):
    monkeypatch.setitem(sys.modules, required.LIBRARIES[name], None)
    others = required.NAMES - {name}
    for given in ("", ",".join(others)):
        monkeypatch.setenv("NTK_DIST_REQUIRE", given)
        with pytest.raises(pytest.skip.Exception, match=required.LIBRARIES[name]):
            required.require(name)
    for given in (name, f"{','.join(others)}, {name}"):
        monkeypatch.setenv("NTK_DIST_REQUIRE", given)
        with pytest.raises(pytest.fail.Exception, match=f"NTK_DIST_REQUIRE names {name}"):
            required.require(name)


def test_a_library_that_is_there_is_given(monkeypatch):
    monkeypatch.setenv("NTK_DIST_REQUIRE", "dask")
    assert required.require("dask", "json.decoder") is sys.modules["json.decoder"]


def test_names_that_are_not_known_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="got postgres"):
        required.leave_out("postgres", "it is absent")
    monkeypatch.setenv("NTK_DIST_REQUIRE", "dask,postgres")
    with pytest.raises(pytest.UsageError, match=r"expected some of .*postgresql.*, got postgres$"):
        required.asked_for()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", "1 skipped"), ("dask", "1 error"), ("dusk", "got dusk")],
)
def test_a_whole_run_ends_as_it_should(given, expected, tmp_path):
    (tmp_path / "distributed.py").write_text("raise ImportError('not here')\n")
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "executors/test_dask.py"],
        cwd=TESTS,
        env={
            **os.environ,
            "NTK_DIST_REQUIRE": given,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS.parent)]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert expected in told.stdout + told.stderr
    assert (told.returncode not in (0, 5)) == bool(given)  # 5: pytest ran no test


def test_every_library_that_may_be_required_is_asked_for_in_one_way():
    mine = {Path(__file__), TESTS / "required.py"}
    sources = {path: path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    calls = [
        node.args[0].value
        for source in sources.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "importorskip"
    ]
    assert set(calls) == {"matplotlib", "mypy", "tritonclient.http"}
    readers = {path for path, text in sources.items() if re.search(r"get\(.NTK_DIST_REQ", text)}
    assert readers - mine == set()


def test_a_landing_requires_all_but_the_program_of_prometheus():
    run = (TESTS.parent / ".ci" / "run").read_text(encoding="utf-8")
    (given,) = re.findall(r"^NTK_DIST_REQUIRE=(\S+) make test$", run, re.MULTILINE)
    assert set(given.split(",")) == required.NAMES - {"promtool"}


def test_every_name_is_explained():
    text = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == required.NAMES
