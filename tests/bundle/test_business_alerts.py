"""The alerts of the business layer fire in a real Prometheus that has seen the days they look at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from support.programs import quickened_rules
from support.recorded import RULES, layers, prometheus, promtool
from support.servers import ask, eventually

STEP = 300
DAYS = 8
HOUR = 3600


def series(name: str, labels: str, values: list[tuple[int, float]]) -> list[str]:
    return [f"{name}{{{labels}}} {value} {at}" for at, value in values]


def counted(times: list[int], each: list[float]) -> list[tuple[int, float]]:
    """A counter that grows by ``each``."""
    total, points = 0.0, []
    for at, more in zip(times, each, strict=True):
        total += more
        points.append((at, total))
    return points


def document(end: int) -> str:
    """Eight days of two models: one is calm; the users of the other are fewer, unsure, silent, and correct much."""
    times = list(range(end - DAYS * 86400, end + 1, STEP))
    late = [at > end - 2 * HOUR for at in times]
    attempts: list[str] = []
    confident: list[str] = []
    feedback: list[str] = []
    corrections: list[str] = []
    for model in ("calm", "ill"):
        ill = model == "ill"
        labels = f'model="{model}",version="1"'
        attempts += series("model_attempts_total", labels, counted(times, [10 if ill and x else 100 for x in late]))
        confident += series(
            "model_confident_predictions_total", labels, counted(times, [4 if ill and x else 80 for x in late])
        )
        feedback_values = [float(not (ill and at > end - 30 * HOUR) and (end - at) % HOUR == 0) for at in times]
        feedback += series("model_feedback_total", f'{labels},verdict="accepted"', counted(times, feedback_values))
        wrong = [float(ill and at > end - HOUR) for at in times]
        corrections += series("model_corrections_total", labels, counted(times, wrong))
    oldest = [(at, 90_000.0) for at in times]
    ones = [(at, 1.0) for at in times]
    floor = [(at, 0.6) for at in times]
    return "\n".join(
        [
            "# TYPE model_attempts counter",
            *attempts,
            "# TYPE model_confident_predictions counter",
            *confident,
            "# TYPE model_feedback counter",
            *feedback,
            "# TYPE model_corrections counter",
            *corrections,
            "# TYPE model_corrections_oldest_pending_seconds gauge",
            *series("model_corrections_oldest_pending_seconds", 'model="ill"', oldest),
            "# TYPE model_info gauge",
            *(line for model in ("calm", "ill") for line in series("model_info", f'model="{model}",version="1"', ones)),
            "# TYPE model_alert_threshold gauge",
            *series("model_alert_threshold", 'model="ill",alert="ModelConfidentRatioLow"', floor),
            "# EOF",
            "",
        ]
    )


@pytest.fixture
def past(tmp_path: Path) -> Iterator[str]:
    """A Prometheus that has recorded the document, whose last samples are new: they go stale after five minutes."""
    end = int(time.time())
    (tmp_path / "days.txt").write_text(document(end))
    promtool("tsdb", "create-blocks-from", "openmetrics", tmp_path / "days.txt", tmp_path / "tsdb")
    (tmp_path / "layer.yml").write_text(yaml.safe_dump({"groups": [{"name": "first", "rules": layers(RULES)[0]}]}))
    week = end - 7 * 86400  # what the rules recorded then
    with prometheus(tmp_path, rules=False) as url:
        flags = [f"--start={week - STEP}", f"--end={week + 2 * STEP}", f"--url={url}", "--eval-interval=60s"]
        promtool(
            "tsdb", "create-blocks-from", "rules", *flags, f"--output-dir={tmp_path / 'tsdb'}", tmp_path / "layer.yml"
        )
    quickened_rules(RULES, tmp_path / "live")
    with prometheus(tmp_path, rules=True) as url:
        yield url


def test_business_alerts_fire_for_the_unhealthy_model_only(past: str) -> None:
    """Less traffic than a week ago, low confidence, no feedback, many corrections and a backlog fire five alerts."""
    query = quote('ALERTS{alertstate="firing",layer="business"}')

    def firing() -> set[tuple[str, str]]:
        alerts = ask(f"{past}/api/v1/query?query={query}").json["data"]["result"]
        return {(alert["metric"]["alertname"], alert["metric"]["model"]) for alert in alerts}

    names = ("AttemptsDrop", "ConfidentRatioLow", "CorrectionRatioHigh", "FeedbackMissing", "ReviewBacklog")
    expected = {(f"Model{name}", "ill") for name in names}
    eventually(lambda: firing() >= expected, 120, 0.5)
    assert firing() == expected
