"""Who may import what: layers are checked by import-linter, foreign libraries here."""

import ast
import re
from pathlib import Path

import pytest

import ntk_dist
from ntk_dist import kernels, service

ROOT = Path(ntk_dist.__file__).parent

HOMES = {
    "alembic": ["database/"],
    "click": ["cli/"],
    "dask": ["executors/dask"],
    "distributed": ["executors/dask"],
    "fastapi": ["service/"],
    "httpx": ["client/"],
    "jax": ["kernels/", "stax.py"],
    "jinja2": ["service/pages/"],
    "llvmlite": ["kernels/"],
    "matplotlib": ["analysis/"],
    "numba": ["kernels/"],
    "obstore": ["store/bucket.py"],
    "prometheus_client": ["service/metrics.py"],
    "psutil": ["executors/dask_cluster.py", "jobs/launch.py", "settings.py"],
    "pyarrow": ["service/bodies.py", "store/"],
    "pydantic": [
        "database/__init__.py",
        "jobs/spec.py",
        "model/parameters.py",
        "options.py",
        "service/",
        "settings.py",
        "validation.py",
    ],
    "ray": ["executors/ray", "jobs/ray_jobs.py", "service/serve.py"],
    "rich": ["cli/", "client/", "jobs/", "screen.py"],
    "sklearn": ["jobs/demo.py", "model/"],
    "sqlalchemy": ["database/"],
    "starlette": ["service/"],
    "uvicorn": ["service/connections.py", "service/serve.py"],
    "yaml": ["job_file.py"],
    "zarr": ["store/"],
}


def imports():
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield name, (node.module or "").split(".")[0]


def test_every_foreign_library_has_its_place():
    strays = {
        (name, library)
        for name, library in imports()
        if library in HOMES and not any(name.startswith(home) for home in HOMES[library])
    }
    assert strays == set()
    assert {library for _, library in imports()} >= set(HOMES)


def test_there_are_no_drawers_for_everything():
    banned = {"utils", "helpers", "common", "misc", "manager"}
    assert not banned & {path.stem for path in ROOT.rglob("*.py")}


def test_the_kernels_offer_every_file():
    stems = {path.stem for path in (ROOT / "kernels").glob("*.py")} - {"__init__"}
    assert set(kernels.__all__) == stems


def test_the_page_of_the_service_names_nothing_else():
    stems = {path.stem for path in (ROOT / "service").glob("*.py")} - {"__init__"}
    assert stems == set(re.findall(r"``(\w+)``", service.__doc__))


@pytest.mark.parametrize(
    "page", sorted(ROOT.rglob("__init__.py")), ids=lambda page: page.parent.name
)
def test_the_page_of_a_folder_names_every_file_in_it(page):
    inside = {path.stem for path in page.parent.glob("[a-z]*.py")}
    inside |= {path.parent.name for path in page.parent.glob("*/__init__.py")}
    text = ast.get_docstring(ast.parse(page.read_text(encoding="utf-8"))).replace("``", "`")
    named = set(re.findall(r"\w+", " ".join(text.split("`")[1::2])))
    assert inside - named == set()


def test_files_have_one_job():
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in ROOT.rglob("*.py")
    }
    assert {name for name, lines in lengths.items() if lines > 500} == set()
