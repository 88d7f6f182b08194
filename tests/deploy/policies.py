"""What every pod has to keep to; each rule says what is wrong, or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import pairwise

from charts import Object
from pods import PROBED_BY_THE_OPERATOR, Pod

Rule = Callable[[Pod], Iterator[str]]

QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|[MGTPE]|[KMGTPE]i)?")
FACTORS = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3)}
FACTORS |= {unit: Decimal(1000) ** power for power, unit in enumerate("MGTPE", start=2)}
FACTORS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)}
WRITABLE = ("emptyDir", "persistentVolumeClaim", "ephemeral")
WRITTEN_TO = ("HOME", "TMPDIR", "NUMBA_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR", "PGDATA")
"""Variables that name a folder their program writes to."""
WRITTEN_BY_OPTION = ("--workspace", "--local-directory")


def quantity(text: object) -> Decimal:
    """``"500m"`` as a number; ValueError for what Kubernetes would not read."""
    match = QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"expected a quantity such as 500m or 2Gi, got {text!r}")
    return Decimal(match[1]) * FACTORS[match[2] or ""]


def restricted(pod: Pod) -> Iterator[str]:
    """The restricted pod security standard, and a root file system that is read only."""
    context = pod.spec.get("securityContext") or {}
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(host):
            yield f"{host}: expected none"
    if context.get("runAsNonRoot") is not True:
        yield "securityContext.runAsNonRoot: expected true"
    if not context.get("runAsUser"):
        yield f"securityContext.runAsUser: expected not root, got {context.get('runAsUser')}"
    if not (context.get("fsGroup") or not pod.spec.get("volumes")):
        yield "securityContext.fsGroup: expected one, for the volumes"
    if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "securityContext.seccompProfile: expected RuntimeDefault"
    for volume in pod.spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"volume {volume['name']}: expected no hostPath"
    for container in pod.containers:
        yield from restricted_container(container)


def restricted_container(container: Object) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext") or {}
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: securityContext.allowPrivilegeEscalation: expected false"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: securityContext.readOnlyRootFilesystem: expected true"
    capabilities = context.get("capabilities") or {}
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield f"{name}: securityContext.capabilities: expected drop ALL and no add"
    if context.get("privileged") or context.get("runAsUser", 1) == 0:
        yield f"{name}: securityContext: expected neither privileged nor root"
    if context.get("runAsNonRoot", True) is not True:
        yield f"{name}: securityContext.runAsNonRoot: expected true"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{name}: expected no hostPort"


def probed(pod: Pod) -> Iterator[str]:
    """What stays up is asked whether it is ready, and whether it is alive."""
    if pod.owner["kind"] in PROBED_BY_THE_OPERATOR:
        return
    for container in pod.long_running:
        ports = {port.get("name") for port in container.get("ports", [])}
        for probe in ("readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"{container['name']}: expected a {probe}"
        for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
            how = container.get(probe) or {}
            port = (how.get("httpGet") or how.get("tcpSocket") or {}).get("port")
            if isinstance(port, str) and port not in ports:
                yield f"{container['name']}: {probe} asks port {port!r}, of which there is none"


def sized(pod: Pod) -> Iterator[str]:
    """Requests and a memory limit for all, as quantities, and requests within limits."""
    for container in pod.containers:
        name, resources = container["name"], container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        wanted = [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")]
        for part, resource in wanted:
            if resource not in (resources.get(part) or {}):
                yield f"{name}: expected resources.{part}.{resource}"
        for resource in [*requests, *limits]:
            try:
                asked = quantity(requests.get(resource, 0))
                most = quantity(limits.get(resource, "1000E"))
            except ValueError as error:
                yield f"{name}: resources: {resource}: {error}"
                continue
            if asked > most:
                yield f"{name}: resources: {resource}: requests are above limits"
            # What cannot be shared out in parts is given whole or not at all.
            if "/" in resource and resource not in limits:
                yield f"{name}: resources: {resource}: expected in limits"


def pinned(pod: Pod) -> Iterator[str]:
    """Images are named by a version or a digest."""
    for container in pod.containers:
        image = container.get("image") or ""
        name, _, digest = image.partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if digest and re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            continue
        if digest or tag in ("", "latest"):
            yield f"{container['name']}: image: expected a tag or a digest, got {image!r}"


def without_account(pod: Pod) -> Iterator[str]:
    """No pod can talk to Kubernetes; Ray's head may, through KubeRay, when the cluster scales."""
    scales = pod.owner["kind"] in PROBED_BY_THE_OPERATOR and "headGroupSpec" in pod.path
    if not scales and pod.spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: expected false"


def writable(pod: Pod) -> Iterator[str]:
    """The root being read only, all that a program writes to is a volume that it may write to."""
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    claims = pod.owner.get("spec", {}).get("volumeClaimTemplates", [])
    volumes |= {claim["metadata"]["name"]: {"persistentVolumeClaim": {}} for claim in claims}
    used = set()
    for container in pod.containers:
        name, folders = container["name"], []
        for mount in container.get("volumeMounts", []):
            used.add(mount["name"])
            if mount["name"] not in volumes:
                yield f"{name}: mounts {mount['name']!r}, which is no volume"
            elif not mount.get("readOnly") and any(
                kind in volumes[mount["name"]] for kind in WRITABLE
            ):
                folders.append(mount["mountPath"].rstrip("/"))
        for folder in ["/tmp", *_written(container)]:
            if not any(folder == own or folder.startswith(f"{own}/") for own in folders):
                yield f"{name}: writes to {folder}, where nothing writable is mounted"
    for name in volumes.keys() - used:
        yield f"volume {name!r} is mounted nowhere"


def _written(container: Object) -> Iterator[str]:
    for variable in container.get("env", []):
        if variable["name"] in WRITTEN_TO and "value" in variable:
            yield variable["value"]
    words = [*container.get("command", []), *container.get("args", [])]
    for option, value in pairwise(words):
        if option in WRITTEN_BY_OPTION and value.startswith("/"):
            yield value


RULES: tuple[Rule, ...] = (
    restricted,
    probed,
    sized,
    pinned,
    without_account,
    writable,
)
