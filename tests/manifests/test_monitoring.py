"""Dashboard and alerts ask for metrics that exist, and the dashboard for all of them."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from ensemble import telemetry
from tests.manifests.rendered import ROOT

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


def test_the_guide_explains_every_alert() -> None:
    rules = alert_rules((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    guide = (ROOT / "deploy/OPERATING.md").read_text(encoding="utf-8")

    missing = [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in guide]

    assert rules
    assert missing == []
