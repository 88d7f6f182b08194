"""What the chart writes into containers' variables is what the package reads out of them."""

from __future__ import annotations

from typing import Any

import charts
import pytest
from charts import CASES, Object, of_kind, render, values
from environment import BESIDE, ELSEWHERE, SETTINGS, environment, ours

from ntk_dist.settings import ServiceSettings, Settings

FROM_A_SECRET = "database_url"
"""No value of the chart: it has a password in it."""
OTHER: dict[str, Any] = {
    "log_level": "debug",
    "data_roots": ["/data/a b", 's3://bucket/$(HOME)/"x"'],
    "executors": ["dask://elsewhere:8786"],
    "ray_jobs_url": "http://elsewhere:8265",
    "threads": 3,
    "shard_max_bytes": 3_000_000_001,
}


def another(name: str, field: Any) -> Any:
    """A value of a setting that is not its default, and is too long for ``1e+06``."""
    if name in OTHER:
        return OTHER[name]
    return field.default + (1 if isinstance(field.default, int) else 0.5)


def every_setting() -> Object:
    """A value for each, as in values.yaml."""
    own = {
        name: another(name, field)
        for name, field in Settings.model_fields.items()
        if name != "service"
    }
    service = {
        name: another(name, field)
        for name, field in ServiceSettings.model_fields.items()
        if name != FROM_A_SECRET
    }
    return {**own, "service": service}


def read(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a process with these variables takes as its settings."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            if name in SETTINGS:
                patch.setenv(name, "postgresql+psycopg://" if value == ELSEWHERE else value)
        return Settings()


def containers(case: str, given: Object | None = None) -> list[tuple[str, Object, dict[str, str]]]:
    objects = render(case, given)
    repository = charts.merged(values(case), given or {})["image"]["repository"]
    found = [
        (pod, container)
        for pod, container in ours(objects, repository)
        # Hooks may come before their release's settings; what submits Ray's jobs is a client.
        if pod.owner["kind"] not in ("Job", "Pod") and "submitterPodTemplate" not in pod.path
    ]
    assert found
    return [
        (f"{pod}: {container['name']}", container, environment(container, objects))
        for pod, container in found
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_variable_is_one_that_the_package_reads(case):
    unknown = {
        (where, name)
        for where, _, variables in containers(case)
        for name in variables
        if name.startswith("NTK_DIST_") and name not in SETTINGS.keys() | BESIDE
    }
    assert unknown == set()


@pytest.mark.parametrize("case", CASES)
def test_settings_validate_and_are_those_given(case, monkeypatch):
    given = values(case)["settings"]
    for where, _, variables in containers(case):
        settings = read(variables, monkeypatch)
        for name, value in given.items():
            if name != "service" and value is not None:
                assert getattr(settings, name) == value, f"{where}: {name}"
        for name, value in given["service"].items():
            if value is not None:
                own = getattr(settings.service, name)
                assert (list(own) if isinstance(own, tuple) else own) == value, f"{where}: {name}"


@pytest.mark.parametrize("case", CASES)
def test_every_setting_reaches_every_container(case, monkeypatch):
    given = every_setting()
    for where, _, variables in containers(case, {"settings": given}):
        settings = read(variables, monkeypatch).model_dump(
            mode="json", exclude={"service": {FROM_A_SECRET}}
        )
        assert settings == given, where


@pytest.mark.parametrize("case", CASES)
def test_a_setting_that_is_not_given_is_not_written(case):
    """The package's own default then holds, also that of the version to come."""
    empty = {name: None for name in Settings.model_fields if name != "service"}
    service = {name: None for name in ServiceSettings.model_fields if name != FROM_A_SECRET}
    objects = render(case, {"settings": {**empty, "service": service}})
    written = {
        name
        for one in of_kind(objects, "ConfigMap")
        for name in one["data"]
        if name.startswith("NTK_DIST_")
    }
    of_the_engine = {"NTK_DIST_SERVICE__EXECUTORS", "NTK_DIST_SERVICE__RAY_JOBS_URL"}
    assert written <= of_the_engine


@pytest.mark.parametrize("case", CASES)
def test_threads_are_those_of_the_cpu_limit(case):
    """A process in a container sees the CPUs of the whole machine."""
    for where, container, variables in containers(case):
        assert "cpu" in container["resources"]["limits"], where
        assert int(variables["NTK_DIST_THREADS"]) >= 1, where


@pytest.mark.parametrize("case", CASES)
def test_executors_are_those_of_the_engine(case, monkeypatch):
    engine = values(case)["engine"]["type"]
    service = values(case)["settings"]["service"]
    for where, _, variables in containers(case):
        settings = read(variables, monkeypatch).service
        if service["executors"] is None:
            assert settings.executors[0].partition(":")[0] == engine.replace("none", "local"), where
        if service["ray_jobs_url"] is None:
            assert (settings.ray_jobs_url is not None) == (engine == "ray"), where


@pytest.mark.parametrize("case", CASES)
def test_variables_are_named_once(case):
    for where, container, _ in containers(case):
        names = [variable["name"] for variable in container.get("env", [])]
        assert len(names) == len(set(names)), f"{where}: {sorted(names)}"


@pytest.mark.parametrize("case", CASES)
def test_settings_in_values_are_exactly_the_package_s(case):
    own = values(case)["settings"]
    assert own.keys() == Settings.model_fields.keys()
    assert own["service"].keys() == ServiceSettings.model_fields.keys() - {FROM_A_SECRET}


def rule(schema: Object) -> Object:
    """What a JSON schema says about one setting, written in one way."""
    options = schema.get("anyOf", [schema])
    merged = {key: value for option in options for key, value in option.items()}
    named = [option.get("type", "string") for option in options]
    types = {one for names in named for one in ([names] if isinstance(names, str) else names)}
    least, above = merged.get("minimum"), merged.get("exclusiveMinimum")
    if "integer" in types and above is not None:
        least, above = above + 1, None
    return {
        "types": types - {"null"},
        "at least": least,
        "above": above,
        "one of": sorted(word for word in merged.get("enum", []) if word),
        "items": (merged.get("items") or {}).get("type"),
    }


def test_the_schema_of_settings_is_the_package_s():
    package = Settings.model_json_schema()
    service = dict(package["$defs"]["ServiceSettings"]["properties"])
    own = {name: part for name, part in package["properties"].items() if name != "service"}
    del service[FROM_A_SECRET]

    chart = dict(charts.schema()["properties"]["settings"]["properties"])
    chart_service = chart.pop("service")["properties"]
    assert {name: rule(part) for name, part in chart.items()} == {
        name: rule(part) for name, part in own.items()
    }
    assert {name: rule(part) for name, part in chart_service.items()} == {
        name: rule(part) for name, part in service.items()
    }


def test_a_container_s_variables_are_put_together_as_kubernetes_does():
    objects = [
        {"kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"A": "1", "B": "2"}},
        {"kind": "Secret", "metadata": {"name": "two"}, "data": {"c": "Mw=="}},
    ]
    reference = {"secretKeyRef": {"name": "two", "key": "c"}}
    container = {
        "envFrom": [{"configMapRef": {"name": "one"}}],
        "env": [
            {"name": "B", "value": "own"},
            {"name": "C", "valueFrom": reference},
            {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "c"}}},
        ],
        "resources": {"limits": {"cpu": "1500m"}},
    }
    expected = {"A": "1", "B": "own", "C": "3", "D": "2", "E": ELSEWHERE}
    assert environment(container, objects) == expected
