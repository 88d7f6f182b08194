"""The Dockerfile, done: its steps in a fresh environment, and its commands there.

Cold, the installation takes two minutes and 200 MB of downloads; with pip's cache, one.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from images import DOCKERFILE, ROOT, Kitchen, parse_dockerfile

from ntk_dist._version import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IMAGE = parse_dockerfile(DOCKERFILE.read_text())


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    """What the image for CPUs has in it."""
    made = Kitchen(tmp_path_factory.mktemp("image"))
    made.cook(IMAGE.stages["packages"])
    for folder in ("cache", "workspace"):
        (made.root / folder).mkdir()
    return made


def run(kitchen: Kitchen, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        env=kitchen.container(IMAGE, "cpu"),
        cwd=kitchen.root / "workspace",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def pins(*files: str) -> dict[str, str]:
    lines = [line for file in files for line in (ROOT / file).read_text().split()]
    return {_normal(name): version for name, _, version in (one.partition("==") for one in lines)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_library_is_a_pinned_one(kitchen: Kitchen):
    program = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name: d.version for d in m.distributions()}))"
    )
    installed = {
        _normal(k): v for k, v in json.loads(run(kitchen, "python", "-c", program).stdout).items()
    }
    assert installed.pop("ntk-dist") == __version__
    assert {"jax", "ray", "distributed", "psycopg", "obstore", "uvicorn"} <= set(installed)
    assert installed.items() <= pins("constraints.txt").items()
    assert not {"pip", "setuptools", "pytest", "hatchling"} & set(installed)


def test_every_library_for_gpus_is_a_pinned_one(kitchen: Kitchen, tmp_path: Path):
    """What would be installed is only asked for: of the wheels, 3 GB, their lists are read."""
    stage = IMAGE.stages["packages-cuda"]
    report = tmp_path / "report.json"
    question = f" install --dry-run --use-feature=fast-deps --report {report} "
    asked = [
        replace(each, text=each.text.replace(" install ", question)) for each in stage.instructions
    ]
    kitchen.cook(replace(stage, instructions=asked))
    wanted = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    libraries = {_normal(each["name"]): each["version"] for each in wanted}
    libraries.pop("ntk-dist", None)  # there already, and pip looks at sources again
    assert {"numba-cuda", "jax-cuda13-plugin"} <= set(libraries)
    assert libraries.items() <= pins("deploy/constraints-cuda.txt").items()


def test_the_package_is_whole(kitchen: Kitchen):
    program = "import ntk_dist, pathlib; print(pathlib.Path(ntk_dist.__file__).parent)"
    there = Path(run(kitchen, "python", "-c", program).stdout.strip())
    assert there.is_relative_to(kitchen.root / "opt" / "venv")

    def files(folder: Path) -> set[str]:
        found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        return {str(file) for file in found if "__pycache__" not in file.parts}

    assert files(there) == files(ROOT / "ntk_dist")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ntk-dist", "--help"], "Usage: ntk-dist"),
        (["ntk-dist", "--version"], __version__),
        (["dask", "--version"], "version"),
        (["dask", "scheduler", "--version"], "version"),
        (["ray", "--version"], pins("constraints.txt")["ray"]),
        (["serve", "--help"], "Usage: serve"),
    ],
)
def test_programs_are_there(kitchen: Kitchen, words: list[str], told: str):
    assert run(kitchen, "bash", "-c", f"command -v {words[0]}").stdout.startswith(str(kitchen.root))
    done = run(kitchen, *words)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_doctor_finds_every_executor(kitchen: Kitchen):
    found = json.loads(run(kitchen, "ntk-dist", "doctor", "--json").stdout)
    assert found["executors"] == {"local": True, "dask": True, "ray": True}
    missing = {name for name, version in found["libraries"].items() if version is None}
    assert missing == {"numba-cuda"}


@pytest.fixture
def service(kitchen: Kitchen) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """What the image runs by itself, at a port that is free here."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [kitchen.inside(word) for word in IMAGE.command("cpu")]
    assert command[-2:] == ["--port", "8080"]
    command[-1] = str(port)
    process = subprocess.Popen(
        command,
        env=kitchen.container(IMAGE, "cpu"),
        cwd=kitchen.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_service_starts_is_well_and_ends(kitchen: Kitchen, service):
    process, port = service

    def is_well() -> bool:
        command = [word.replace(":8080/", f":{port}/") for word in IMAGE.health_command("cpu")]
        return run(kitchen, *command).returncode == 0

    deadline = time.monotonic() + 120
    while not is_well():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert f"listening on http://0.0.0.0:{port}" in told
    assert not is_well()
    assert (kitchen.root / "workspace" / "service").is_dir()
