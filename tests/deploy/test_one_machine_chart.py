"""The cluster on one machine runs what the pods of the chart run, and cannot drift from them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from charts import Object, of_kind, render
from required import require

SCRIPT = Path(__file__).parents[2] / "deploy" / "one_machine_cluster.py"


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module; nothing is started by that."""
    spec = importlib.util.spec_from_file_location("one_machine_cluster", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def containers(objects: list[Object], kind: str, name: str) -> Object:
    """The specification of the pods of one object."""
    (found,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found["spec"]["template"]["spec"]


def require_same_service(ours: dict[str, Any], objects: list[Object]) -> None:
    """What the service and its init container run, and the settings that follow from the engine."""
    service = containers(objects, "Deployment", "ntk-ntk-dist")
    assert tuple(service["initContainers"][0]["command"]) == ours["adopt"].command
    assert tuple(service["containers"][0]["command"]) == ours["service"].command
    (settings,) = [
        one["data"]
        for one in of_kind(objects, "ConfigMap")
        if "settings" in one["metadata"]["name"]
    ]
    for name, value in ours["service"].variables.items():
        same = json.loads if value.startswith("[") else str
        assert same(settings[name]) == same(value)


def test_nodes_of_ray_are_started_alike(script: Any) -> None:
    objects = render(given={"engine": {"type": "ray"}})
    (cluster,) = of_kind(objects, "RayCluster")
    head, (group,) = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    cpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    of_head, of_worker = head["rayStartParams"], {**group["rayStartParams"], "num-cpus": cpus}
    name = f"{cluster['metadata']['name']}-head-svc"  # as KubeRay calls it
    made = script.pods(
        script.Cluster(
            engine="ray",
            workspace="/workspace",
            head=name,
            workers=group["replicas"],
            worker_cpus=int(cpus),
            object_store_bytes=int(of_worker["object-store-memory"]),
        )
    )
    ours = {pod.name: pod for pod in made}
    assert list(ours) == ["head", "worker-1", "worker-2", "adopt", "service"]
    assert ours["head"].command == script.ray_start("--head", of_head)
    assert ours["worker-1"].command == script.ray_start(f"--address={name}:6379", of_worker)
    require_same_service(ours, objects)
    service = containers(objects, "Deployment", "ntk-ntk-dist")["containers"][0]
    secrets = {one["name"] for one in service["env"] if one["name"].startswith("RAY_AUTH")}
    assert secrets == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= script.node_variables("ray").keys()


def test_processes_of_dask_are_started_alike(script: Any) -> None:
    require("dask")
    objects = render(given={"engine": {"type": "dask"}})
    scheduler, worker = (
        containers(objects, "Deployment", f"ntk-ntk-dist-dask-{role}")["containers"][0]
        for role in ("scheduler", "worker")
    )
    made = script.pods(
        script.Cluster(engine="dask", workspace="/workspace", head="ntk-ntk-dist-dask-scheduler")
    )
    ours = {pod.name: pod for pod in made}
    assert ours["head"].command == tuple(scheduler["command"])
    assert ours["worker-1"].command == ours["worker-2"].command == tuple(worker["command"])
    require_same_service(ours, objects)


def test_a_database_with_a_url_is_upgraded_first(script: Any) -> None:
    database = {"type": "url", "url": {"existingSecret": "database"}}
    objects = render(given={"database": database})
    job = containers(objects, "Job", "ntk-ntk-dist-database-upgrade")["containers"][0]
    first, *_ = script.pods(
        script.Cluster(engine="ray", workspace="w", head="h", has_postgresql=True)
    )
    assert first.command == tuple(job["command"])


def test_what_a_machine_adds_is_where_and_not_what(script: Any, tmp_path: Path) -> None:
    cluster = script.Cluster(engine="ray", workspace="/w", head="127.9.9.2")
    made = script.pods(cluster)
    here = list(script.here(cluster, tmp_path, 2**30, 8080))
    assert [pod.name for pod in here] == [pod.name for pod in made]
    for there, pod in zip(made, here, strict=True):
        changed = [new for old, new in zip(there.command, pod.command, strict=False) if old != new]
        assert all("127." in word for word in changed), pod.name
    addresses = [word for pod in here for word in pod.command if "node-ip-address" in word]
    assert addresses == [f"--node-ip-address=127.9.9.{k}" for k in (2, 3, 4)]
