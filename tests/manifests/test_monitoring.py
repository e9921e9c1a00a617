"""Dashboard and alerts ask for metrics that exist, and the dashboard for all of them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from ensemble import telemetry
from tests.manifests.rendered import K8S, ROOT, groups, needs_kubectl, of_kind, render, render_folder

MONITORING = ROOT / "deploy/monitoring"
DEFINED = {value for name, value in vars(telemetry).items() if name.startswith("METRIC_")}
METRIC = re.compile(r"\bray_(ensemble_\w+)")
OF_HISTOGRAMS = re.compile(r"_(bucket|count|sum)$")


def metrics_of(expressions: list[str]) -> set[str]:
    """Give the metrics that expressions name; Ray puts its own name before ours."""
    return {OF_HISTOGRAMS.sub("", metric) for one in expressions for metric in METRIC.findall(one)}


def dashboard_expressions(text: str) -> list[str]:
    return [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]


def alert_rules(text: str) -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(text)["spec"]["groups"] for rule in group["rules"]]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    text = (MONITORING / "dashboard.json").read_text(encoding="utf-8")

    assert metrics_of(dashboard_expressions(text)) == DEFINED


def test_alerts_ask_for_metrics_that_exist() -> None:
    text = (MONITORING / "alerts.yaml").read_text(encoding="utf-8")

    asked = metrics_of([rule["expr"] for rule in alert_rules(text)])

    assert asked
    assert asked <= DEFINED


@pytest.mark.parametrize("old", sorted(DEFINED))
def test_a_metric_of_another_name_is_noticed(old: str) -> None:
    text = (MONITORING / "dashboard.json").read_text(encoding="utf-8").replace(old, f"{old}_renamed")

    assert metrics_of(dashboard_expressions(text)) != DEFINED


def rule_expressions() -> list[str]:
    return [rule["expr"] for rule in alert_rules((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))]


def panel_expressions() -> list[str]:
    text = (MONITORING / "dashboard.json").read_text(encoding="utf-8")
    return [expression.replace("$ensemble", ".*") for expression in dashboard_expressions(text)]


@pytest.mark.parametrize("expression", [*rule_expressions(), *panel_expressions()])
def test_an_expression_is_promql_and_a_broken_one_is_not(expression: str) -> None:
    promql_parser.parse(expression)

    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse(f"({expression}")


def test_panels_lie_beside_each_other() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]

    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_kubectl
def test_the_guides_label_is_on_what_prometheus_takes_and_on_no_pod(tmp_path: Path) -> None:
    (line,) = re.findall(
        r"^    (labels: .*)$", (ROOT / "deploy/OPERATING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    base = os.path.relpath(K8S / "base", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{base}]\n{line}\n", encoding="utf-8")

    resources = render_folder(tmp_path)

    monitors = [*of_kind(resources, "PodMonitor"), *of_kind(resources, "PrometheusRule")]
    assert [one["metadata"]["labels"]["release"] for one in monitors] == ["kube-prometheus-stack"] * 2
    assert groups(resources) == groups(render("base"))


def test_the_guide_explains_every_alert() -> None:
    rules = alert_rules((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    guide = (ROOT / "deploy/OPERATING.md").read_text(encoding="utf-8")

    missing = [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in guide]

    assert rules
    assert missing == []
