"""Network policies let through what has to work, and nobody else."""

from __future__ import annotations

import pytest
from charts import CASES, Object, of_kind, render, values
from network import allowed
from pods import Pod, pods

STRANGER = {"app.kubernetes.io/name": "something-else"}
PATHS = [
    ("service", "postgresql", 5432),
    ("service", "ray-head", 8265),
    ("ray-worker", "ray-head", 6379),
    ("ray-head", "ray-worker", 10002),
    ("ray-worker", "ray-worker", 30000),
    ("job-worker", "job-head", 6379),
    ("job-head", "job-worker", 10002),
    ("job-submitter", "job-head", 8265),
    ("serve-worker", "serve-head", 6379),
    ("serve-head", "serve-worker", 10002),
    ("serve-head", "ray-head", 8265),
    ("serve-worker", "ray-head", 8265),
    ("serve-head", "postgresql", 5432),
    ("serve-worker", "postgresql", 5432),
    ("service", "dask-scheduler", 8786),
    ("service", "dask-worker", 40000),
    ("dask-worker", "dask-scheduler", 8786),
    ("dask-scheduler", "dask-worker", 40000),
    ("dask-worker", "dask-worker", 40000),
    ("smoke-test", "service", 8080),
    ("smoke-test", "serve-worker", 8000),
]
GUARDED = [
    ("postgresql", 5432),
    *((head, port) for head in ("ray-head", "job-head", "serve-head") for port in (6379, 8265)),
    *(("ray-worker", 10002), ("dask-scheduler", 8786), ("dask-scheduler", 8787)),
    ("dask-worker", 40000),
]


def parts(objects: list[Object]) -> dict[str, list[Pod]]:
    """Pods by what they are."""
    made: dict[str, list[Pod]] = {}
    for pod in pods(objects):
        made.setdefault(pod.labels["app.kubernetes.io/component"], []).append(pod)
    return made


WHERE: list[tuple[str, Object | None]] = [
    *((case, None) for case in CASES if values(case)["networkPolicy"]["enabled"]),
    ("ray-serve", {"database": {"type": "bundled"}}),
]


@pytest.mark.parametrize(("case", "given"), WHERE)
def test_what_has_to_talk_may(case, given):
    objects = render(case, given)
    there = parts(objects)
    refused = [
        f"{source} -> {target}:{port}"
        for source, target, port in PATHS
        for one in there.get(source, [])
        for other in there.get(target, [])
        if not allowed(objects, one, other, port)
    ]
    assert refused == []


@pytest.mark.parametrize(("case", "given"), WHERE)
def test_strangers_may_not(case, given):
    objects = render(case, given)
    there = parts(objects)
    let_in = [
        f"{target}:{port}"
        for target, port in GUARDED
        for one in there.get(target, [])
        if allowed(objects, STRANGER, one, port)
    ]
    assert let_in == []


def test_every_path_is_walked_and_every_guard_tried():
    there = [parts(render(case, given)).keys() for case, given in WHERE]
    walked = {path for path in PATHS if any({*path[:2]} <= names for names in there)}
    assert set(PATHS) - walked == set()
    assert {name for name, _ in GUARDED} <= {name for names in there for name in names}


def test_without_policies_there_are_none():
    assert of_kind(render(given={"networkPolicy": {"enabled": False}}), "NetworkPolicy") == []


def policy(**spec: object) -> Object:
    metadata = {"name": "one"}
    return {
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {"policyTypes": ["Ingress"], **spec},
    }


def pod(**labels: str) -> Pod:
    ports = [{"name": "http", "containerPort": 8080}]
    spec = {"containers": [{"name": "one", "ports": ports}]}
    return Pod({"kind": "Pod", "metadata": {"name": "one"}}, "", {"labels": labels}, spec)


def test_policies_are_read_as_kubernetes_reads_them():
    one, other = pod(part="one"), pod(part="other")
    mine = {"matchLabels": {"part": "one"}}
    deny = policy(podSelector={})
    assert allowed([], other, one, 8080)
    assert not allowed([deny], other, one, 8080)
    assert allowed([policy(podSelector=mine)], one, other, 8080)

    named = policy(
        podSelector={}, ingress=[{"from": [{"podSelector": mine}], "ports": [{"port": "http"}]}]
    )
    assert allowed([deny, named], one, other, 8080)
    assert not allowed([deny, named], other, one, 8080)
    assert not allowed([deny, named], one, other, 8081)

    elsewhere = {"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}}
    away = policy(podSelector={}, ingress=[{"from": [elsewhere]}])
    assert not allowed([away], one, other, 8080)
    ranged = policy(podSelector={}, ingress=[{"ports": [{"port": 9000, "endPort": 9100}]}])
    assert allowed([ranged], one, other, 9050)
    assert not allowed([ranged], one, other, 9101)
    several = {"matchExpressions": [{"key": "part", "operator": "In", "values": ["one"]}]}
    some = policy(podSelector={}, ingress=[{"from": [{"podSelector": several}]}])
    assert allowed([some], one, other, 1)
    assert not allowed([some], other, one, 1)
