"""The Dockerfile, read: what it is made of, and that its rules can be broken."""

from __future__ import annotations

import re
import tomllib

import pytest
from command_lines import parse_command
from images import DEPLOY, DOCKERFILE, IGNORE_FILE, ROOT, is_sent, parse_dockerfile, problems

from ntk_dist._version import __version__
from ntk_dist.executors import dask_cluster
from ntk_dist.kernels import cache

TEXT = DOCKERFILE.read_text()
IMAGE = parse_dockerfile(TEXT)
TARGETS = ("cpu", "cuda")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_dockerfile_keeps_the_rules():
    assert problems(IMAGE, TARGETS) == []
    assert list(IMAGE.stages)[-1] == "cpu", "what is built when nobody names a target"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest", "is no particular one"),
        ("python:3.11.14-slim-bookworm", "python", "is no particular one"),
        ("USER 10001:10001", "USER root", "runs as root"),
        ("USER 10001:10001\n", "", "runs as root"),
        ("USER 10001:10001", "USER ntk", "is no number"),
        ("FROM runtime AS cpu", "FROM runtime AS cpu\nUSER 0:0", "cpu: runs as root"),
        ("--no-install-recommends ", "", "only recommended"),
        ("    && rm -rf /var/lib/apt/lists/*\n", "    && true\n", "lists of apt stay"),
        ("RUN apt-get update \\\n    && ", "RUN ", "without an update"),
        ("COPY ntk_dist ntk_dist", "COPY . .", "whole context"),
        ("COPY ntk_dist ntk_dist", "ADD https://example.org/x.tar.gz /", "ADD does more"),
        ("ENV OPENBLAS", "ENV NTK_DIST_TOKEN=x\nENV OPENBLAS", "looks like a secret"),
        ("ARG PYTHON_DIGEST=", "ARG PYTHON_DIGEST=\nARG A=1", None),
        ('CMD ["ntk-dist", "serve"', 'CMD ntk-dist serve #"', "takes the signals"),
        ('CMD ["python", "-c"', 'CMD python -c "', "HEALTHCHECK starts a shell"),
        ("HEALTHCHECK --", "LABEL a=b\n#", "has no HEALTHCHECK"),
    ],
)
def test_each_rule_can_be_broken(old: str, new: str, problem: str | None):
    assert old in TEXT
    found = problems(parse_dockerfile(TEXT.replace(old, new)), TARGETS)
    assert found == [] if problem is None else any(problem in each for each in found), found


def test_what_is_fetched_is_not_run():
    text = TEXT.replace(
        "RUN apt-get update", "RUN wget -qO- https://example.org | sh; apt-get update"
    )
    assert any("runs what it fetches" in each for each in problems(parse_dockerfile(text), TARGETS))


def test_a_digest_can_hold_on_to_the_base():
    assert IMAGE.arguments["PYTHON_DIGEST"] == ""
    digest = "@sha256:" + "0" * 64
    held = parse_dockerfile(TEXT.replace("PYTHON_DIGEST=\n", f"PYTHON_DIGEST={digest}\n"))
    assert held.stages["cpu"].base == "runtime"
    assert held.stages["runtime"].base == IMAGE.arguments["PYTHON_IMAGE"] + digest
    assert problems(held, TARGETS) == []


def test_python_is_one_that_the_package_is_for():
    minor = re.search(r":(\d+\.\d+)\.\d+-", IMAGE.arguments["PYTHON_IMAGE"])
    assert minor is not None
    assert f"Programming Language :: Python :: {minor[1]}" in PROJECT["classifiers"]


def test_only_what_is_copied_is_sent_to_the_builder():
    patterns = IGNORE_FILE.read_text()
    copied = {
        source
        for stage in IMAGE.stages.values()
        for each in stage.of("COPY")
        if "from" not in each.flags
        for source in each.text.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    assert [source for source in copied if not is_sent(source, patterns)] == []
    assert is_sent("ntk_dist/cli/entry.py", patterns)
    for name in (".git/config", ".env", "deploy/.env", "tests/conftest.py", "ws/service/state.db"):
        assert not is_sent(name, patterns), name
    assert not is_sent("ntk_dist/cli/__pycache__/entry.pyc", patterns)


@pytest.mark.parametrize("stage", ["packages", "packages-cuda"])
def test_extras_are_those_of_the_package(stage: str):
    steps = " ".join(each.text for each in IMAGE.stages[stage].of("RUN"))
    named = [one for found in re.findall(r'"\.\[([\w,]+)\]"', steps) for one in found.split(",")]
    assert named
    assert set(named) <= set(PROJECT["optional-dependencies"])


def test_python_packages_come_from_the_stage_that_installs_them():
    for target, packages in zip(TARGETS, ("packages", "packages-cuda"), strict=True):
        (copy,) = IMAGE.stages[target].of("COPY")
        assert copy.flags["from"] == packages
        assert copy.text == "/opt/venv /opt/venv"
    assert IMAGE.environment("cpu")["PATH"].startswith("/opt/venv/bin:")


def test_dask_workers_get_what_those_that_we_start_get():
    ours = dask_cluster.WORKER_VARIABLES
    assert ours.items() <= IMAGE.environment("cpu").items()


def test_jax_keeps_what_jobs_would_have_it_keep():
    environment = IMAGE.environment("cpu")
    for name, value in cache.SETTINGS.items():
        assert environment[name.upper()] == str(value)


def test_compiled_kernels_are_kept_where_the_user_may_write():
    made = " ".join(each.text for each in IMAGE.stages["runtime"].of("RUN"))
    environment = IMAGE.environment("cpu")
    for name in ("NUMBA_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"):
        assert environment[name].startswith("/cache/")
    assert re.search(r"install --directory --owner 10001 --group 10001 .*/cache\b", made)
    assert environment["HOME"] == "/tmp"


def test_the_command_is_one_of_ours_and_health_is_asked_at_its_port():
    command = IMAGE.command("cpu")
    given = parse_command(command)
    (exposed,) = IMAGE.stages["runtime"].of("EXPOSE")
    assert given["host"] == "0.0.0.0"
    assert given["port"] == int(exposed.text)
    python, option, program = IMAGE.health_command("cpu")
    assert (python, option) == ("python", "-c")
    compile(program, "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{exposed.text}/v2/health/live" in program


def test_the_tags_that_are_named_are_of_this_version():
    for file in [DOCKERFILE, *DEPLOY.rglob("*.yaml"), DEPLOY / "README.md"]:
        tags = re.findall(r"ntk-dist:(\d[\w.]*?)(?:-cuda)?(?![\w.])", file.read_text())
        assert set(tags) <= {__version__}, file
