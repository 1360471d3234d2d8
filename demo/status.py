"""The state of the stack, as Prometheus and Alertmanager report it."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from demo.processes import tail
from exporter.http_client import Client, RequestError
from exporter.prometheus import Sample

_TIMEOUT = 1.5
MIN_PENDING_SECONDS = 10.0
"""An alert that has been pending for less is not shown: after a start, some are pending until the first scrape."""
DEMO_LINES = 8
"""Lines of the demo's log that are read: more than it writes between two snapshots."""
_FAILURES = (RequestError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Alert:
    """An alert of Prometheus.

    Attributes
    ----------
    subject
        The labels that say what it is about, such as model and feature.
    since
        When it became active, in Unix seconds.
    notified
        The receivers that Alertmanager sends it to.
    """

    name: str
    state: str
    severity: str
    subject: str
    since: float
    notified: tuple[str, ...] = ()


@dataclass
class Snapshot:
    """The state of the stack.

    Attributes
    ----------
    at
        When it was taken, in Unix seconds.
    targets
        Health by job and instance.
    series
        Samples by metric.
    demo
        The last lines of the demo's log.
    unreachable
        Servers that did not respond; their part of the snapshot is empty.
    """

    at: float = field(default_factory=time.time)
    targets: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[Sample]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    demo: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)

    def total(self, name: str) -> float | None:
        """Return the sum of a metric's series; None if it has none."""
        values = [sample.value for sample in self.series.get(name, [])]
        return sum(values) if values else None

    def largest(self, name: str) -> Sample | None:
        """Return the series of a metric with the largest absolute value."""
        return max(self.series.get(name, []), key=lambda sample: abs(sample.value), default=None)


def take_snapshot(prometheus: str, alertmanager: str, metrics: Iterable[str], demo_log: Path | None) -> Snapshot:
    """Ask the servers for their state.

    Parameters
    ----------
    prometheus, alertmanager
        URLs.
    metrics
        Names of the metrics to read.
    demo_log
        The demo's log; None without a demo.
    """
    snapshot = Snapshot()
    try:
        add_prometheus(snapshot, prometheus, metrics)
    except _FAILURES:
        snapshot.unreachable.append("Prometheus")
    try:
        add_receivers(snapshot, alertmanager)
    except (*_FAILURES, yaml.YAMLError):
        snapshot.unreachable.append("Alertmanager")
    if demo_log is not None:
        snapshot.demo = tail(demo_log, DEMO_LINES)
    return snapshot


def add_prometheus(snapshot: Snapshot, url: str, metrics: Iterable[str]) -> None:
    """Add the series, targets and alerts of Prometheus to a snapshot."""
    query = urllib.parse.urlencode({"query": '{__name__=~"' + "|".join(metrics) + '"}'})
    for entry in _get(url, f"/api/v1/query?{query}")["data"]["result"]:
        labels = dict(entry["metric"])
        value = float(entry["value"][1])
        if not math.isnan(value):
            snapshot.series.setdefault(labels.pop("__name__"), []).append(Sample(labels, value))
    for target in _get(url, "/api/v1/targets?state=active")["data"]["activeTargets"]:
        snapshot.targets[f"{target['labels']['job']} {target['labels']['instance']}"] = target["health"]
    for entry in _get(url, "/api/v1/alerts")["data"]["alerts"]:
        labels = entry["labels"]
        since = _unix_time(entry["activeAt"])
        too_new = entry["state"] == "pending" and snapshot.at - since < MIN_PENDING_SECONDS
        if labels.get("severity") != "none" and not too_new:
            severity = labels.get("severity", "")
            snapshot.alerts.append(Alert(labels["alertname"], entry["state"], severity, _subject(labels), since))
    snapshot.alerts.sort(key=lambda alert: (alert.state != "firing", alert.severity != "critical", alert.since))


def add_receivers(snapshot: Snapshot, url: str) -> None:
    """Add to the alerts of a snapshot the receivers that Alertmanager sends them to."""
    # Alertmanager also routes alerts to receivers without any integration, which send nothing.
    config = yaml.load(_get(url, "/api/v2/status")["config"]["original"], yaml.CSafeLoader)
    sending = {receiver["name"] for receiver in config["receivers"] if any(k.endswith("_configs") for k in receiver)}
    notified: dict[tuple[str, str], tuple[str, ...]] = {}
    for entry in _get(url, "/api/v2/alerts?active=true&silenced=false&inhibited=false"):
        labels = entry["labels"]
        names = tuple(receiver["name"] for receiver in entry["receivers"] if receiver["name"] in sending)
        notified[labels["alertname"], _subject(labels)] = names
    snapshot.alerts = [replace(a, notified=notified.get((a.name, a.subject), ())) for a in snapshot.alerts]


def _subject(labels: dict[str, str]) -> str:
    names = ("model", "version", "feature", "window", "job", "instance", "path")
    return " ".join(labels[name] for name in names if labels.get(name))


def _unix_time(text: str) -> float:
    """Return the Unix time of an RFC 3339 time in UTC, without fractions of a second."""
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def _get(url: str, path: str) -> Any:
    with Client(url, "", timeout=_TIMEOUT) as client:
        return json.loads(client.request("GET", path).body)


_VALUES_SECONDS = 60.0
"""Seconds between two lines with the values of a layer."""
_PENDING_SECONDS = 60.0
"""A warning that has been pending for less gets no line: most of them resolve."""
_SYSTEM = {
    "model_version:requests:rate1m": "{:.1f} requests/s",
    "model_version:request_error_ratio:rate1m": "{:.1%} errors",
    "model_version:request_duration_seconds:p95_rate5m": "p95 {:.3f} s",
    "model_system_cpu_utilization_ratio": "CPU {:.0%}",
    "model_system_memory_utilization_ratio": "memory {:.0%}",
}
_DATA = {"model_prediction_kl_divergence": "prediction KL {:.2f}"}
_BUSINESS = {
    "model_attempts_total": "{:.0f} attempts",
    "model_version:confident_ratio:rate1h": "{:.1%} confident",
    "model_corrections_total": "{:.0f} corrected",
    "model_version:correction_ratio:rate1h": "{:.2%} of confident",
}
_SUMMED = frozenset(("model_version:requests:rate1m", "model_attempts_total", "model_corrections_total"))
METRICS = (
    *_SYSTEM,
    *_DATA,
    *_BUSINESS,
    "model_feature_kl_divergence",
    "model_feature_kl_divergence_noise",
    "model_feature_mean_shift",
)
"""The metrics of a snapshot."""


class Display:
    """Lines about what changed since the snapshot before."""

    def __init__(self) -> None:
        self._before = Snapshot()
        self._alerts: dict[tuple[str, str], Alert] = {}
        self._values_at = 0.0

    def show(self, snapshot: Snapshot) -> None:
        """Print the changes."""
        for line in self.changes(snapshot):
            print_line(f"{clock(snapshot.at)} {line}")

    def changes(self, snapshot: Snapshot) -> list[str]:
        """Return a line for each change."""
        before, self._before = self._before, snapshot
        lines = [f"{name} does not respond" for name in snapshot.unreachable if name not in before.unreachable]
        lines += [f"{name} responds again" for name in before.unreachable if name not in snapshot.unreachable]
        lines += [f"demo: {_without_time(line)}" for line in snapshot.demo if line not in before.demo]
        if "Prometheus" in snapshot.unreachable:
            snapshot.targets = before.targets
            return lines
        for target, health in snapshot.targets.items():
            if health not in {before.targets.get(target), "unknown"}:
                lines.append(f"target {target} is {health}")
        lines += self._changed_alerts(snapshot)
        if snapshot.series and snapshot.at - self._values_at >= _VALUES_SECONDS:
            self._values_at = snapshot.at
            lines += [f"{layer}: {values}" for layer, values in layers(snapshot)]
        return lines

    def _changed_alerts(self, snapshot: Snapshot) -> list[str]:
        lines = []
        alerts = {(alert.name, alert.subject): alert for alert in snapshot.alerts if _has_line(alert, snapshot.at)}
        for key, alert in alerts.items():
            before = self._alerts.get(key)
            if before is None or before.state != alert.state or (alert.notified and not before.notified):
                lines.append(f"alert {alert_text(alert)}")
        lines += [f"alert resolved {name} {subject}" for name, subject in self._alerts if (name, subject) not in alerts]
        self._alerts = alerts
        return lines


def _has_line(alert: Alert, now: float) -> bool:
    return alert.state == "firing" or alert.severity != "warning" or now - alert.since >= _PENDING_SECONDS


def alert_text(alert: Alert) -> str:
    """Return one alert as a line."""
    receivers = f" -> {', '.join(alert.notified)}" if alert.notified else ""
    return f"{alert.state:7} {alert.name} {alert.subject}, since {clock(alert.since)}{receivers}"


def layers(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return the values of the three layers, in a line or two each."""
    shift = snapshot.largest("model_feature_mean_shift")
    shifted = f"mean shift {shift.value:+.1f} sd {_feature(shift.labels)}" if shift else "mean shift -"
    return [
        ("system", _values(snapshot, _SYSTEM)),
        ("data", _divergence(snapshot)),
        ("data", f"{shifted}, {_values(snapshot, _DATA)}"),
        ("business", _values(snapshot, _BUSINESS)),
    ]


def _values(snapshot: Snapshot, formats: dict[str, str]) -> str:
    """Format metrics: the sum of a counter or rate, the largest value of a ratio or quantile."""
    values = []
    for name, text in formats.items():
        sample = snapshot.largest(name)
        value = snapshot.total(name) if name in _SUMMED else sample.value if sample else None
        values.append(re.sub(r"\{.*\}", "-", text) if value is None else text.format(value))
    return ", ".join(values)


def _divergence(snapshot: Snapshot) -> str:
    """Return the largest divergence of a feature, with its noise floor."""
    kl = snapshot.largest("model_feature_kl_divergence")
    if kl is None:
        return "worst KL -"
    floors = snapshot.series.get("model_feature_kl_divergence_noise", [])
    noise = next((f" (noise {floor.value:.2f})" for floor in floors if floor.labels == kl.labels), "")
    return f"worst KL {kl.value:.2f}{noise} {_feature(kl.labels)}"


def _feature(labels: dict[str, str]) -> str:
    return " ".join(labels[name] for name in ("feature", "window") if name in labels)


def _without_time(line: str) -> str:
    """Return a line of the demo's log without the time of day."""
    return re.sub(r"^\d\d:\d\d:\d\d ", "", line)


def clock(at: float) -> str:
    """Return the local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def print_line(text: str) -> None:
    """Print a line; a terminal or pipe that is gone must not prevent the stack from stopping."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        # Python would flush again when it exits, and print an error.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
