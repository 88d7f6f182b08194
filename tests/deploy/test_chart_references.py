"""What objects name of each other is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import charts
import pytest
from charts import CASES, Object, merged, nested, render, values
from policies import quantity
from references import dangling, outside, unmatched, unreachable

PORTS = ("containerPort", "port", "targetPort", "number", "nodePort", "endPort")


@pytest.mark.parametrize("case", CASES)
def test_nothing_names_what_is_not_there(case):
    assert dangling(render(case), outside(values(case))) == []


@pytest.mark.parametrize("case", CASES)
def test_addresses_lead_to_a_service_of_the_release(case):
    assert unreachable(render(case), outside(values(case))) == []


@pytest.mark.parametrize("case", CASES)
def test_selectors_pick_pods_that_have_the_port(case):
    assert unmatched(render(case)) == []


@pytest.mark.parametrize("case", CASES)
def test_all_names_that_exist_already_are_used(case):
    """A value that names something and is not read would be worse than no value."""
    text = str(render(case))
    assert [name for name in outside(values(case)) if name not in text] == []


@pytest.mark.parametrize("case", CASES)
def test_quantities_and_ports_are_ones(case):
    assert list(amiss(render(case))) == []


def amiss(value: Any, key: str = "") -> Iterator[str]:
    """Sizes and ports anywhere that Kubernetes would not read; its schemas take any text."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from amiss(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from amiss(part, key)
    elif key in ("sizeLimit", "storage"):
        try:
            quantity(value)
        except ValueError as error:
            yield f"{key}: {error}"
    elif key in PORTS and isinstance(value, int) and not 0 < value < 65536:
        yield f"{key}: {value}"


def test_what_is_no_quantity_and_no_port_is_found():
    volume = {"emptyDir": {"sizeLimit": "8 Gi"}}
    claim = {"resources": {"requests": {"storage": "fifty"}}}
    ports = [{"containerPort": 0}, {"containerPort": 65535}, {"port": 70000, "targetPort": "http"}]
    assert [said.partition(":")[0] for said in amiss([volume, claim, ports])] == [
        *("sizeLimit", "storage", "containerPort", "port"),
    ]


def pod(**parts: Any) -> Object:
    container = {"name": "one", "ports": [{"name": "http", "containerPort": 80}]}
    container |= parts.pop("container", {})
    return {
        "kind": "Deployment",
        "metadata": {"name": "one", "labels": {"app": "one"}},
        "spec": {
            "selector": {"matchLabels": {"app": "one"}},
            "template": {
                "metadata": {"labels": {"app": "one"}},
                "spec": {"containers": [container], **parts},
            },
        },
    }


def thing(kind: str, **parts: Any) -> Object:
    return {"kind": kind, "metadata": {"name": "own", "labels": {"app": "one"}}, **parts}


SERVICE = thing(
    "Service",
    spec={"selector": {"app": "one"}, "ports": [{"name": "http", "port": 8080, "targetPort": 80}]},
)
NAMED = {"name": "own", "key": "b"}
BACKEND = {"service": {"name": "own", "port": {"name": "https"}}}
DANGLING = [
    (pod(volumes=[{"name": "v", "configMap": {"name": "own"}}]), "no ConfigMap 'own'"),
    (pod(volumes=[{"name": "v", "secret": {"secretName": "own"}}]), "no Secret 'own'"),
    (
        pod(volumes=[{"name": "v", "projected": {"sources": [{"secret": {"name": "own"}}]}}]),
        "no Secret 'own'",
    ),
    (
        pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "own"}}]),
        "no PersistentVolumeClaim 'own'",
    ),
    (pod(serviceAccountName="own"), "no ServiceAccount 'own'"),
    (pod(imagePullSecrets=[{"name": "own"}]), "no Secret 'own'"),
    (pod(container={"envFrom": [{"configMapRef": {"name": "own"}}]}), "no ConfigMap 'own'"),
    (
        pod(container={"env": [{"name": "A", "valueFrom": {"secretKeyRef": NAMED}}]}),
        "no Secret 'own'",
    ),
    (
        thing("HorizontalPodAutoscaler", spec={"scaleTargetRef": {"kind": "Deployment", **NAMED}}),
        "no Deployment 'own'",
    ),
    (
        thing("RayJob", spec={"clusterSelector": {"ray.io/cluster": "own"}}),
        "no RayCluster 'own'",
    ),
    (
        thing("RayCluster", spec={"authOptions": {"secretName": "auth"}}),
        "no Secret 'auth'",
    ),
    (
        thing("HTTPRoute", spec={"rules": [{"backendRefs": [{"name": "own", "port": 80}]}]}),
        "no Service 'own'",
    ),
]
WITHOUT_KEY = [
    (
        thing("Ingress", spec={"rules": [{"http": {"paths": [{"backend": BACKEND}]}}]}),
        SERVICE,
        "Service 'own' has no 'https'",
    ),
    (
        pod(container={"env": [{"name": "A", "valueFrom": {"secretKeyRef": NAMED}}]}),
        thing("Secret", data={"a": ""}),
        "Secret 'own' has no 'b'",
    ),
    (
        pod(volumes=[{"name": "v", "configMap": {"name": "own", "items": [{"key": "b"}]}}]),
        thing("ConfigMap", data={"a": ""}),
        "ConfigMap 'own' has no 'b'",
    ),
]


@pytest.mark.parametrize(("one", "said"), DANGLING)
def test_a_name_that_nothing_has_is_found(one, said):
    (found,) = dangling([one], set())
    assert said in found
    assert dangling([one], {"own", "auth"}) == []


@pytest.mark.parametrize(("one", "other", "said"), WITHOUT_KEY)
def test_a_key_that_is_not_there_is_found(one, other, said):
    (found,) = dangling([one, other], {"own"})
    assert said in found


def test_an_address_that_leads_nowhere_is_found():
    def env(address: str) -> list[Object]:
        return [pod(container={"env": [{"name": "A", "value": address}]}), SERVICE]

    assert unreachable(env("http://own:8080"), set()) == []
    assert unreachable(env("http://own.space.svc:8080/x"), set()) == []
    assert "nothing listens at own:80" in unreachable(env("http://own:80"), set())[0]
    assert "lost:8786" in unreachable(env('["dask://lost:8786"]'), set())[0]
    assert unreachable(env("http://theirs:80"), {"theirs"}) == []
    hidden = thing("Secret", stringData={"url": "postgresql+psycopg://me:word@gone:5432/one"})
    assert "gone:5432" in unreachable([hidden], set())[0]


def test_a_selector_that_picks_nothing_is_found():
    assert unmatched([pod(), SERVICE]) == []
    for path, value, said in [
        ("spec.selector", {"app": "two"}, "picks no pod"),
        ("spec.ports", [{"port": 8080, "targetPort": "htpp"}], "has no port htpp"),
        ("spec.ports", [{"port": 8080}], "has no port 8080"),
    ]:
        (found,) = unmatched([pod(), merged(SERVICE, nested(path, value))])
        assert said in found
    wrong = merged(pod(), nested("spec.selector.matchLabels.app", "two"))
    assert "picks no pod" in unmatched([wrong])[0]
    guard = thing("PodDisruptionBudget", spec={"selector": {"matchLabels": {"app": "two"}}})
    assert "picks no pod" in unmatched([pod(), guard])[0]
    assert charts.title(guard) in unmatched([pod(), guard])[0]
