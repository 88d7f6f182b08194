"""Objects against the schemas of those who will read them; each check says what is wrong."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import operators
import yaml
from charts import Object, title
from required import require

KUBERAY = "ray.io"
CRDS = Path(
    os.environ.get("NTK_DIST_KUBERAY_CRDS") or Path(__file__).parents[3] / "shared" / "crds"
)
"""KubeRay's definitions are not of this project and not packaged anywhere: 4 MB from its chart."""
NO_CRDS = f"KubeRay's definitions are not in {CRDS.name}/ (NTK_DIST_KUBERAY_CRDS names the folder)"


def group(thing: Object) -> str:
    """``ray.io``; empty for Kubernetes' own core."""
    return str(thing["apiVersion"]).rpartition("/")[0]


def kubernetes_validate() -> Any:
    """The library that carries Kubernetes' own schemas."""
    return require("helm")


def versions() -> list[str]:
    """Those of Kubernetes whose schemas are here, oldest first."""
    every = kubernetes_validate().utils.all_versions()
    return [".".join(one.split(".")[:2]) for one in every]


def problems(thing: Object, version: str) -> list[str]:
    """What a cluster of that version would not take, unknown fields included."""
    if group(thing) == KUBERAY:
        errors = _errors(_kuberay(thing["kind"], _version(thing)), thing)
    elif group(thing) in operators.SCHEMAS:
        errors = _operator_errors(thing, version)
    else:
        errors = _kubernetes_errors(json.dumps(thing, sort_keys=True), version)
    return [f"{title(thing)}: {error}" for error in errors]


def _version(thing: Object) -> str:
    return str(thing["apiVersion"]).rpartition("/")[2]


def _errors(schema: Object, thing: Object) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [_text(error) for error in validator.iter_errors(thing)]


def _text(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


def _operator_errors(thing: Object, version: str) -> list[str]:
    schema = operators.SCHEMAS[group(thing)].get(thing["kind"])
    if schema is None:
        return [f"no {thing['kind']} is known of {group(thing)}"]
    errors = _errors(schema, thing)
    for part in [] if errors else operators.parts(thing):
        errors += _kubernetes_errors(json.dumps(part, sort_keys=True), version)
    return errors


@cache
def _kubernetes_errors(text: str, version: str) -> list[str]:
    """By text: most objects are the same in most cases."""
    library = kubernetes_validate()
    try:
        library.validate(json.loads(text), version, strict=True)
    except library.ValidationError as error:
        return [_text(error)]
    except library.SchemaNotFoundError as error:
        return [error.message]
    return []


@cache
def _kuberay(kind: str, version: str) -> Object:
    file = CRDS / f"ray.io_{kind.lower()}s.yaml"
    definition = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
    (schema,) = (
        one["schema"]["openAPIV3Schema"]
        for one in definition["spec"]["versions"]
        if one["name"] == version
    )
    return strict(schema)


def strict(schema: Object) -> Object:
    """The same, but what it does not name is refused, where Kubernetes would drop it in silence."""
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {key: strict(part) for key, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for inner in ("items", "additionalProperties"):
        if isinstance(made.get(inner), dict):
            made[inner] = strict(made[inner])
    return made
