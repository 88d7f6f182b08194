"""Every pod keeps to the rules, and every rule can be broken."""

from __future__ import annotations

import copy
from typing import Any

import charts
import policies
import pytest
from charts import CASES, Object, of_kind, render
from pods import WORKLOADS, Pod, pods
from policies import RULES

CONTAINER: Object = {
    "name": "one",
    "image": "example.org:5000/one:1.2.3",
    "command": ["ntk-dist", "serve", "--workspace", "/workspace"],
    "env": [{"name": "NUMBA_CACHE_DIR", "value": "/cache/numba"}],
    "ports": [{"name": "http", "containerPort": 8080}],
    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
    "resources": {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"cpu": "1", "memory": "1024Mi"},
    },
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "volumeMounts": [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "cache", "mountPath": "/cache"},
        {"name": "work", "mountPath": "/workspace"},
    ],
}
GOOD: Object = {
    "automountServiceAccountToken": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "containers": [CONTAINER],
    "volumes": [
        {"name": "tmp", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        {"name": "work", "persistentVolumeClaim": {"claimName": "work"}},
    ],
}
C = "containers.0"
SPOILED: list[tuple[str, Any, str]] = [
    ("securityContext.runAsNonRoot", None, "runAsNonRoot"),
    ("securityContext.runAsUser", 0, "runAsUser"),
    ("securityContext.fsGroup", None, "fsGroup"),
    ("securityContext.seccompProfile.type", "Unconfined", "seccompProfile"),
    ("hostNetwork", True, "hostNetwork"),
    ("volumes.0", {"name": "tmp", "hostPath": {"path": "/"}}, "hostPath"),
    (f"{C}.securityContext.allowPrivilegeEscalation", None, "allowPrivilegeEscalation"),
    (f"{C}.securityContext.readOnlyRootFilesystem", False, "readOnlyRootFilesystem"),
    (f"{C}.securityContext.capabilities.drop", [], "capabilities"),
    (f"{C}.securityContext.capabilities.add", ["NET_ADMIN"], "capabilities"),
    (f"{C}.securityContext.privileged", True, "privileged"),
    (f"{C}.securityContext.runAsUser", 0, "root"),
    (f"{C}.securityContext.runAsNonRoot", False, "runAsNonRoot"),
    (f"{C}.ports.0.hostPort", 80, "hostPort"),
    (f"{C}.readinessProbe", None, "readinessProbe"),
    (f"{C}.livenessProbe", None, "livenessProbe"),
    (f"{C}.livenessProbe.httpGet.port", "htpp", "'htpp'"),
    (f"{C}.resources", None, "resources.requests.cpu"),
    (f"{C}.resources.limits.memory", None, "resources.limits.memory"),
    (f"{C}.resources.requests.memory", "2Gi", "above limits"),
    (f"{C}.resources.requests.cpu", "two", "expected a quantity"),
    (f"{C}.resources.requests", {"cpu": 1, "memory": 1, "nvidia.com/gpu": 1}, "in limits"),
    (f"{C}.image", "example.org:5000/one", "a tag or a digest"),
    (f"{C}.image", "one:latest", "a tag or a digest"),
    (f"{C}.image", "one:1@sha256:short", "a tag or a digest"),
    ("automountServiceAccountToken", None, "automountServiceAccountToken"),
    (f"{C}.volumeMounts.0.mountPath", "/temp", "writes to /tmp"),
    (f"{C}.volumeMounts.1.readOnly", True, "writes to /cache/numba"),
    (f"{C}.volumeMounts.2.mountPath", "/work", "writes to /workspace"),
    (f"{C}.volumeMounts.2.name", "lost", "which is no volume"),
    ("volumes.1", {"name": "cache", "configMap": {"name": "own"}}, "writes to /cache/numba"),
    ("volumes.3", {"name": "more", "emptyDir": {}}, "'more' is mounted nowhere"),
]


def pod(spec: Object, kind: str = "Deployment") -> Pod:
    owner = {"kind": kind, "metadata": {"name": "one"}, "spec": {"template": {"spec": spec}}}
    (found,) = pods([owner])
    return found


def broken(one: Pod) -> list[str]:
    return [f"{one}: {problem}" for rule in RULES for problem in rule(one)]


def spoiled(path: str, value: Any) -> Object:
    """The good pod with one thing put in another's place, or taken away."""
    spec = copy.deepcopy(GOOD)
    *way, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place: Any = spec
    for key in way:
        place = place[key]
    if value is None:
        del place[last]
    elif last == len(place) and isinstance(place, list):
        place.append(value)
    else:
        place[last] = value
    return spec


@pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])
@pytest.mark.parametrize("case", CASES)
def test_every_pod_keeps_to_the_rule(case, rule):
    found = pods(render(case))
    assert found
    assert [f"{one}: {problem}" for one in found for problem in rule(one)] == []


def test_a_good_pod_breaks_no_rule():
    assert broken(pod(GOOD)) == []


@pytest.mark.parametrize(("path", "value", "said"), SPOILED)
def test_every_rule_can_be_broken(path, value, said):
    (problem, *_) = broken(pod(spoiled(path, value)))
    assert said in problem
    assert "Deployment/one" in problem


def test_a_job_needs_no_probes_and_a_sidecar_does():
    bare = spoiled(f"{C}.livenessProbe", None)
    assert broken(pod(bare, kind="Job")) == []
    side = copy.deepcopy(bare["containers"][0]) | {"name": "side", "restartPolicy": "Always"}
    assert broken(pod(bare | {"initContainers": [side]}, kind="Job"))


@pytest.mark.parametrize("case", CASES)
def test_no_workload_s_pods_are_overlooked(case):
    objects = render(case)
    seen = {charts.title(one.owner) for one in pods(objects)}
    assert {charts.title(thing) for thing in of_kind(objects, *WORKLOADS)} <= seen


def test_pods_are_found_wherever_they_sit():
    spec = {"containers": [{"name": "one"}]}
    ray = {
        "headGroupSpec": {"template": {"spec": spec}},
        "workerGroupSpecs": [{"template": {"spec": spec}}, {"template": {"spec": spec}}],
    }
    specs = {
        "CronJob": {"jobTemplate": {"spec": {"template": {"spec": spec}}}},
        "Pod": spec,
        "RayCluster": ray,
        "RayService": {"rayClusterConfig": ray},
        "RayJob": {"submitterPodTemplate": {"spec": spec}, "rayClusterSpec": ray},
        "DaskCluster": {"worker": {"spec": spec}, "scheduler": {"spec": spec}},
    }
    objects = [
        {"kind": kind, "metadata": {"name": "one"}, "spec": spec} for kind, spec in specs.items()
    ]
    found = [one.owner["kind"] for one in pods(objects)]
    assert {kind: found.count(kind) for kind in specs} == {
        "CronJob": 1,
        "Pod": 1,
        "RayCluster": 3,
        "RayService": 3,
        "RayJob": 4,
        "DaskCluster": 2,
    }


@pytest.mark.parametrize("case", CASES)
def test_ray_s_autoscaler_is_restricted_too(case):
    """KubeRay makes its container from these options alone."""
    for thing in of_kind(render(case), "RayCluster", "RayService"):
        spec = thing["spec"].get("rayClusterConfig", thing["spec"])
        if not spec.get("enableInTreeAutoscaling"):
            continue
        options = spec["autoscalerOptions"]
        container = {"name": "autoscaler"} | options
        assert list(policies.restricted_container(container)) == []
        assert {"requests", "limits"} <= set(options["resources"])


@pytest.mark.parametrize("case", CASES)
def test_ray_jobs_bring_their_own_submitter(case):
    """The one that KubeRay makes has no security context: a restricted namespace refuses it."""
    for thing in of_kind(render(case), "RayJob"):
        spec = thing["spec"]
        assert spec.get("submissionMode") == "HTTPMode" or "submitterPodTemplate" in spec


def test_quantities_are_read_as_kubernetes_reads_them():
    assert policies.quantity("1.5Gi") == 3 * policies.quantity("512Mi")
    assert policies.quantity("1500m") == policies.quantity(1.5)
    assert policies.quantity("2k") == 2000
    for wrong in ("1 Gi", "Gi", "1GB", "-1", ""):
        with pytest.raises(ValueError, match="expected a quantity"):
            policies.quantity(wrong)
