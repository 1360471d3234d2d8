"""The default thresholds of `exporter.config`, held against the rules, the documentation and the runbooks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from support.paths import ROOT

from exporter.config import DEFAULT_ERRORS
from exporter.monitoring.leading_quality import ENOUGH, LABELLED, MOST_ERROR

DOCS = ROOT / "docs"


def documents() -> Iterator[dict[str, Any]]:
    """Each rule."""
    for path in (ROOT / "prometheus" / "rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def rules() -> dict[str, str]:
    """The expression of each rule, by what it records or by its alert."""
    return {rule.get("record") or rule["alert"]: rule["expr"] for rule in documents()}


def annotations() -> dict[str, dict[str, str]]:
    """The annotations of each alert."""
    return {rule["alert"]: rule["annotations"] for rule in documents() if "alert" in rule}


def recorded_thresholds() -> dict[str, str]:
    """The expression of each rule that records a threshold of `exporter.config`, by its alert."""
    return {
        name.rpartition(":")[2]: expr
        for name, expr in rules().items()
        if re.match(r"model(_feature)?:threshold:", name)
    }


def test_the_quality_page_judges_as_the_rules_do() -> None:
    """The page's thresholds that cannot be configured are those of the rules."""
    for measure in ("accuracy", "mean_absolute_error"):
        assert f" >= {ENOUGH})" in rules()[f"model_version_window:{measure}:measured"]
    assert rules()["model_version:threshold:ModelAccuracyLowError"].startswith(f"{MOST_ERROR} * ")
    within = " ".join(rules()["ModelAccuracyLow"].split())
    assert f"< on (model, version) group_left () {LABELLED} * max by (model, version) (" in within


def test_the_default_objective_is_the_same_everywhere() -> None:
    """The rule, configuration.md and the runbook have the objective of models that set none; latency has none."""
    (number,) = re.findall(r"\bor ([\d.]+) \*", recorded_thresholds()["ModelErrorBudgetBurn"])
    assert float(number) == DEFAULT_ERRORS
    table = (DOCS / "configuration.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `models\[\]\.objectives\.errors` \|(.*)\|$", table, re.M)
    assert row.endswith(f"Without it, the alert uses {DEFAULT_ERRORS}. ")
    runbook = (DOCS / "runbooks" / "ModelErrorBudgetBurn.md").read_text(encoding="utf-8")
    assert f"The default is {DEFAULT_ERRORS}," in runbook
    assert " or " not in recorded_thresholds()["ModelLatencyBudgetBurn"]
