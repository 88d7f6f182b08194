"""Who may talk to whom under a release's network policies."""

from __future__ import annotations

from charts import Object, of_kind
from pods import Pod
from references import selects


def allowed(objects: list[Object], source: Pod | dict[str, str], target: Pod, port: int) -> bool:
    """Whether a pod of this namespace may open ``port`` of another.

    Parameters
    ----------
    objects
        A release's.
    source
        A pod of the release, or the labels of one that is not of it.
    target
        A pod of the release.
    port
        As a number; policies may name it.
    """
    labels = source.labels if isinstance(source, Pod) else source
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if _picks(policy["spec"]["podSelector"], target.labels)
        and "Ingress" in policy["spec"]["policyTypes"]
    ]
    if not policies:  # Kubernetes lets everything through to pods that no policy is about
        return True
    return any(
        _from(rule, labels) and _at(rule, port, target)
        for policy in policies
        for rule in policy.get("ingress") or []
    )


def _picks(selector: Object, labels: dict[str, str]) -> bool:
    wanted = all(_fits(one, labels) for one in selector.get("matchExpressions", []))
    return wanted and selects(selector.get("matchLabels") or {}, labels)


def _fits(expression: Object, labels: dict[str, str]) -> bool:
    has = expression["key"] in labels
    fits = {
        "In": has and labels.get(expression["key"]) in expression.get("values", []),
        "NotIn": labels.get(expression["key"]) not in expression.get("values", []),
        "Exists": has,
        "DoesNotExist": not has,
    }
    return fits[expression["operator"]]


def _from(rule: Object, labels: dict[str, str]) -> bool:
    peers = rule.get("from")
    # A peer with a namespace is another one's pods; none at all is everybody.
    return not peers or any(
        "podSelector" in peer
        and "namespaceSelector" not in peer
        and _picks(peer["podSelector"], labels)
        for peer in peers
    )


def _at(rule: Object, port: int, target: Pod) -> bool:
    names = {
        one.get("name"): one["containerPort"]
        for container in target.containers
        for one in container.get("ports", [])
    }
    wanted = rule.get("ports")
    return not wanted or any(_is_port(one, port, names) for one in wanted)


def _is_port(wanted: Object, port: int, names: dict[str, int]) -> bool:
    first = names.get(wanted.get("port"), wanted.get("port"))
    if first is None:
        return True
    return isinstance(first, int) and first <= port <= wanted.get("endPort", first)
