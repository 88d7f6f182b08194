"""Every pod that a set of objects makes, wherever its template sits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from charts import Object, title

RUN_TO_AN_END = ("Job", "CronJob", "Pod", "RayJob", "DaskJob")
PROBED_BY_THE_OPERATOR = ("RayCluster", "RayService", "RayJob", "RayCronJob")
"""KubeRay gives Ray's containers the probes that they do not bring."""
WORKLOADS = (
    *("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"),
    *("RayCluster", "RayService", "DaskCluster"),
)
"""Kinds that cannot do without a pod template."""


@dataclass(frozen=True)
class Pod:
    """One pod template.

    Parameters
    ----------
    owner
        The object that holds it.
    path
        Where in the object, ``spec.template``.
    metadata
        Labels and annotations of the pods.
    spec
        The PodSpec.
    """

    owner: Object
    path: str
    metadata: Object
    spec: Object

    def __str__(self) -> str:
        return f"{title(self.owner)} {self.path}".strip()

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.get("labels") or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.get("annotations") or {}

    @property
    def containers(self) -> list[Object]:
        """Those that start first, then the others."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def long_running(self) -> list[Object]:
        """Containers that stay: not those of jobs, nor those that only prepare."""
        sidecars = [
            container
            for container in self.spec.get("initContainers", [])
            if container.get("restartPolicy") == "Always"
        ]
        ends = self.owner["kind"] in RUN_TO_AN_END
        return sidecars if ends else [*sidecars, *self.spec["containers"]]


def pods(objects: list[Object]) -> list[Pod]:
    """Pod templates of all objects: every mapping that has a list of containers."""
    return [pod for thing in objects for pod in _inside(thing, thing, thing, ())]


def _inside(owner: Object, holder: Object, value: Any, path: tuple[str, ...]) -> Iterator[Pod]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _inside(owner, holder, item, (*path, str(index)))
        return
    if not isinstance(value, dict):
        return
    if isinstance(value.get("containers"), list):
        yield Pod(owner, ".".join(path[:-1]), _metadata(owner, holder, path), value)
    for key, item in value.items():
        yield from _inside(owner, value, item, (*path, key))


def _metadata(owner: Object, holder: Object, path: tuple[str, ...]) -> Object:
    """What the pods will carry, with the labels that operators add to them."""
    own: Object = holder.get("metadata") or {}
    above = owner["metadata"]
    if owner["kind"].startswith("Dask"):
        # What its object carries, then what is given for this part, then the operator's own.
        labels = (above.get("labels") or {}) | (own.get("labels") or {})
        labels |= {"dask.org/cluster-name": above["name"], "dask.org/component": path[-2]}
        annotations = (above.get("annotations") or {}) | (own.get("annotations") or {})
        return {"labels": labels, "annotations": annotations}
    if "headGroupSpec" in path or "workerGroupSpecs" in path:
        kind = "head" if "headGroupSpec" in path else "worker"
        added = {"ray.io/is-ray-node": "yes", "ray.io/node-type": kind}
        if owner["kind"] == "RayCluster":
            added["ray.io/cluster"] = above["name"]
        return own | {"labels": (own.get("labels") or {}) | added}
    return own
