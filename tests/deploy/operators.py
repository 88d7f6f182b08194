"""Objects of operators whose definitions are not here: the fields that a chart may use of them.

Written from what the Dask operator, the Prometheus operator and the Gateway API document. What is
not named is refused, so a field that a template begins to use is looked up once and added here.
"""

from __future__ import annotations

from charts import Object

TEXT = {"type": "string", "minLength": 1}
WHOLE = {"type": "integer", "minimum": 0}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION = {"type": "string", "pattern": r"^(0|([0-9]+(ms|[smhdwy]))+)$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
FREE = {"type": "object"}


def record(*required: str, **properties: Object) -> Object:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def some(items: Object) -> Object:
    return {"type": "array", "minItems": 1, "items": items}


def custom(version: str, spec: Object) -> Object:
    """One kind, metadata left to the checks that all objects pass."""
    return record(
        *("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": version},
        kind=TEXT,
        metadata=FREE,
        spec=spec,
    )


HANDED_DOWN = record(labels=TEXTS, annotations=TEXTS)
DASK = "kubernetes.dask.org"
DASK_KINDS = {
    "DaskCluster": custom(
        f"{DASK}/v1",
        record(
            *("worker", "scheduler"),
            idleTimeout=WHOLE,
            worker=record("spec", "replicas", replicas=WHOLE, spec=FREE, metadata=HANDED_DOWN),
            scheduler=record("spec", "service", spec=FREE, service=FREE, metadata=HANDED_DOWN),
        ),
    ),
    "DaskAutoscaler": custom(
        f"{DASK}/v1",
        record("cluster", "minimum", "maximum", cluster=TEXT, minimum=WHOLE, maximum=WHOLE),
    ),
}

SELECTOR = record("matchLabels", matchLabels=TEXTS)
RELABELING = record(
    sourceLabels=some(TEXT),
    targetLabel=TEXT,
    regex=TEXT,
    replacement=TEXT,
    separator=TEXT,
    action={"enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"]},
)
ENDPOINT = record(
    *("port",),
    port=TEXT,
    path={"type": "string", "pattern": "^/"},
    scheme={"enum": ["http", "https"]},
    interval=DURATION,
    scrapeTimeout=DURATION,
    honorLabels={"type": "boolean"},
    relabelings=some(RELABELING),
    metricRelabelings=some(RELABELING),
    authorization=record(
        "credentials",
        type={"const": "Bearer"},
        credentials=record("name", "key", name=TEXT, key=TEXT),
    ),
)
RULE = {
    "oneOf": [
        record(
            *("alert", "expr"),
            alert=TEXT,
            expr=TEXT,
            **{"for": DURATION, "keep_firing_for": DURATION, "labels": TEXTS},
            annotations=TEXTS,
        ),
        record("record", "expr", record=TEXT, expr=TEXT, labels=TEXTS),
    ]
}
PROMETHEUS = "monitoring.coreos.com"
PROMETHEUS_KINDS = {
    "ServiceMonitor": custom(
        f"{PROMETHEUS}/v1",
        record(
            *("selector", "endpoints"),
            selector=SELECTOR,
            endpoints=some(ENDPOINT),
            namespaceSelector=record("matchNames", matchNames=some(TEXT)),
            jobLabel=TEXT,
            targetLabels=some(TEXT),
        ),
    ),
    "PrometheusRule": custom(
        f"{PROMETHEUS}/v1",
        record(
            "groups",
            groups=some(
                record("name", "rules", name=TEXT, interval=DURATION, rules=some(RULE)),
            ),
        ),
    ),
}

GATEWAY = "gateway.networking.k8s.io"
REFERENCE = {"group": {"type": "string"}, "kind": TEXT, "name": TEXT, "namespace": TEXT}
GATEWAY_KINDS = {
    "HTTPRoute": custom(
        f"{GATEWAY}/v1",
        record(
            *("parentRefs", "rules"),
            parentRefs=some(record("name", **REFERENCE, sectionName=TEXT, port=PORT)),
            hostnames=some(TEXT),
            rules=some(
                record(
                    *("backendRefs",),
                    matches=some(
                        record(
                            "path",
                            path=record(
                                *("type", "value"),
                                type={"enum": ["PathPrefix", "Exact"]},
                                value={"type": "string", "pattern": "^/"},
                            ),
                        )
                    ),
                    backendRefs=some(record("name", "port", **REFERENCE, port=PORT, weight=WHOLE)),
                    filters=some(FREE),
                    timeouts=record(request=DURATION, backendRequest=DURATION),
                )
            ),
        ),
    )
}

SCHEMAS = {DASK: DASK_KINDS, PROMETHEUS: PROMETHEUS_KINDS, GATEWAY: GATEWAY_KINDS}
"""By API group, then by kind."""


def parts(thing: Object) -> list[Object]:
    """Objects of Kubernetes' own that the operator will make of this one's parts."""
    if thing["kind"] != "DaskCluster":
        return []
    spec = thing["spec"]
    core = {"apiVersion": "v1", "metadata": {"name": "part"}}
    return [
        core | {"kind": "Pod", "spec": spec["worker"]["spec"]},
        core | {"kind": "Pod", "spec": spec["scheduler"]["spec"]},
        core | {"kind": "Service", "spec": spec["scheduler"]["service"]},
    ]
