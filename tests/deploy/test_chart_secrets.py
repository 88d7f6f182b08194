"""Secrets are in Secrets, and nowhere else."""

from __future__ import annotations

import json
import re

import pytest
from charts import CASES, Object, of_kind, render, title
from pods import pods
from references import secrets

from ntk_dist.service.tokens import token_id_of

NAMED_LIKE_A_SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|DATABASE_URL|CREDENTIAL")
PASSWORD_IN_URL = re.compile(r"://[^/\s:@\"]*:[^/\s@\"]+@")
SHORTEST = 12
"""Characters of what is worth guarding; ``postgres`` as a user's name is not."""


def told(objects: list[Object]) -> list[str]:
    """Where something secret is said aloud."""
    held = {
        value.strip()
        for thing in objects
        for value in secrets(thing).values()
        if len(value.strip()) >= SHORTEST
    }
    found = []
    for thing in objects:
        if thing["kind"] == "Secret":
            continue
        text = json.dumps(thing)
        found += [f"{title(thing)} has what a Secret holds" for value in held if value in text]
        if PASSWORD_IN_URL.search(text):
            found.append(f"{title(thing)} has a password in a URL")
    for pod in pods(objects):
        for container in pod.containers:
            for variable in container.get("env", []):
                if NAMED_LIKE_A_SECRET.search(variable["name"]) and "value" in variable:
                    found.append(f"{pod}: {variable['name']} is written out")
    return found


@pytest.mark.parametrize("case", CASES)
def test_nothing_secret_is_said_aloud(case):
    assert told(render(case)) == []


def test_what_is_said_aloud_is_found():
    secret = {"kind": "Secret", "metadata": {"name": "one"}, "stringData": {"a": "x" * SHORTEST}}
    config = {
        "kind": "ConfigMap",
        "metadata": {"name": "two"},
        "data": {"b": f"is {'x' * SHORTEST}"},
    }
    url = {"kind": "ConfigMap", "metadata": {"name": "three"}, "data": {"b": "s://me:word@host"}}
    variable = {"name": "NTK_DIST_TOKEN", "value": "ntkd"}
    spec = {"containers": [{"name": "one", "env": [variable]}]}
    pod = {"kind": "Pod", "metadata": {"name": "four"}, "spec": spec}
    assert told([secret]) == []
    assert told([secret, config]) == ["ConfigMap/two has what a Secret holds"]
    assert told([url]) == ["ConfigMap/three has a password in a URL"]
    assert told([pod]) == ["Pod/four: NTK_DIST_TOKEN is written out"]


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_ones_that_the_service_takes(case):
    made = [
        value
        for thing in of_kind(render(case), "Secret")
        for value in secrets(thing).values()
        if value.startswith("ntkd")
    ]
    for token in made:
        assert len(token_id_of(token)) == 12
        assert "\n" not in token
    assert len(made) == len(set(made))


def test_every_rendering_makes_other_secrets():
    """Two installations never share one, which a seed or a default would bring about."""
    first, second = render(release="one"), render(release="two")
    held = [{v for thing in half for v in secrets(thing).values()} for half in (first, second)]
    assert held[0]
    assert held[0] & held[1] == set()


def test_a_secret_that_exists_is_used_and_none_is_made():
    objects = render(given={"auth": {"existingSecret": "theirs"}})
    assert of_kind(objects, "Secret") == []
    named = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for pod in pods(objects)
        for container in pod.containers
        for variable in container.get("env", [])
        if variable["name"] == "NTK_DIST_TOKEN"
    }
    assert named == {"theirs"}


@pytest.mark.parametrize("case", CASES)
def test_only_what_opens_the_database_knows_its_password(case):
    """Workers run what jobs bring with them."""
    knowing = {
        pod.labels["app.kubernetes.io/component"]
        for pod in pods(render(case))
        for container in pod.containers
        for variable in container.get("env", [])
        if "DATABASE_URL" in variable["name"]
    }
    assert knowing <= {"service", "serve-head", "serve-worker", "database-upgrade"}
