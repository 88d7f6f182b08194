"""Helm takes the chart with every values file, and clusters would take what comes out."""

from __future__ import annotations

import re
from typing import Any

import charts
import operators
import pytest
import schemas
from charts import CASES, NAMESPACE, Object, of_kind, render, title

SLIPS = ("<no value>", "<nil>", "%!", "map[")
"""What Go's templates print where a value is missing or is no text."""


def claimed() -> list[str]:
    """Versions of Kubernetes that the chart says it runs on, as far as their schemas are here."""
    oldest = re.search(r">=\s*v?(\d+)\.(\d+)", charts.about()["kubeVersion"])
    assert oldest, "Chart.yaml: kubeVersion: expected >= a version"
    least = tuple(map(int, oldest.groups()))
    return [one for one in schemas.versions() if tuple(map(int, one.split("."))) >= least]


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_mend(case):
    answer = charts.run("lint", case, "--strict")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "[WARNING]" not in answer.stdout


@pytest.mark.parametrize("case", CASES)
def test_templates_leave_no_slips(case):
    assert [slip for slip in SLIPS if slip in charts.text(case)] == []
    assert [title(thing) for thing in render(case) if without_value(thing)] == []


def without_value(thing: Any) -> bool:
    """Whether something in it is null: a key that a template left open."""
    if isinstance(thing, dict):
        return any(map(without_value, thing.values()))
    if isinstance(thing, list):
        return any(map(without_value, thing))
    return thing is None


@pytest.mark.parametrize("which", ["oldest", "newest"])
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_takes_every_object(case, which):
    version = claimed()[0 if which == "oldest" else -1]
    found = [
        problem
        for thing in render(case)
        if schemas.group(thing) != schemas.KUBERAY
        for problem in schemas.problems(thing, version)
    ]
    assert found == []


@pytest.mark.skipif(not schemas.CRDS.is_dir(), reason=schemas.NO_CRDS)
@pytest.mark.parametrize("case", CASES)
def test_kuberay_takes_every_object(case):
    found = [
        problem
        for thing in render(case)
        if schemas.group(thing) == schemas.KUBERAY
        for problem in schemas.problems(thing, "")
    ]
    assert found == []


def test_every_kind_that_the_chart_can_make_is_made_by_some_case():
    made = {thing["kind"] for case in CASES for thing in render(case)}
    named = set()
    for template in (charts.CHART / "templates").rglob("*.yaml"):
        named |= set(re.findall(r"^kind: (\w+)$", template.read_text(encoding="utf-8"), re.M))
    assert named <= made
    assert {"RayCluster", "RayService", "RayJob", "DaskCluster", "StatefulSet"} <= made


def test_the_oldest_kubernetes_is_taken_and_an_older_one_refused():
    major, minor = map(int, claimed()[0].split("."))
    assert render(kube_version=f"{major}.{minor}.0")
    answer = charts.run("template ntk", "values", f"--kube-version={major}.{minor - 1}.0")
    assert answer.returncode != 0
    assert "kubeVersion" in answer.stderr


DEPLOYMENT: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "one"},
    "spec": {
        "selector": {"matchLabels": {"app": "one"}},
        "template": {
            "metadata": {"labels": {"app": "one"}},
            "spec": {"containers": [{"name": "one", "image": "one:1"}]},
        },
    },
}
POD_SPEC = DEPLOYMENT["spec"]["template"]["spec"]
RAY_CLUSTER: Object = {
    "apiVersion": "ray.io/v1",
    "kind": "RayCluster",
    "metadata": {"name": "one"},
    "spec": {
        "headGroupSpec": {"rayStartParams": {"num-cpus": "1"}, "template": {"spec": POD_SPEC}}
    },
}
DASK_CLUSTER: Object = {
    "apiVersion": "kubernetes.dask.org/v1",
    "kind": "DaskCluster",
    "metadata": {"name": "one"},
    "spec": {
        "worker": {"replicas": 1, "spec": POD_SPEC},
        "scheduler": {"spec": POD_SPEC, "service": {"ports": [{"port": 8786}]}},
    },
}
MONITOR: Object = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "ServiceMonitor",
    "metadata": {"name": "one"},
    "spec": {"selector": {"matchLabels": {"a": "b"}}, "endpoints": [{"port": "http"}]},
}
ALERTS: Object = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PrometheusRule",
    "metadata": {"name": "one"},
    "spec": {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "up", "for": "5m"}]}]},
}
ROUTE: Object = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "one"},
    "spec": {
        "parentRefs": [{"name": "gate"}],
        "rules": [{"backendRefs": [{"name": "one", "port": 80}]}],
    },
}
WRONG = [
    (DEPLOYMENT, "spec.replica", 1, "replica"),
    (DEPLOYMENT, "spec.replicas", "1", "spec.replicas"),
    (DEPLOYMENT, "spec.template.spec.hostnet", True, "hostnet"),
    (DASK_CLUSTER, "spec.workers", {}, "workers"),
    (DASK_CLUSTER, "spec.worker.replicas", "2", "spec.worker.replicas"),
    (DASK_CLUSTER, "spec.worker.spec", {"container": []}, "container"),
    (DASK_CLUSTER, "spec.scheduler.service", {"port": 1}, "port"),
    (MONITOR, "spec.endpoint", [], "endpoint"),
    (MONITOR, "spec.endpoints", [{"port": 8080}], "spec.endpoints.0.port"),
    (ALERTS, "spec.groups", [{"name": "g", "rules": [{"alert": "A"}]}], "spec.groups.0.rules.0"),
    (ROUTE, "spec.rules", [{"backendRefs": [{"name": "one"}]}], "port"),
    (ROUTE, "spec.hostname", "a", "hostname"),
]


@pytest.mark.parametrize(("thing", "path", "value", "named"), WRONG)
def test_what_a_cluster_would_not_take_is_found(thing, path, value, named):
    newest = schemas.versions()[-1]
    assert schemas.problems(thing, newest) == []
    spoiled = charts.merged(thing, charts.nested(path, value))
    (problem, *_) = schemas.problems(spoiled, newest)
    assert title(thing) in problem
    assert named in problem


@pytest.mark.skipif(not schemas.CRDS.is_dir(), reason=schemas.NO_CRDS)
@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("spec.headGroup", {}, "headGroup"),
        ("spec.headGroupSpec.rayStartParams.num-cpus", 1, "num-cpus"),
        ("spec.headGroupSpec.template.spec.node", "a", "node"),
        ("spec.authOptions.mode", "on", "spec.authOptions.mode"),
    ],
)
def test_what_kuberay_would_drop_or_refuse_is_found(path, value, named):
    assert schemas.problems(RAY_CLUSTER, "") == []
    spoiled = charts.merged(RAY_CLUSTER, charts.nested(path, value))
    (problem, *_) = schemas.problems(spoiled, "")
    assert named in problem


def test_every_operator_schema_is_used():
    made = {thing["kind"] for case in CASES for thing in render(case)}
    known = {kind for kinds in operators.SCHEMAS.values() for kind in kinds}
    assert known <= made | {"DaskAutoscaler"}


def test_a_key_given_twice_is_refused():
    with pytest.raises(charts.yaml.YAMLError, match="given twice: a"):
        charts.load("a: 1\nb: 2\na: 3\n")


@pytest.mark.parametrize("case", CASES)
def test_no_object_is_made_twice(case):
    names = [title(thing) for thing in render(case)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES)
def test_all_stay_in_the_release_s_namespace(case):
    objects = render(case)
    places = {thing["metadata"].get("namespace", NAMESPACE) for thing in objects}
    assert places == {NAMESPACE}
    scoped = of_kind(objects, "ClusterRole", "ClusterRoleBinding", "Namespace")
    assert list(map(title, scoped)) == []
