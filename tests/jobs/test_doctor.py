from __future__ import annotations

import re
import tomllib
from pathlib import Path

from ntk_dist.jobs import doctor

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
OPTIONAL = PYPROJECT["project"]["optional-dependencies"]


def libraries(extra: str) -> set[str]:
    """What pyproject.toml asks for, extras of our own followed."""
    found: set[str] = set()
    for requirement in OPTIONAL[extra]:
        name, _, ours = re.match(r"([\w-]+)(\[([\w,]+)\])?", requirement).groups()
        found |= set().union(*map(libraries, ours.split(","))) if name == "ntk_dist" else {name}
    return found


def test_every_extra_is_looked_for_by_all_of_its_libraries():
    assert set(doctor.EXTRAS) == set(OPTIONAL) - {"test", "dev"}
    for extra, looked_for in doctor.EXTRAS.items():
        assert libraries(extra) <= set(looked_for), extra


def test_what_is_missing_is_said_with_what_installs_it(monkeypatch):
    absent = {"grpcio-reflection", "numba-cuda", "psycopg", "distributed"}
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in absent else "1.0")
    record, text = doctor.examine()
    assert {name for name, version in record["libraries"].items() if version is None} == absent
    assert record["executors"] == {"local": True, "dask": False, "ray": True}
    assert "dask        not installed: pip install 'ntk_dist[dask]'\n" in text
    assert "extras      not installed: pip install 'ntk_dist[gpu,postgresql,serve]'\n" in text
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    assert "not installed" not in doctor.examine()[1]


def test_an_extra_that_another_holds_is_missing_with_it(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "httpx" else "1.0")
    assert "pip install 'ntk_dist[client,serve,service]'" in doctor.examine()[1]
