"""Alerts and the dashboard ask for what /metrics tells, and the operations page explains it all."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ntk_dist.service.app import create_app
from ntk_dist.service.metrics import Metrics
from ntk_dist.service.service import ServiceConfig
from ntk_dist.wire import Job, JobState, Progress

REPOSITORY = Path(__file__).parents[2]
FILES = REPOSITORY / "helm" / "ntk-dist" / "files"
PAGE = (REPOSITORY / "deploy" / "operations.md").read_text()
RULES = [
    rule
    for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_THE_TARGET = {"namespace", "service", "pod"}
"""Labels that Prometheus adds on Kubernetes."""
TAKEN = {"job", "instance"}
"""Those that are the target's even where a metric has them, as ``exported_job`` then."""


def told() -> dict[str, set[str]]:
    """Labels of every series that the service prints, by its name."""
    at = datetime(2026, 1, 31, tzinfo=UTC)
    progress = Progress(
        phase="solve", label="", note="", total=9, step=3, residual=0.1, driver_bytes=7
    )
    running = Job(
        id="a",
        name="waves",
        state=JobState.RUNNING,
        attempt=1,
        created=at,
        updated=at,
        launcher="ray",
        executor="ray",
        progress=progress,
    )
    metrics = Metrics(
        count_jobs=lambda: {JobState.RUNNING: 1},
        running_jobs=lambda: [running],
        loaded_models=lambda: {("waves", 1): 1000},
        waiting_rows=lambda: 3,
    )
    metrics.count("GET", "/v1/jobs", 200, 0.01)
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return found


TOLD = told()


EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in PANELS
        for target in panel["targets"]
    },
    **{
        f"variable {variable['name']}": variable["query"]["query"]
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    },
}


def without_strings(expression: str) -> str:
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Every metric that is asked for, and the labels by which it is chosen."""
    for name, chosen in re.findall(
        r"\b(ntk_dist_\w+)(?:\{([^}]*)\})?", without_strings(expression)
    ):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen))


@pytest.mark.parametrize("expression", list(EXPRESSIONS.values()), ids=list(EXPRESSIONS))
def test_an_expression_asks_for_what_the_service_tells(expression: str) -> None:
    asked = list(selectors(expression))
    assert asked
    known: set[str] = set(OF_THE_TARGET)
    for name, labels in asked:
        assert name in TOLD, f"the service tells of {sorted(TOLD)}"
        assert labels <= TOLD[name] | OF_THE_TARGET
        known |= TOLD[name]
    for labels in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        assert {label.strip() for label in labels.split(",")} <= known
    plain = without_strings(expression)
    for opened, closed in ("()", "[]", "{}"):
        assert plain.count(opened) == plain.count(closed)


def test_the_check_of_expressions_finds_mistakes() -> None:
    assert dict(selectors('rate(ntk_dist_jobs{stat="x"}[5m]) / ntk_dist_nothing')) == {
        "ntk_dist_jobs": {"stat"},
        "ntk_dist_nothing": set(),
    }
    assert "ntk_dist_nothing" not in TOLD
    assert "stat" not in TOLD["ntk_dist_jobs"]


def test_no_label_is_one_that_prometheus_takes_for_itself() -> None:
    assert not {label for labels in TOLD.values() for label in labels} & (TAKEN | OF_THE_TARGET)


def test_routes_that_are_named_are_there(tmp_path: Path) -> None:
    app = create_app(ServiceConfig(workspace=str(tmp_path)))
    routes = list(app.openapi()["paths"])
    app.state.service.close()
    patterns = {
        pattern
        for expression in EXPRESSIONS.values()
        for pattern in re.findall(r'route[=!]~"([^"]+)"', expression)
    }
    assert len(patterns) == 2
    for pattern in patterns:
        for part in re.sub(r"^\.\*\((.*)\)$", r"\1", pattern).split("|"):
            ending = re.compile(
                part if part.startswith("/v") or part == "/metrics" else f".*{part}"
            )
            assert any(ending.fullmatch(route) for route in routes), part


def test_every_alert_says_what_happens_how_bad_it_is_and_where_to_read_on() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names) >= 8
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description"}
        # Whose it is has to be among the labels that the expression leaves.
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        left = re.search(r"\bby \(([^)]*)\)", rule["expr"])
        assert named <= {label.strip() for label in left[1].split(",")}
    assert set(re.findall(r"`(NtkDist\w+)`", PAGE)) == set(names)


def test_states_of_jobs_are_those_there_are() -> None:
    asked = {
        state
        for expression in EXPRESSIONS.values()
        for state in re.findall(r'state="(\w+)"', expression)
    }
    assert asked
    assert asked <= {str(state) for state in JobState}


def test_the_page_explains_every_metric_and_no_other() -> None:
    suffix = re.compile(r"_(bucket|sum|count|created)$")
    printed = {suffix.sub("", name) for name in TOLD} - {"ntk_dist_http_requests"}
    assert set(re.findall(r"`(ntk_dist_\w+)`", PAGE)) == printed


def test_the_dashboard_shows_everything_the_service_tells() -> None:
    shown = {
        name
        for panel in PANELS
        for target in panel["targets"]
        for name, _ in selectors(target["expr"])
    }
    implied = {"ntk_dist_http_request_seconds_sum"}  # of which nobody wants to see a mean
    told_of = {name for name in TOLD if not name.endswith("_created")}
    assert shown == told_of - implied


def test_panels_have_places_and_names_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    asked = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(PANELS)))
    assert asked == variables
    assert all(panel["description"] for panel in PANELS)


def test_the_residual_is_on_a_logarithmic_axis() -> None:
    (panel,) = [panel for panel in PANELS if "residual" in panel["targets"][0]["expr"]]
    axis = panel["fieldConfig"]["defaults"]["custom"]["scaleDistribution"]
    assert axis == {"type": "log", "log": 10}
