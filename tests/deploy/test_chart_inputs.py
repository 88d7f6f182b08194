"""Values that people really give: big numbers, words that look like numbers, names given twice."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import Any

import charts
import pytest
import schemas
import values_table
from charts import CASES, NAMESPACE, Object, merged, nested, refusal, render, run, values
from environment import environment, ours
from pods import pods

BIG = 123456789
"""A number that Helm would write as 1.23456789e+08."""
EXPONENT = re.compile(r"\b\d+(?:\.\d+)?e\+\d+\b")
NUMERAL = "1234"
RICH_CASES = ["everything", "ray-serve", "dask-operator", "dask-plain", "s3-external"]
"""Together they make an object of every kind, and each takes a second."""
UNIQUE = {"env": "name", "volumeMounts": "mountPath", "ports": "containerPort"}
"""Lists whose entries the API server tells apart by this key; it refuses two of a kind."""


def filled(schema: Object, root: Object, given: Any, fill: Any) -> Any:
    """The values, with ``fill(schema)`` wherever it is not None; lists keep their length."""
    schema = values_table.resolved(schema, root)
    value = fill(schema)
    if value is not None:
        return value
    if isinstance(given, dict):
        known = schema.get("properties", {})
        own = {key: filled(known[key], root, given[key], fill) for key in given if key in known}
        return given | own
    if isinstance(given, list) and "items" in schema:
        return [filled(schema["items"], root, one, fill) for one in given]
    return given


def big(schema: Object) -> Any:
    is_number = "integer" in schema.get("type", ()) and "string" not in schema["type"]
    return BIG if is_number and schema.get("maximum", BIG) >= BIG else None


def numeral(schema: Object) -> Any:
    """For words that may be any; what must have a form cannot look like a number."""
    is_word = schema.get("type") in ("string", ["string", "null"])
    return NUMERAL if is_word and not {"pattern", "enum"} & schema.keys() else None


def test_rich_cases_make_every_kind():
    made = {thing["kind"] for case in RICH_CASES for thing in render(case)}
    assert made == {thing["kind"] for case in CASES for thing in render(case)}


@pytest.mark.parametrize("case", RICH_CASES)
def test_big_numbers_are_written_out(case):
    root = charts.schema()
    given = filled(root, root, values(case), big)
    assert given["settings"]["block_max_bytes"] == BIG
    if given["database"]["type"] == "sqlite":
        given = merged(given, nested("serving.replicas", 1))
    text = charts.text(case, given)
    assert [line.strip() for line in text.splitlines() if EXPONENT.search(line)] == []
    assert str(BIG) in text


@pytest.mark.parametrize("case", RICH_CASES)
def test_words_that_look_like_numbers_stay_words(case):
    root = charts.schema()
    given = filled(root, root, values(case), numeral)
    newest = schemas.versions()[-1]
    objects = render(case, merged(given, {"fullnameOverride": ""}))
    kuberay = [] if schemas.CRDS.is_dir() else [schemas.KUBERAY]
    found = [
        problem
        for thing in objects
        if schemas.group(thing) not in kuberay
        for problem in schemas.problems(thing, newest)
    ]
    assert found == []


def twice(objects: list[Object]) -> Iterator[str]:
    """Entries of lists that have the same key."""
    for pod in pods(objects):
        names = [volume["name"] for volume in pod.spec.get("volumes", [])]
        if len(names) != len(set(names)):
            yield f"{pod}: volumes {sorted(names)}"
        for container in pod.containers:
            for part, key in UNIQUE.items():
                keys = [str(one[key]) for one in container.get(part, [])]
                if len(keys) != len(set(keys)):
                    yield f"{pod}: {container['name']}: {part} {sorted(keys)}"


@pytest.mark.parametrize("case", CASES)
def test_lists_have_no_entry_twice(case):
    assert list(twice(render(case))) == []


def test_an_entry_that_is_there_twice_is_found():
    container = {"name": "one", "env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}
    pod = {"kind": "Pod", "metadata": {"name": "one"}, "spec": {"containers": [container]}}
    assert list(twice([pod])) == ["Pod/one: one: env ['A', 'A', 'B']"]


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("case", ["values", "ray-gpu", "dask-plain"])
def test_a_variable_of_the_user_s_takes_the_place_of_ours(case, name):
    objects = render(case, {"extraEnv": [{"name": name, "value": "7"}]})
    assert list(twice(objects)) == []
    stay = [
        container
        for pod, container in ours(objects, values(case)["image"]["repository"])
        if pod.owner["kind"] in ("Deployment", "RayCluster")
    ]
    assert {environment(container, objects)[name] for container in stay} == {"7"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"commonLabels": {"app.kubernetes.io/name": "mine"}}, "app.kubernetes.io/name"),
        ({"commonLabels": {"app.kubernetes.io/component": "mine"}}, "component"),
        ({"serving": {"podAnnotations": {"checksum/settings": "mine"}}}, "checksum/settings"),
    ],
)
def test_labels_that_are_the_chart_s_are_refused(given, said):
    """A label given twice would be refused by the cluster, or change a selector."""
    line = refusal(given).replace("~1", "/")  # as a JSON pointer writes it
    assert said in line


@pytest.mark.parametrize("case", ["values", "everything"])
def test_the_packaged_chart_is_the_same(case, tmp_path):
    """What .helmignore keeps out must be missed by nobody."""
    packed = run("package", "values", f"--destination={tmp_path}")
    assert packed.returncode == 0, packed.stderr
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
        names = file.getnames()
    assert not [name for name in names if "/ci/" in name]
    assert {"ntk-dist/README.md", "ntk-dist/values.schema.json"} <= set(names)
    again = charts.load(
        run("template ntk", case, f"--namespace={NAMESPACE}", chart=tmp_path / "ntk-dist").stdout
    )
    halves = [[one for one in half if one["kind"] != "Secret"] for half in (render(case), again)]
    assert halves[0] == halves[1]
