"""Hooks run when what they need is there, and clear up after themselves."""

from __future__ import annotations

from typing import Any

import pytest
from charts import CASES, Object, render, title, values
from pods import pods
from references import dangling, outside

HOOK = "helm.sh/hook"
BEFORE = {"pre-install", "pre-upgrade", "pre-rollback"}
"""At these the release's own objects are not there yet, or are those of the version before."""


def hooks(objects: list[Object]) -> dict[str, Object]:
    return {
        title(thing): thing
        for thing in objects
        if HOOK in (thing["metadata"].get("annotations") or {})
    }


def moments(thing: Object) -> set[str]:
    return set(thing["metadata"]["annotations"][HOOK].split(","))


def needing_what_is_not_there(objects: list[Object], given: set[str]) -> list[str]:
    """Early hooks that name something of the release which no earlier hook makes."""
    early = [thing for thing in hooks(objects).values() if moments(thing) & BEFORE]
    return dangling(early, given)


@pytest.mark.parametrize("case", CASES)
def test_early_hooks_need_nothing_of_the_release(case):
    assert needing_what_is_not_there(render(case), outside(values(case))) == []


def test_an_early_hook_that_needs_the_release_is_found():
    source: Any = {"envFrom": [{"configMapRef": {"name": "settings"}}]}
    spec = {"template": {"spec": {"containers": [{"name": "one", **source}]}}}
    metadata = {"name": "one", "annotations": {HOOK: "pre-install,pre-upgrade"}}
    job = {"kind": "Job", "metadata": metadata, "spec": spec}
    settings = {"kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {}}
    (found,) = needing_what_is_not_there([job, settings], set())
    assert "no ConfigMap 'settings'" in found
    metadata["annotations"] = {HOOK: "post-install"}
    assert needing_what_is_not_there([job, settings], set()) == []


@pytest.mark.parametrize("case", CASES)
def test_hooks_make_way_for_the_next_ones(case):
    """A Job cannot be changed: without this the second upgrade would fail."""
    for name, thing in hooks(render(case)).items():
        policy = thing["metadata"]["annotations"].get("helm.sh/hook-delete-policy", "")
        assert "before-hook-creation" in policy.split(","), name


@pytest.mark.parametrize("case", CASES)
def test_hooks_come_to_an_end(case):
    for pod in pods(list(hooks(render(case)).values())):
        assert pod.spec["restartPolicy"] in ("Never", "OnFailure"), str(pod)
        deadline = pod.owner["spec"].get("activeDeadlineSeconds")
        assert deadline, str(pod)


@pytest.mark.parametrize("case", CASES)
def test_there_is_something_for_helm_test(case):
    testing = [
        thing
        for thing in hooks(render(case)).values()
        if "test" in moments(thing) and thing["kind"] in ("Pod", "Job")
    ]
    assert len(testing) == 1


@pytest.mark.parametrize("case", CASES)
def test_a_database_of_someone_else_is_upgraded_before_the_pods(case):
    upgrades = [moments(thing) for thing in hooks(render(case)).values() if thing["kind"] == "Job"]
    is_theirs = values(case)["database"]["type"] == "url"
    assert upgrades == ([{"pre-install", "pre-upgrade"}] if is_theirs else [])
