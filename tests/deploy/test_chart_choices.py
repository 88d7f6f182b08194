"""Values that do not go together are refused, and those that do have the effect they should."""

from __future__ import annotations

import re

import pytest
from charts import (
    CASES,
    NAMESPACE,
    UPGRADED,
    Object,
    load,
    merged,
    nested,
    notes,
    of_kind,
    refusal,
    render,
    run,
    title,
    values,
)
from commands import complaint, programs
from pods import Pod, pods
from references import outside, provided

URL = {"database": {"type": "url", "url": {"existingSecret": "theirs"}}}
SHARED = nested("workspace.pvc.accessModes", ["ReadWriteMany"])
SEVERAL = merged(merged(URL, SHARED), {"serving": {"replicas": 3}})
NAMED = re.compile(
    r"\b(svc|service|deploy|deployment|secret|raycluster|rayservice|configmap|pvc|sts|statefulset)"
    r"(?:/| (?:--namespace \S+ )?)([a-z][a-z0-9]*-[a-z0-9-]*[a-z0-9])"
)
"""``svc/NAME`` and ``secret NAME``, as kubectl takes them; names have a hyphen, words do not."""
SHORT = {
    "svc": "service",
    "deploy": "deployment",
    "sts": "statefulset",
    "pvc": "persistentvolumeclaim",
}
SCALED = merged(URL, {"serving": {"autoscaling": {"enabled": True}}})


def service(objects: list[Object]) -> Object:
    (found,) = (
        one
        for one in of_kind(objects, "Deployment")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "service"
    )
    return found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"serving": {"replicas": 2}}, ["1 replica", "sqlite", "got 2", "database.type url"]),
        ({"serving": {"autoscaling": {"enabled": True}}}, ["sqlite", "database.type url"]),
        ({"database": {"type": "url"}}, ["database.url.existingSecret", "kubectl create secret"]),
        ({"workspace": {"type": "s3"}}, ["workspace.s3.uri", "s3://"]),
        (
            {"workspace": {"type": "s3", "s3": {"uri": "s3://bucket/x"}}},
            ["database.type", "object storage"],
        ),
        (
            merged(SCALED, nested("serving.autoscaling.minReplicas", 9)),
            ["maxReplicas", "which is 9"],
        ),
        ({"ingress": {"enabled": True}}, ["ingress.hosts"]),
        ({"httpRoute": {"enabled": True}}, ["httpRoute.parentRefs"]),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    line = refusal(given)
    assert [word for word in ["expected", "got", *said] if word not in line] == []


def test_a_single_pod_is_replaced_and_several_are_rolled():
    """SQLite has one writer, and a volume of one node may not follow: no new pod beside the old."""
    assert service(render())["spec"]["strategy"]["type"] == "Recreate"
    assert service(render(given=URL))["spec"]["strategy"]["type"] == "Recreate"
    assert service(render(given=SEVERAL))["spec"]["strategy"]["type"] == "RollingUpdate"


def test_an_autoscaler_owns_the_replicas():
    """With both, every upgrade would throw the number back."""
    assert service(render())["spec"]["replicas"] == 1
    objects = render(given=SCALED)
    assert "replicas" not in service(objects)["spec"]
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == service(objects)["metadata"]["name"]
    assert 1 < scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]
    assert of_kind(render(), "HorizontalPodAutoscaler") == []
    (metric,) = scaler["spec"]["metrics"]
    for container in service(objects)["spec"]["template"]["spec"]["containers"]:
        assert metric["resource"]["name"] in container["resources"]["requests"]


@pytest.mark.parametrize("given", [SEVERAL, SCALED])
def test_nodes_can_be_emptied(given):
    """A budget must leave one pod to take away, and is not there when there is only one."""
    assert of_kind(render(), "PodDisruptionBudget") == []
    (budget,) = of_kind(render(given=given), "PodDisruptionBudget")
    assert "minAvailable" not in budget["spec"]
    assert budget["spec"]["maxUnavailable"] >= 1


def checksums(objects: list[Object]) -> dict[str, dict[str, str]]:
    return {
        str(pod): {name: value for name, value in pod.annotations.items() if "checksum/" in name}
        for pod in pods(objects)
    }


def reads_settings(pod: Pod) -> bool:
    stays = pod.owner["kind"] not in ("Job", "CronJob", "Pod", "RayJob")
    return stays and any(container.get("envFrom") for container in pod.spec["containers"])


@pytest.mark.parametrize("case", CASES)
def test_pods_are_made_anew_when_settings_change_and_only_then(case):
    before = checksums(render(case))
    after = checksums(render(case, {"settings": {"block_max_bytes": 12345678}}))
    same = checksums(render(case, UPGRADED))
    reading = {str(pod) for pod in pods(render(case)) if reads_settings(pod)}
    assert reading
    assert [name for name in reading if not before[name] or before[name] == after[name]] == []
    assert same == before


@pytest.mark.parametrize("case", CASES)
def test_the_same_values_give_the_same_objects(case):
    """Only tokens and passwords are drawn anew, and in a cluster those are looked up."""
    again = load(run("template ntk", case, f"--namespace={NAMESPACE}").stdout)
    first, second = (
        [one for one in half if one["kind"] != "Secret"] for half in (render(case), again)
    )
    assert first == second


@pytest.mark.parametrize("case", CASES)
def test_notes_name_what_is_there(case):
    text, there = notes(case), provided(render(case))
    named = NAMED.findall(text)
    assert any(SHORT.get(kind, kind) == "service" for kind, _ in named)
    known = {(kind.lower(), name) for kind, name in there}
    known |= {("secret", name) for name in outside(values(case))}
    missing = [
        f"{kind}/{name}" for kind, name in named if (SHORT.get(kind, kind), name) not in known
    ]
    assert missing == []
    assert "<no value>" not in text


@pytest.mark.parametrize("case", CASES)
def test_commands_in_the_notes_are_taken(case):
    known = programs()["ntk-dist"]
    for line in notes(case).splitlines():
        found = re.match(r"\s*(?:\$ )?ntk-dist (.*)", line)
        if found:
            assert complaint(known, found[1].split()) is None, line


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"engine": {"type": "ray"}}, "ReadWriteMany"),
        ({"engine": {"type": "dask"}}, "ReadWriteMany"),
        (merged(URL, {"serving": {"replicas": 3}}), "ReadWriteMany"),
        (SCALED, "drivers"),
        (SHARED, "locks"),
        ({"database": {"type": "bundled"}}, "trials"),
    ],
)
def test_what_may_go_wrong_is_said(given, word):
    text = notes(given=given)
    assert "WARNING" in text
    assert word in text.partition("WARNING")[2]


def test_nothing_is_said_against_the_defaults():
    assert "WARNING" not in notes()


def test_the_notes_follow_the_port():
    assert ":9090" in notes(given={"service": {"port": 9090}})


@pytest.mark.parametrize("case", CASES)
def test_gpu_pods_go_where_gpus_are(case):
    """They tolerate the taint that keeps others off nodes with devices."""
    for pod in pods(render(case)):
        wants = any("nvidia.com/gpu" in one["resources"]["limits"] for one in pod.containers)
        tolerates = any(
            one.get("key") == "nvidia.com/gpu" for one in pod.spec.get("tolerations", [])
        )
        assert wants <= tolerates, str(pod)


@pytest.mark.parametrize("case", CASES)
def test_what_took_hours_outlives_the_release(case):
    for claim in of_kind(render(case), "PersistentVolumeClaim"):
        kept = claim["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        assert kept == values(case)["workspace"]["pvc"]["keep"], title(claim)
