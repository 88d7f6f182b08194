"""The compose file: what it starts, and that its parts know each other by the right names."""

from __future__ import annotations

import json
import os
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from command_lines import parse_command
from environment import SETTINGS
from images import DEPLOY, DOCKERFILE, parse_dockerfile
from required import require

from ntk_dist.executors import make_executor
from ntk_dist.settings import Settings

FILE = DEPLOY / "compose.yaml"
TEXT = FILE.read_text()
EXAMPLE = (DEPLOY / "compose.env.example").read_text()
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
OURS = ("service", "ray-head", "ray-worker", "dask-scheduler", "dask-worker")
PASSWORD = {"POSTGRES_PASSWORD": "secret"}


def compose(**variables: str) -> dict[str, Any]:
    """The file as compose reads it, with variables filled in."""

    def fill(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if value := variables.get(name):
            return value
        if kind == "?":
            raise LookupError(rest)
        return rest or ""

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: filled(value) for key, value in part.items()}
        if isinstance(part, list):
            return [filled(value) for value in part]
        return _VARIABLE.sub(fill, part) if isinstance(part, str) else part

    return filled(yaml.safe_load(TEXT))


def example(*, uncommented: tuple[str, ...] = ()) -> dict[str, str]:
    """What the example of an environment sets, with some of its comments taken for settings."""
    lines = EXAMPLE.splitlines()
    lines += [line[1:] for line in lines if line.startswith(uncommented)] if uncommented else []
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))


SERVICES = compose(**PASSWORD)["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_containers_keep_to_the_rules(name: str):
    service = SERVICES[name]
    assert re.search(r":\d+\.\d+", service["image"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["read_only"] is True
    assert any(each.startswith("/tmp") for each in service["tmpfs"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert not {"privileged", "network_mode", "pid", "devices"} & set(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "of this machine only: there is no TLS"


def test_its_image_is_the_one_that_is_built_here():
    image = parse_dockerfile(DOCKERFILE.read_text())
    for name in OURS:
        build = SERVICES[name]["build"]
        assert (FILE.parent / build["context"] / build["dockerfile"]).samefile(DOCKERFILE)
        last = image.last(build["target"], "USER")
        assert last is not None
        assert SERVICES[name]["user"] == last.text
    assert SERVICES["service"]["command"] == image.command("cpu")
    assert SERVICES["service"]["healthcheck"]["test"][1:] == image.health_command("cpu")


def test_every_service_knows_those_that_it_needs():
    volumes = compose(**PASSWORD)["volumes"]
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]
            assert SERVICES[other].get("profiles", []) == [] or service["profiles"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or source.startswith("."), (name, source)
    assert {name for name, each in SERVICES.items() if "profiles" not in each} == {
        "database",
        "service",
    }


@pytest.mark.parametrize("name", OURS)
def test_workers_and_service_see_the_same_workspace(name: str):
    if name == "dask-scheduler":
        assert "volumes" not in SERVICES[name], "it runs nothing"
        return
    assert SERVICES[name]["volumes"] == SERVICES["service"]["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_commands_are_understood(name: str):
    if name.startswith("ray"):
        require("ray")
    assert parse_command(SERVICES[name]["command"])


def test_addresses_are_those_of_services_that_listen_there():
    require("ray")
    head = parse_command(SERVICES["ray-head"]["command"])
    worker = parse_command(SERVICES["ray-worker"]["command"])
    assert head["head"]
    assert head["block"]
    assert worker["block"]
    assert worker["address"] == f"ray-head:{head['port']}"
    for name in ("ray-head", "ray-worker"):
        check = SERVICES[name]["healthcheck"]["test"]
        assert parse_command(check[1:])["address"] == worker["address"]
    scheduler = parse_command(SERVICES["dask-scheduler"]["command"])
    dask_worker = parse_command(SERVICES["dask-worker"]["command"])
    assert dask_worker["scheduler"] == f"tcp://dask-scheduler:{scheduler['port']}"
    for name, given in (("dask-scheduler", scheduler), ("dask-worker", dask_worker)):
        program = SERVICES[name]["healthcheck"]["test"][-1]
        compile(program, name, "exec")
        assert f"http://127.0.0.1{given['dashboard_address']}/health" in program
    served = parse_command(SERVICES["service"]["command"])
    assert SERVICES["service"]["ports"][0].endswith(f":{served['port']}")


def test_variables_are_those_that_the_example_explains():
    used = {found[1] for found in _VARIABLE.finditer(TEXT)}
    told = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE)) - {"COMPOSE_PROFILES"}
    assert told == used - {"IMAGE", "POSTGRES_DIGEST"}


def test_there_is_no_password_until_somebody_gives_one():
    filled = example()
    assert filled["POSTGRES_PASSWORD"] == filled["RAY_AUTH_TOKEN"] == ""
    with pytest.raises(LookupError, match="expected a password"):
        compose(**filled)


def settings_of(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, str(value))
    given = {name for name in os.environ if name.startswith("NTK_DIST_")}
    assert given - {"NTK_DIST_REQUIRE"} <= set(SETTINGS)
    return Settings()


@pytest.mark.parametrize(
    ("uncommented", "executors", "launcher"),
    [
        ((), ("local",), None),
        (("#RAY_JOBS_URL", '#EXECUTORS=["ray'), ("ray",), "http://ray-head:8265"),
        (('#EXECUTORS=["dask',), ("dask://dask-scheduler:8786", "local"), None),
    ],
)
def test_variables_are_settings(uncommented, executors, launcher, monkeypatch):
    services = compose(**example(uncommented=uncommented) | PASSWORD)["services"]
    settings = settings_of(services["service"], monkeypatch).service
    assert settings.executors == executors
    assert settings.ray_jobs_url == launcher
    url = urlsplit(settings.database_url.get_secret_value())
    database = services[url.hostname]["environment"]
    assert url.scheme == "postgresql+psycopg"
    assert (url.username, url.path) == ("ntk", f"/{database['POSTGRES_DB']}")
    assert url.password == database["POSTGRES_PASSWORD"] == "secret"
    (root,) = settings.data_roots
    assert any(volume.endswith(f":{root}:ro") for volume in services["service"]["volumes"])
    for each in executors:
        if address := urlsplit(each).hostname:
            assert address in services
    if launcher:
        assert urlsplit(launcher).hostname in services


def test_a_ray_cluster_asks_for_its_token():
    for name in ("service", "ray-head", "ray-worker"):
        environment = compose(**PASSWORD, RAY_AUTH_TOKEN="abc")["services"][name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == "abc"


def test_threads_are_those_of_the_container():
    for name in OURS:
        service = compose(**PASSWORD, THREADS="6")["services"][name]
        if name != "dask-scheduler":
            assert service["environment"]["NTK_DIST_THREADS"] == "6"
            assert service["deploy"]["resources"]["limits"]["cpus"] == "6"


def test_executors_of_the_example_are_executors():
    lists = re.findall(r"^#EXECUTORS=(.*)$", EXAMPLE, re.MULTILINE)
    assert len(lists) == 2
    for each in {one for text in lists for one in json.loads(text)} - {"ray"}:
        if each == "local":
            make_executor(each).close()
        else:
            assert re.fullmatch(r"dask://[\w-]+:\d+", each)
