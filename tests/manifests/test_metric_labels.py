"""Alerts and dashboard ask metrics for labels that they have: a wrong one would select nothing, and never fire."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from ensemble import telemetry
from tests.manifests.rendered import K8S, load_file
from tests.manifests.test_monitoring import panel_expressions, rule_expressions

# Prometheus' own: where a target was found, and the bounds of a histogram's buckets.
OF_PROMETHEUS = {"namespace", "pod", "instance", "job", "le"}


def tags_by_metric() -> dict[str, set[str]]:
    """Read the tags from the docstrings; an engine's metrics have those of the first of them."""
    body = ast.parse(Path(telemetry.__file__).read_text(encoding="utf-8")).body
    tags = {}
    for statement, docstring in pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(docstring, ast.Expr):
            name, value = ast.unparse(statement.targets[0]), ast.literal_eval(statement.value)
            found = re.search(r"tags?: ((?:\w+, )*\w+)[.,]", ast.literal_eval(docstring.value))
            if found and not name.startswith("METRIC_ENGINE"):
                tags[f"ray_{value}"] = set(found[1].split(", "))
            elif name.startswith("METRIC_ENGINE"):
                tags[f"ray_{value}"] = {"member"}
    (monitor,) = load_file(K8S / "base/pod-monitor.yaml")
    copied = {re.sub(r"\W", "_", label) for label in monitor["spec"]["podTargetLabels"]}
    return {name: own | copied for name, own in tags.items()} | {"up": copied}


TAGS = tags_by_metric()


def unknown_labels(expression: str) -> list[str]:
    """Say which labels an expression asks of a metric that has none of that name."""
    return [
        f"{metric} has no {label}"
        for metric, labels in asked(promql_parser.parse(expression), frozenset())
        for label in sorted(labels - TAGS[re.sub(r"_(bucket|count|sum)$", "", metric)] - OF_PROMETHEUS)
    ]


def asked(node: Any, outside: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Give every metric with the labels that are asked of it, by its own braces and by all that is around it."""
    if isinstance(node, promql_parser.VectorSelector):
        assert node.name, "it has none"
        yield node.name, outside | {one.name for one in node.matchers.matchers}
        return
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql_parser.AggregateExpr):
        outside |= frozenset(modifier.labels if modifier else ())
    elif modifier and modifier.matching:
        outside |= frozenset(modifier.matching.labels)
    for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
        inner = getattr(node, name, None)
        for one in inner if isinstance(inner, list) else [inner] if inner is not None else []:
            yield from asked(one, outside)


def test_every_metric_says_its_tags() -> None:
    defined = {f"ray_{value}" for name, value in vars(telemetry).items() if name.startswith("METRIC_")}

    assert TAGS.keys() - {"up"} == defined


@pytest.mark.parametrize("expression", [*rule_expressions(), *panel_expressions()])
def test_an_expression_asks_for_labels_that_its_metrics_have(expression: str) -> None:
    assert unknown_labels(expression) == []


@pytest.mark.parametrize("old", ["ensemble", "member", "reason", "error", "app_kubernetes_io_component"])
def test_a_label_of_another_name_is_noticed(old: str) -> None:
    renamed = [re.sub(rf"\b{old}\b(?=[!=,)])", f"{old}_renamed", one) for one in rule_expressions()]

    assert any(unknown_labels(expression) for expression in renamed)


@pytest.mark.parametrize("expression", rule_expressions())
def test_an_alert_counts_every_namespace_by_itself(expression: str) -> None:
    groupings = re.findall(r"\b(?:by|on) ?\(([^)]*)\)", expression)

    assert groupings
    assert all("namespace" in one.split(", ") for one in groupings)
