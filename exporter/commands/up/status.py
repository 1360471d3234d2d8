"""The state of the stack, as Prometheus and Alertmanager report it."""

from __future__ import annotations

import json
import math
import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from exporter.commands.up.process import tail
from exporter.http_client.client import Client, RequestError
from exporter.http_client.prometheus import Sample

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
