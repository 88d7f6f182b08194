"""Names are short enough for what is made of them, and two releases share none."""

from __future__ import annotations

import re

import charts
import pytest
from charts import CASES, UPGRADED, Object, of_kind, render, title, values
from pods import pods
from references import selects

LONG = "a-release-name-of-fifty-three-characters-which-is-most"
LONGEST_RELEASE = LONG[:52] + "a"
RELEASES = [
    *((case, release) for case in CASES for release in ("ntk", LONGEST_RELEASE)),
    *((case, release) for case in ("values", "everything") for release in ("1st", "a.b")),
]
"""The longest that Helm takes, one that no Service may begin like, one with a dot."""
SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LONGEST = {
    # What a controller or an operator adds for the longest label, or service, that it makes of it.
    "StatefulSet": 52,  # -0123456789, the revision
    "CronJob": 52,
    "RayCluster": 41,  # -head-svc; operators before 1.4 cut the service's name to 50
    "RayService": 40,  # -serve-svc
    "RayJob": 47,  # -abcde, its cluster, whose service is known to KubeRay alone
    "DaskCluster": 37,  # -default-worker-0123456789
}
CHANGING = ("version", "chart", "checksum", "revision", "heritage", "managed-by")
RECOMMENDED = {
    *(f"app.kubernetes.io/{name}" for name in ("name", "instance", "managed-by", "version")),
    "helm.sh/chart",
}


def name_problems(objects: list[Object]) -> list[str]:
    found = []
    for thing in objects:
        name = thing["metadata"]["name"]
        form = SERVICE if thing["kind"] in ("Service", "RayCluster", "RayService") else LABEL
        if not form.fullmatch(name) or len(name) > LONGEST.get(thing["kind"], 63):
            found.append(f"{title(thing)}: {len(name)} characters")
    for pod in pods(objects):
        inner = [*pod.containers, *pod.spec.get("volumes", [])]
        found += [f"{pod}: {one['name']}" for one in inner if not LABEL.fullmatch(one["name"])]
        for container in pod.containers:
            for port in container.get("ports", []):
                if len(port.get("name", "")) > 15:
                    found.append(f"{pod}: port {port['name']}: 15 characters at most")
    return found


def longest_name(path: str) -> str:
    """The longest word that the schema takes as the name of one of a list."""
    found = charts.schema()
    for key in path.split("."):
        found = found["properties"][key]
    return "n" * found["items"]["properties"]["name"]["maxLength"]


def labels_of(thing: Object) -> dict[str, str]:
    return thing["metadata"].get("labels") or {}


@pytest.mark.parametrize(("case", "release"), RELEASES)
def test_names_are_taken_everywhere(case, release):
    assert name_problems(render(case, release=release)) == []


def test_names_with_parts_that_are_given_are_taken():
    ray = values("ray-gpu")["engine"]["ray"]
    group = ray["workerGroups"][0] | {"name": longest_name("engine.ray.workerGroups")}
    job = ray["jobs"][0] | {"name": longest_name("engine.ray.jobs")}
    given = {"engine": {"ray": {"workerGroups": [group], "jobs": [job]}}}
    objects = render("ray-gpu", given, release=LONGEST_RELEASE)
    assert name_problems(objects) == []
    for thing in of_kind(objects, "RayCluster", "RayJob"):
        spec = thing["spec"].get("rayClusterSpec", thing["spec"])
        for worker in spec["workerGroupSpecs"]:
            assert LABEL.fullmatch(worker["groupName"])


@pytest.mark.parametrize(("case", "release"), RELEASES)
def test_labels_are_taken_everywhere(case, release):
    objects = render(case, release=release)
    found = [(str(pod), pod.labels) for pod in pods(objects)]
    found += [(title(thing), labels_of(thing)) for thing in objects]
    wrong = [
        f"{where}: {name}={value}"
        for where, labels in found
        for name, value in labels.items()
        if not (isinstance(value, str) and LABEL_VALUE.fullmatch(value))
    ]
    assert wrong == []


@pytest.mark.parametrize("case", CASES)
def test_every_object_says_whose_it_is(case):
    assert [
        title(thing) for thing in render(case) if not labels_of(thing).keys() >= RECOMMENDED
    ] == []
    assert {labels_of(thing)["app.kubernetes.io/instance"] for thing in render(case)} == {"ntk"}


@pytest.mark.parametrize(("one", "other"), [("ntk", "other"), (LONGEST_RELEASE, LONG[:52] + "b")])
@pytest.mark.parametrize("case", CASES)
def test_two_releases_share_no_name(case, one, other):
    # A name that the values give is theirs to keep apart.
    given = {"fullnameOverride": "", "serviceAccount": {"name": ""}}
    if charts.merged(values(case), given) == values(case):
        given = None
    first, second = render(case, given, release=one), render(case, given, release=other)
    assert {title(thing) for thing in first} & {title(thing) for thing in second} == set()


@pytest.mark.parametrize("case", CASES)
def test_two_releases_do_not_pick_each_other_s_pods(case):
    first, second = render(case), render(case, release="other")
    picked = [
        f"{title(thing)} picks {pod}"
        for thing in of_kind(first, "Service", "Deployment", "StatefulSet", "NetworkPolicy")
        for pod in pods(second)
        if selects(selector(thing), pod.labels)
    ]
    assert picked == []


def selector(thing: Object) -> dict[str, str]:
    spec = thing["spec"]
    if thing["kind"] == "Service":
        return spec["selector"]
    return (spec.get("selector") or spec["podSelector"]).get("matchLabels") or {}


@pytest.mark.parametrize("case", CASES)
def test_selectors_survive_an_upgrade(case):
    """They can never be changed, so nothing that changes with a version may be in them."""
    for thing in of_kind(render(case), "Deployment", "StatefulSet"):
        wanted = selector(thing)
        assert wanted, title(thing)
        assert not [name for name in wanted if name.rpartition("/")[2] in CHANGING], title(thing)
        assert wanted == selector(
            next(one for one in render(case, UPGRADED) if title(one) == title(thing))
        )
        labels = thing["spec"]["template"]["metadata"]["labels"]
        assert wanted.items() <= labels.items(), title(thing)


@pytest.mark.parametrize("case", CASES)
def test_no_two_workloads_pick_the_same_pods(case):
    objects = render(case)
    for thing in of_kind(objects, "Deployment", "StatefulSet"):
        others = [pod for pod in pods(objects) if pod.owner is not thing]
        picked = [str(pod) for pod in others if selects(selector(thing), pod.labels)]
        assert picked == [], title(thing)


@pytest.mark.parametrize(
    ("kind", "name", "is_taken"),
    [
        ("Service", "1st", False),
        ("Service", "one", True),
        ("ConfigMap", "1st", True),
        ("ConfigMap", "one.two", False),
        ("ConfigMap", "One", False),
        ("ConfigMap", "a" * 64, False),
        ("StatefulSet", "a" * 53, False),
        ("StatefulSet", "a" * 52, True),
        ("RayCluster", "a" * 42, False),
        ("DaskCluster", "a" * 38, False),
    ],
)
def test_a_name_that_is_not_taken_is_found(kind, name, is_taken):
    thing = {"kind": kind, "metadata": {"name": name}, "spec": {}}
    assert (name_problems([thing]) == []) == is_taken
