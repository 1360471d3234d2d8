"""What the servers say at this moment. A server that does not answer leaves its part empty."""

from __future__ import annotations

import json
import math
import time
import urllib.parse
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from exporter.commands.common import DIRECT
from exporter.commands.up.process import tail

_TIMEOUT = 1.5
PASSING_SECONDS = 10.0
"""What has been pending for less may be over at the next evaluation: at each start nothing is scraped yet."""
STORY_LINES = 8
"""More than the demo says at once."""

_SERIES = (
    "model_version:requests:rate1m",
    "model_version:request_error_ratio:rate1m",
    "model_version:request_duration_seconds:p95_rate5m",
    "model_version:confident_ratio:rate1h",
    "model_version:correction_ratio:rate1h",
    "model_system_cpu_utilization_ratio",
    "model_system_memory_utilization_ratio",
    "model_feature_kl_divergence",
    "model_feature_kl_divergence_noise",
    "model_feature_mean_shift",
    "model_prediction_kl_divergence",
    "model_attempts_total",
    "model_corrections_total",
    "model_exporter_notifications_total",
)


@dataclass(frozen=True)
class Alert:
    """An alert as Prometheus has it; ``notified`` are the receivers that Alertmanager sends it to."""

    name: str
    state: str
    severity: str
    about: str
    since: float
    notified: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One series and its value now."""

    labels: dict[str, str]
    value: float


@dataclass
class Snapshot:
    """The state of the stack."""

    at: float = field(default_factory=time.time)
    targets: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[Sample]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def total(self, name: str) -> float | None:
        """The sum over a metric's series, None where there is none."""
        values = [sample.value for sample in self.series.get(name, [])]
        return sum(values) if values else None

    def worst(self, name: str) -> Sample | None:
        """The series of a metric that is furthest from zero."""
        return max(self.series.get(name, []), key=lambda sample: abs(sample.value), default=None)


def take(prometheus: str, alertmanager: str, story: Path | None) -> Snapshot:
    """Ask the servers.

    Parameters
    ----------
    prometheus, alertmanager
        URLs.
    story
        The demo's log, None without a demo.
    """
    now = Snapshot()
    try:
        _ask_prometheus(prometheus, now)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        now.silent.append("Prometheus")
    try:
        ask_alertmanager(alertmanager, now)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        now.silent.append("Alertmanager")
    if story is not None:
        now.story = tail(story, STORY_LINES)
    return now


def _ask_prometheus(url: str, now: Snapshot) -> None:
    query = '{__name__=~"' + "|".join(_SERIES) + '"}'
    for entry in _get(f"{url}/api/v1/query?" + urllib.parse.urlencode({"query": query}))["data"]["result"]:
        labels = dict(entry["metric"])
        value = float(entry["value"][1])
        if not math.isnan(value):
            now.series.setdefault(labels.pop("__name__"), []).append(Sample(labels, value))
    for target in _get(f"{url}/api/v1/targets?state=active")["data"]["activeTargets"]:
        now.targets[f"{target['labels']['job']} {target['labels']['instance']}"] = target["health"]
    for entry in _get(f"{url}/api/v1/alerts")["data"]["alerts"]:
        labels = entry["labels"]
        since = _unix(entry["activeAt"])
        passing = entry["state"] == "pending" and now.at - since < PASSING_SECONDS
        if labels.get("severity") != "none" and not passing:
            severity = labels.get("severity", "")
            now.alerts.append(Alert(labels["alertname"], entry["state"], severity, _about(labels), since))
    now.alerts.sort(key=lambda alert: (alert.state != "firing", alert.severity != "critical", alert.since))


def ask_alertmanager(url: str, now: Snapshot) -> None:
    """Add to a snapshot's alerts who is told of them."""
    # A receiver whose integrations are all off is still routed to, and tells nobody.
    config = yaml.load(_get(f"{url}/api/v2/status")["config"]["original"], yaml.CSafeLoader)
    telling = {receiver["name"] for receiver in config["receivers"] if any(k.endswith("_configs") for k in receiver)}
    notified: dict[tuple[str, str], tuple[str, ...]] = {}
    for entry in _get(f"{url}/api/v2/alerts?active=true&silenced=false&inhibited=false"):
        labels = entry["labels"]
        names = tuple(receiver["name"] for receiver in entry["receivers"] if receiver["name"] in telling)
        notified[labels["alertname"], _about(labels)] = names
    now.alerts = [
        Alert(a.name, a.state, a.severity, a.about, a.since, notified.get((a.name, a.about), ())) for a in now.alerts
    ]


def _about(labels: dict[str, str]) -> str:
    known = ("model", "version", "feature", "window", "job", "instance", "path")
    return " ".join(labels[name] for name in known if labels.get(name))


def _unix(text: str) -> float:
    """Unix time of an RFC 3339 time, however many digits its seconds have."""
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def _get(url: str) -> Any:
    with DIRECT.open(url, timeout=_TIMEOUT) as answer:
        return json.load(answer)
