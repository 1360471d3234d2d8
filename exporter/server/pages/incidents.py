"""Group alerts into incidents, one for each model, and sum each up in a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.server.elapsed import parse_time
from exporter.server.notifications import Alert
from exporter.server.pages.drift_text import number, percent

SEVERITIES = ("critical", "warning", "info")
MAX_PHRASES = 6
"""Phrases of a headline, and reasons in one; the others are counted."""
MAX_NAME = 40
"""Characters of a feature's name or a reason in a headline."""
_COUNTED = "ModelFeaturesDrifted"
"""An alert on several features, whose value is their number."""
DRIFT_ALERTS = ("ModelFeatureDrift", "ModelFeatureDriftSlow", "ModelFeatureChanged", "ModelFeatureMeanShift", _COUNTED)
_SHARES = {
    "ModelErrorRatioHigh": ("{} errors", "errors"),
    "ModelCorrectionRatioHigh": ("{} corrected", "corrected too often"),
    "ModelConfidentRatioLow": ("{} confident", "confident too rarely"),
    "ModelHostCpuHigh": ("CPU {}", "little CPU left"),
    "ModelHostMemoryHigh": ("memory {}", "little memory left"),
    "ModelHostDiskHigh": ("disk {}", "disk nearly full"),
}
"""The phrases of alerts on a share, with and without its value."""
_PHRASES = {
    "ModelErrorBudgetBurn": "error budget used up too fast",
    "ModelLatencyBudgetBurn": "latency budget used up too fast",
    "ModelTrafficMissing": "no requests",
    "ModelExporterDown": "exporter down",
    "ModelPredictionDrift": "predictions drifted",
    "ModelConfidenceDrift": "confidence drifted",
    "ModelMultivariateDrift": "correlations changed",
    "ModelAccuracyLow": "accuracy too low",
    "ModelAttemptsDrop": "used much less than a week ago",
    "ModelFeedbackMissing": "no feedback",
    "ModelFeedbackUnjoined": "feedback without predictions",
    "ModelReviewBacklog": "corrections wait for review",
    "ModelRetrainRequestsFailing": "requests for retraining fail",
}


@dataclass(frozen=True)
class Incident:
    """The alerts of one model, or of a layer without one.

    Attributes
    ----------
    name
        The model, or the layer.
    model
        The model; None without one.
    versions
        The versions that are affected.
    phrases
        What is wrong, the most severe first.
    pending
        What else its pending alerts say, where others fire.
    severity
        The highest severity of its firing alerts, or ``pending``.
    since
        When the first of its alerts began.
    alerts
        Its alerts, the most severe first; pending ones are last.
    """

    name: str
    model: str | None
    versions: list[str]
    phrases: list[str]
    pending: list[str]
    severity: str
    since: datetime | None
    alerts: list[Alert]

    @property
    def firing(self) -> int:
        """The number of alerts that fire."""
        return sum(alert.status == "firing" for alert in self.alerts)

    @property
    def named(self) -> list[Alert]:
        """The first alert of each name, of those that fire; of all if none does."""
        firing = [alert for alert in self.alerts if alert.status == "firing"] or self.alerts
        return list({alert.name: alert for alert in reversed(firing)}.values())[::-1]


def group_alerts(alerts: Iterable[Alert]) -> list[Incident]:
    """Return the incidents, the most severe first; those of which no alert fires are last."""
    groups: dict[tuple[str, str], list[Alert]] = {}
    for alert in sorted(alerts, key=_rank):
        model = alert.labels.get("model", "")
        groups.setdefault((model, "" if model else alert.labels.get("layer", "")), []).append(alert)
    incidents = [_incident(model, layer, group) for (model, layer), group in groups.items()]
    return sorted(incidents, key=lambda incident: (_severity_rank(incident.severity), -incident.firing, incident.name))


def _incident(model: str, layer: str, alerts: list[Alert]) -> Incident:
    firing = [alert for alert in alerts if alert.status == "firing"]
    phrases = _phrases(firing or alerts)
    pending = _phrases([alert for alert in alerts if alert.status != "firing"]) if firing else []
    times = [time for alert in firing or alerts if (time := parse_time(alert.starts_at))]
    return Incident(
        name=model or {"system": "System", "exporter": "Exporter"}.get(layer, layer or "Other alerts"),
        model=model or None,
        versions=sorted({alert.labels["version"] for alert in alerts if alert.labels.get("version")}),
        phrases=phrases,
        pending=[phrase for phrase in pending if phrase not in phrases],
        severity=alert_severity(firing[0]) if firing else "pending",
        since=min(times, default=None),
        alerts=alerts,
    )


def alert_severity(alert: Alert) -> str:
    """Return an alert's severity, ``info`` for one that the page does not know."""
    severity = alert.labels.get("severity", "")
    return severity if severity in SEVERITIES else "info"


def _severity_rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def _rank(alert: Alert) -> tuple[bool, int, bool, str, str]:
    pending = alert.status != "firing"
    rank = _severity_rank(alert_severity(alert))
    return pending, rank, alert.name not in _SHARES, alert.name, alert.labels.get("feature", "")


def _phrases(alerts: Sequence[Alert]) -> list[str]:
    """Return what is wrong in a few words each, in the order of the alerts and without repetition."""
    phrases: dict[str, None] = {}
    for alert in alerts:
        if alert.name in DRIFT_ALERTS:
            phrase = _features([other for other in alerts if other.name in DRIFT_ALERTS], "drifted")
        elif alert.name == "ModelFeatureMissing":
            phrase = _features([other for other in alerts if other.name == alert.name], "missing too often")
        elif alert.name == "ModelEventsRejected":
            phrase = _reasons([other for other in alerts if other.name == alert.name])
        elif alert.name in _SHARES:
            phrase = _share([other for other in alerts if other.name == alert.name])
        elif alert.name == "ModelLatencyHigh":
            phrase = "slow" if alert.value is None else f"95th percentile {number(alert.value)}\N{NO-BREAK SPACE}s"
        else:
            phrase = _PHRASES.get(alert.name) or alert.annotation("summary")
        phrases[phrase] = None
    shown = list(phrases)
    if len(shown) > MAX_PHRASES:
        shown[MAX_PHRASES - 1 :] = [f"{len(shown) - MAX_PHRASES + 1} more"]
    return shown


def _features(alerts: Sequence[Alert], verb: str) -> str:
    names = sorted({alert.labels.get("feature", "") for alert in alerts} - {""})
    count = max(len(names), *(int(alert.value or 0) for alert in alerts if alert.name == _COUNTED), 0)
    if count > 1:
        return f"{count} features {verb}"
    return f"{_cut(names[0]) if names else 'a feature'} {verb}"


def _reasons(alerts: Sequence[Alert]) -> str:
    reasons = sorted({alert.labels.get("reason", "") for alert in alerts} - {""})
    shown = [_cut(reason) for reason in reasons[:MAX_PHRASES]]
    if len(reasons) > MAX_PHRASES:
        shown[-1] = f"{len(reasons) - MAX_PHRASES + 1} more"
    return f"events refused: {', '.join(shown)}" if shown else "events refused"


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _share(alerts: Sequence[Alert]) -> str:
    """Return the phrase of an alert on a share, with the value of the first that has one."""
    with_value, without = _SHARES[alerts[0].name]
    for alert in alerts:
        if alert.value is not None:
            return with_value.format(percent(alert.value))
        if text := re.search(r"(\d{1,3}(?:\.\d+)?)%", alert.annotations.get("description", "")):
            return with_value.format(percent(float(text[1]) / 100))
    return without
