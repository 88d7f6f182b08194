"""The variables that a container will see, as Kubernetes puts them together."""

from __future__ import annotations

import math
from typing import Any

from charts import Object, of_kind
from pods import Pod, pods
from policies import quantity
from references import secrets

from ntk_dist.settings import ServiceSettings, Settings

ELSEWHERE = "comes from outside the release"
SETTINGS = {
    **{f"NTK_DIST_{name.upper()}": name for name in Settings.model_fields if name != "service"},
    **{f"NTK_DIST_SERVICE__{name.upper()}": name for name in ServiceSettings.model_fields},
}
"""What the package reads as settings."""
BESIDE = {"NTK_DIST_TOKEN", "NTK_DIST_SETTINGS_FILE"}
"""What it reads besides."""


def ours(objects: list[Object], repository: str) -> list[tuple[Pod, Object]]:
    """Containers of our image, each with its pod."""
    return [
        (pod, container)
        for pod in pods(objects)
        for container in pod.containers
        if f"{repository}:" in container["image"] or f"{repository}@" in container["image"]
    ]


def environment(container: Object, objects: list[Object]) -> dict[str, str]:
    """Name and value of each variable; ``env`` wins over ``envFrom``, the last over the first."""
    maps = {one["metadata"]["name"]: one.get("data") or {} for one in of_kind(objects, "ConfigMap")}
    held = {one["metadata"]["name"]: secrets(one) for one in of_kind(objects, "Secret")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= maps.get(source["configMapRef"]["name"], {})
        else:
            found |= held.get(source["secretRef"]["name"], {})
    for variable in container.get("env", []):
        found[variable["name"]] = _value(variable, container, maps, held)
    return found


def _value(variable: Object, container: Object, maps: Any, held: Any) -> str:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if "resourceFieldRef" in source:
        part, _, resource = source["resourceFieldRef"]["resource"].partition(".")
        # In whole units, rounded up, as the kubelet does.
        return str(math.ceil(quantity(container["resources"][part][resource])))
    for kind, known in (("configMapKeyRef", maps), ("secretKeyRef", held)):
        if kind in source:
            return str(known.get(source[kind]["name"], {}).get(source[kind]["key"], ELSEWHERE))
    return ELSEWHERE
