"""What objects name of each other: nothing may be named that is not there."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from charts import Object, of_kind, title
from pods import Pod, pods

ADDRESS = re.compile(
    r"(?:https?|dask|tcp|ray|postgresql\+psycopg)://(?:[^@/\s]*@)?"
    r"([a-z0-9-]+)(?:\.[a-z0-9.-]*)?:(\d+)"
)
HERE = {"localhost", "127", "0"}
RAY_PORTS = {"dashboard": 8265, "client": 10001, "gcs-server": 6379, "serve": 8000}


@dataclass(frozen=True)
class Reference:
    """One object names another, or a key of it."""

    where: str
    kind: str
    name: str
    key: str | None = None


def references(objects: list[Object]) -> Iterator[Reference]:
    """All that must be there for the objects to work, but for what is marked optional."""
    for pod in pods(objects):
        yield from _of_pod(pod)
    for thing in objects:
        spec, where = thing.get("spec") or {}, title(thing)
        if thing["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            yield Reference(where, target["kind"], target["name"])
        elif thing["kind"] == "Ingress":
            for rule in spec["rules"]:
                for path in rule["http"]["paths"]:
                    service = path["backend"]["service"]
                    port = next(iter(service["port"].values()))
                    yield Reference(where, "Service", service["name"], str(port))
            for one in spec.get("tls", []):
                yield Reference(where, "Secret", one["secretName"], "tls.crt")
        elif thing["kind"] == "HTTPRoute":
            for rule in spec["rules"]:
                for backend in rule["backendRefs"]:
                    yield Reference(where, "Service", backend["name"], str(backend["port"]))
        elif thing["kind"] == "ServiceMonitor":
            for endpoint in spec["endpoints"]:
                secret = endpoint.get("authorization", {}).get("credentials")
                if secret:
                    yield Reference(where, "Secret", secret["name"], secret["key"])
        elif thing["kind"] in ("RayCluster", "RayService"):
            secret = spec.get("rayClusterConfig", spec).get("authOptions", {}).get("secretName")
            if secret:
                yield Reference(where, "Secret", secret, "auth_token")
        elif thing["kind"] == "RayJob" and spec.get("clusterSelector"):
            yield Reference(where, "RayCluster", spec["clusterSelector"]["ray.io/cluster"])
        elif thing["kind"] == "DaskAutoscaler":
            yield Reference(where, "DaskCluster", spec["cluster"])


def _of_pod(pod: Pod) -> Iterator[Reference]:
    where, spec = str(pod), pod.spec
    if spec.get("serviceAccountName", "default") != "default":
        yield Reference(where, "ServiceAccount", spec["serviceAccountName"])
    for secret in spec.get("imagePullSecrets", []):
        yield Reference(where, "Secret", secret["name"])
    for volume in spec.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            yield Reference(where, "PersistentVolumeClaim", claim)
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            for kind in ("configMap", "secret"):
                yield from _of_files(where, kind, source.get(kind) or {"optional": True})
    for container in pod.containers:
        for source in container.get("envFrom", []):
            for kind, named in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if named in source and not source[named].get("optional"):
                    yield Reference(where, kind, source[named]["name"])
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for kind, named in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                if named in source and not source[named].get("optional"):
                    yield Reference(where, kind, source[named]["name"], source[named]["key"])


def _of_files(where: str, kind: str, source: Object) -> Iterator[Reference]:
    if source.get("optional"):
        return
    name = source.get("name") or source["secretName"]
    named = {"configMap": "ConfigMap", "secret": "Secret"}[kind]
    keys = [item["key"] for item in source.get("items", [])]
    yield from (Reference(where, named, name, key) for key in keys or [None])


def provided(objects: list[Object]) -> dict[tuple[str, str], set[str]]:
    """Names that are there, each with its keys or ports; operators' own services included."""
    there: dict[tuple[str, str], set[str]] = {}
    for thing in objects:
        kind, name, spec = thing["kind"], thing["metadata"]["name"], thing.get("spec") or {}
        keys = {*(thing.get("data") or {}), *(thing.get("stringData") or {})}
        if kind == "Service":
            keys = _ports(spec)
        there[kind, name] = keys
        if kind == "DaskCluster":
            there["Service", f"{name}-scheduler"] = _ports(spec["scheduler"]["service"])
        if kind in ("RayCluster", "RayService"):
            ray = {*RAY_PORTS, *map(str, RAY_PORTS.values())}
            there["Service", f"{name}-head-svc"] = ray
            if kind == "RayService":
                there["Service", f"{name}-serve-svc"] = {"serve", "8000"}
    return there


def _ports(service: Object) -> set[str]:
    return {str(port[key]) for port in service["ports"] for key in ("name", "port") if key in port}


def outside(given: Any, key: str = "") -> set[str]:
    """Names, and hosts, that the values say exist already, outside the release."""
    if isinstance(given, dict):
        own = {given["name"]} if given.get("create") is False and given.get("name") else set()
        return own.union(*(outside(value, one) for one, value in given.items()))
    if isinstance(given, list):
        return {name for value in given for name in outside(value, key)}
    if not isinstance(given, str):
        return set()
    if key.startswith("existing") or key in ("pullSecrets", "secretName", "claimName"):
        return {given} - {""}
    return {host for host, _ in ADDRESS.findall(given)}


def dangling(objects: list[Object], outside: set[str]) -> list[str]:
    """Names that nothing has; ``outside`` are those that the values say exist already."""
    there, found = provided(objects), []
    for one in references(objects):
        if one.name in outside and (one.kind, one.name) not in there:
            continue
        if (one.kind, one.name) not in there:
            found.append(f"{one.where}: there is no {one.kind} {one.name!r}")
        elif one.key is not None and one.key not in there[one.kind, one.name]:
            found.append(f"{one.where}: {one.kind} {one.name!r} has no {one.key!r}")
    return found


def unreachable(objects: list[Object], outside: set[str]) -> list[str]:
    """Addresses that nothing of the release listens at."""
    there, found = provided(objects), []
    for thing in objects:
        for host, port in ADDRESS.findall(json.dumps(thing) + " ".join(secrets(thing).values())):
            if host in HERE or host in outside:
                continue
            if port not in there.get(("Service", host), ()):
                found.append(f"{title(thing)}: nothing listens at {host}:{port}")
    return found


def secrets(thing: Object) -> dict[str, str]:
    """What a Secret holds, as text."""
    if thing["kind"] != "Secret":
        return {}
    encoded = thing.get("data") or {}
    held = {key: base64.b64decode(value).decode() for key, value in encoded.items()}
    return held | (thing.get("stringData") or {})


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def unmatched(objects: list[Object]) -> list[str]:
    """Selectors that pick nothing, and services whose ports no picked pod has."""
    found, all_pods = [], pods(objects)
    services = of_kind(objects, "Service")
    for thing in objects:
        spec, kind = thing.get("spec") or {}, thing["kind"]
        if kind == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"]
            picked = [one for one in services if selects(wanted, one["metadata"]["labels"])]
            ports = {port["name"] for one in picked for port in one["spec"]["ports"]}
            if any(endpoint["port"] not in ports for endpoint in spec["endpoints"]):
                found.append(f"{title(thing)}: no service has its port")
        elif kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            wanted = spec["selector"]["matchLabels"]
            own = [one for one in all_pods if kind == "PodDisruptionBudget" or one.owner is thing]
            if not any(selects(wanted, one.labels) for one in own):
                found.append(f"{title(thing)}: its selector picks no pod")
        elif kind == "NetworkPolicy":
            wanted = spec["podSelector"].get("matchLabels", {})
            if not any(selects(wanted, one.labels) for one in all_pods):
                found.append(f"{title(thing)}: its selector picks no pod")
        elif kind == "Service":
            found += _of_service(thing, all_pods)
    return found


def _of_service(thing: Object, all_pods: list[Pod]) -> Iterator[str]:
    picked = [one for one in all_pods if selects(thing["spec"]["selector"], one.labels)]
    if not picked:
        yield f"{title(thing)}: its selector picks no pod"
    for pod in picked:
        open_ = [port for one in pod.containers for port in one.get("ports", [])]
        known = {port.get("name") for port in open_} | {port["containerPort"] for port in open_}
        for port in thing["spec"]["ports"]:
            if port.get("targetPort", port["port"]) not in known:
                yield f"{title(thing)}: {pod} has no port {port.get('targetPort', port['port'])}"
