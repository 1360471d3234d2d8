"""Two models with the same traffic, ``full`` and ``summary``, in a real Prometheus with the shipped rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from support import programs
from support.paths import ROOT
from support.programs import quickened_rules
from support.servers import ask, eventually, serving, write_config

ALERTS = {
    "ModelFeatureDrift",
    "ModelFeatureMeanShift",
    "ModelFeatureMissing",
    "ModelPredictionDrift",
    "ModelErrorRatioHigh",
}
FOR_SUMS = {
    "model_version_feature_bin:reference_probability:max",
    "model_version_feature_bin:observations:increase1h",
    "model_version_feature_bin:probability:increase1h",
    "model_version_feature:prior_observations:count",
    "model_version_feature:observations:increase1h",
    "model_version_feature:kl_divergence:increase1h",
    "model_version_feature:kl_divergence_noise:increase1h",
    "model_version_feature:reference_degrees:count",
}
"""The rules that compute the divergence of all replicas together."""
EMPTY = {
    "$feature: live values over training ones",
    "$feature: divergence and its noise: all replicas, 1h",
}
"""Panels and lines that need bins."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that scrapes both models, and the same drifting traffic for both."""
    folder = tmp_path_factory.mktemp("levels")
    levels = [{"name": level, "profile": "credit.json", "metrics": level} for level in ("full", "summary")]
    write_config(folder, {"models": levels}, labels=True)
    quickened_rules(ROOT / "prometheus/rules", folder / "rules")
    with ExitStack() as stack:
        exporter = stack.enter_context(serving(folder))
        url = stack.enter_context(programs.prometheus(folder, programs.scraping(exporter))).url

        def drifted() -> bool:
            """Old customers, a third of them without an income, and nearly all refused without much confidence."""
            for level in ("full", "summary"):
                rng = np.random.default_rng(5)
                events = [
                    {
                        "model": level,
                        "version": "1",
                        "inputs": {"age": age, "country": "NL"} | ({} if number % 3 else {"income": 9000.0}),
                        "prediction": "no",
                        "confidence": 0.4,
                        "duration_seconds": 0.02,
                        "code": 500 if number % 10 == 0 else 200,
                    }
                    for number, age in enumerate(rng.integers(80, 90, 40).tolist())
                ]
                assert exporter.post("/v1/predictions", events).status == 202
            return all({alert["alertname"] for alert in firing(url, level)} >= ALERTS for level in ("full", "summary"))

        eventually(drifted, 240, 1)
        yield url


def query(url: str, text: str) -> list[Any]:
    answer = ask(f"{url}/api/v1/query?query={quote(text)}")
    assert answer.status == 200, f"{text}: {answer.text}"
    result: list[Any] = answer.json["data"]["result"]
    return result


def firing(url: str, model: str) -> list[dict[str, str]]:
    return [series["metric"] for series in query(url, f'ALERTS{{alertstate="firing",model="{model}"}}')]


def test_a_summary_has_the_same_alerts(prometheus: str) -> None:
    """For the same features."""

    def alerts(model: str) -> set[tuple[str, str]]:
        return {(alert["alertname"], alert.get("feature", "")) for alert in firing(prometheus, model)}

    eventually(lambda: alerts("full") == alerts("summary"), 30, 0.5)
    assert ("ModelFeatureDrift", "age") in alerts("summary")
    assert ("ModelFeatureMissing", "income") in alerts("summary")


def test_a_summary_lacks_only_the_recorded_series_of_all_replicas(prometheus: str) -> None:
    def recorded(model: str) -> set[str]:
        found = query(prometheus, f'count by (__name__) ({{__name__=~".+:.+",model="{model}"}})')
        return {series["metric"]["__name__"] for series in found}

    eventually(lambda: recorded("full") - recorded("summary") == FOR_SUMS, 30, 0.5)
    assert recorded("summary") < recorded("full")


def shown(url: str, model: str) -> set[str]:
    """The panels of all dashboards that have data of a model, and their lines."""
    chosen = {"model": model, "version": "1", "feature": "age", "window": "1h", "earlier": "1ms"}
    found = set()
    for path in sorted((ROOT / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in board["panels"] + [p for row in board["panels"] for p in row.get("panels", [])]:
            for target in panel.get("targets", []):
                expr = re.sub(r"\$\{(\w+):\w+\}", lambda match: chosen.get(match[1], "none"), target["expr"])
                expr = expr.replace("$__rate_interval", "60s").replace("$__range", "60s").replace("$__interval", "15s")
                if query(url, expr):
                    found.add(panel["title"])
                    found.add(f"{panel['title']}: {target['legendFormat']}")
    return found


def test_a_summary_leaves_only_documented_panels_empty(prometheus: str) -> None:
    full, summary = shown(prometheus, "full"), shown(prometheus, "summary")
    assert {title for title in full - summary if not title.startswith(tuple(f"{t}: " for t in EMPTY))} == EMPTY
    page = re.sub(r"\s+", " ", Path(ROOT / "docs/scale.md").read_text(encoding="utf-8"))
    for title in EMPTY:
        assert title.removeprefix("$feature: ").removeprefix("divergence and its noise: ") in page
