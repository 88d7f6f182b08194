"""Values: every one is described, a wrong one is refused by its name, the README says them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import charts
import pytest
import values_table
from charts import CASES, CHART, Object, nested, refusal, values

FREE = {
    *("annotations", "podAnnotations", "labels", "commonLabels", "nodeSelector", "affinity"),
    *("requests", "limits", "matchLabels", "operatorNamespaces"),
}
"""Objects whose keys are other people's."""
OTHERS = {
    *("tolerations", "extraEnv", "extraVolumes", "extraVolumeMounts"),
    *("serviceFrom", "metricsFrom", "parentRefs", "job"),
}
"""Lists of Kubernetes' own objects, which Kubernetes checks, and job files, which we check."""


def parts(schema: Object, root: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every schema below, by the name of its value."""
    schema = values_table.resolved(schema, root)
    yield path, schema
    for key, part in (schema.get("properties") or {}).items():
        yield from parts(part, root, f"{path}.{key}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        yield from parts(schema["items"], root, f"{path}[]")


def described() -> dict[str, Object]:
    root = charts.schema()
    return {path: part for path, part in parts(root, root) if path}


def is_free(path: str) -> bool:
    *above, last = path.replace("[]", "").split(".")
    return last in FREE or not OTHERS.isdisjoint([*above, last])


def test_every_value_is_described():
    assert [
        path
        for path, part in described().items()
        if not part.get("description") and not path.endswith("[]")
    ] == []


def test_every_value_has_a_type():
    kinds = ("type", "enum", "const", "anyOf", "oneOf")
    assert [
        path for path, part in described().items() if not any(one in part for one in kinds)
    ] == []


def test_no_other_key_is_taken_anywhere():
    root = charts.schema()
    open_ = [
        path
        for path, part in parts(root, root)
        if ("properties" in part or part.get("type") == "object")
        and part.get("additionalProperties") is not False
        and not is_free(path)
    ]
    assert open_ == []


def test_values_and_schema_have_the_same_keys():
    def keys(given: Any, path: str = "") -> Iterator[str]:
        for key, value in given.items():
            inner = f"{path}.{key}".lstrip(".")
            yield inner
            if isinstance(value, dict) and not is_free(inner):
                yield from keys(value, inner)

    default = charts.defaults()
    there = {path for path in keys(default) if not is_free(path)}
    open_ = {path for path, value in leaves(default) if value == {}}
    schema = {
        path
        for path in described()
        if "[]" not in path
        and not is_free(path)
        # Of an object that is empty by default the keys are in the schema alone.
        and not any(path.startswith(f"{one}.") for one in open_)
    }
    assert schema == there


def leaves(given: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        inner = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value and not is_free(inner):
            yield from leaves(value, inner)
        else:
            yield inner, value


def test_every_value_is_read_by_a_template():
    """One that nothing reads would be a promise that is not kept."""
    text = "".join(
        file.read_text(encoding="utf-8")
        for file in (CHART / "templates").rglob("*")
        if file.is_file()
    )
    unread = [
        path
        for path, _ in leaves(charts.defaults())
        if not path.startswith("settings.") and f".{path.rpartition('.')[2]}" not in text
    ]
    assert unread == []


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_typo_is_refused_at_every_depth(depth):
    paths = sorted(
        path
        for path, part in described().items()
        if "properties" in part and "[]" not in path and path.count(".") == depth - 2
    )
    path = f"{paths[0]}.treads" if depth > 1 else "treads"
    assert "treads" in refusal(nested(path, 1))


def is_named(path: str, said: str) -> bool:
    """``/a/b`` or ``a.b``: Helm has changed how it writes it."""
    return re.search(rf"\b{re.escape(path)}\b(?!\.)", said.replace("/", ".")) is not None


def test_a_value_of_the_wrong_kind_is_refused_by_name():
    """All of them in one go: Helm says everything that is wrong."""
    wrong: Object = {}
    paths = []
    for path, part in described().items():
        if "[]" in path or "properties" in part or is_free(path):
            continue
        kinds = part.get("type", "string")
        value = "text" if "boolean" in kinds else True
        wrong = charts.merged(wrong, nested(path, value))
        paths.append(path)
    said = refusal(wrong)
    assert len(paths) > 80
    assert [path for path in paths if not is_named(path, said)] == []


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("engine.type", "spark", "engine.type"),
        ("database.type", "mysql", "database.type"),
        ("workspace.type", "nfs", "workspace.type"),
        ("serving.type", "statefulset", "serving.type"),
        ("service.type", "ExternalName", "service.type"),
        ("settings.log_level", "loud", "settings.log_level"),
        ("settings.threads", 0, "settings.threads"),
        ("settings.service.max_rows", 0, "settings.service.max_rows"),
        ("settings.service.max_row", 10, "max_row"),
        ("serving.replicas", 0, "serving.replicas"),
        ("service.port", 65536, "service.port"),
        ("workspace.pvc.size", "fifty", "workspace.pvc.size"),
        ("engine.ray.workerGroups", [{"name": "A_B"}], "engine.ray.workerGroups.0"),
        ("engine.ray.workerGroups", [{"name": "cpu", "gpu": 1}], "gpu"),
        ("workspace.pvc.size", "-5Gi", "workspace.pvc.size"),
        ("workspace.pvc.size", -5, "workspace.pvc.size"),
        ("scratch.tmpSize", -1, "scratch.tmpSize"),
        ("commonLabels", {"team": "a\nb: c"}, "commonLabels.team"),
        ("commonLabels", {"team": "a" * 64}, "commonLabels.team"),
        ("serving.nodeSelector", {"zone": "a\nb"}, "serving.nodeSelector.zone"),
    ],
)
def test_what_cannot_be_is_refused_by_name(path, value, named):
    said = refusal(nested(path, value))
    assert is_named(named, said) if "." in named else named in said


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_section_that_is_emptied_is_missed_by_name(depth):
    """Null takes a default away, and a template would stumble over what is not there."""
    optional = {"settings.log_level"}  # what is not given there is the package's own default
    paths = [
        path.split(".")
        for path, value in leaves(charts.defaults())
        if value is not None and path not in optional
    ]
    keys = {".".join(path[:depth]) for path in paths if len(path) >= depth}
    given: Object = {}
    for path in keys:
        given = charts.merged(given, nested(path, None))
    said = refusal(given)
    assert "nil pointer" not in said
    assert [path for path in keys if f"'{path.rpartition('.')[2]}'" not in said] == []


def test_the_readme_has_the_table_of_values():
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert readme == values_table.with_table(readme, values_table.table()), (
        "write it anew: python tests/deploy/values_table.py --write"
    )


def test_the_table_tells_all_there_is():
    root: Object = {
        "properties": {
            "a": {
                "properties": {
                    "b": {"type": ["string", "null"], "description": "One | two."},
                    "c": {"enum": ["x", "y"]},
                }
            },
            "d": {"type": "array", "items": {"$ref": "#/$defs/d"}, "description": "All."},
            "e": {"type": "array", "items": {"type": "string"}},
        },
        "$defs": {"d": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }
    given = {"a": {"b": None, "c": "x"}, "d": [], "e": ["s"]}
    assert list(values_table.rows(root, root, given)) == [
        ("a.b", "string or null", "`null`", "One | two."),
        ("a.c", "`x` or `y`", '`"x"`', ""),
        ("d", "list of objects", "`[]`", "All."),
        ("d[].n", "integer", "", ""),
        ("e", "list of strings", '`["s"]`', ""),
    ]


def test_cases_change_something_and_together_everything():
    """Every switch is thrown by some case, so that no branch goes unrendered."""
    default = dict(leaves(charts.defaults()))
    changed = {
        path for case in CASES for path, value in leaves(values(case)) if value != default.get(path)
    }
    switches = {
        path
        for path, part in described().items()
        if "enum" in part or part.get("type") == "boolean"
    }
    own = {path for path in switches if "[]" not in path and not path.endswith("pullPolicy")}
    assert own - changed - {"settings.log_level"} == set()
