"""Find the alerts for the home page, and whether it may miss others.

Alerts come from Prometheus, where ``prometheus_url`` is configured, or from the notifications of Alertmanager. That
none is known does not mean that none fires: both must also show Watchdog, which the project's rules let fire always,
and this exporter must be scraped. Prometheus itself is asked whether it has scraped it; without ``prometheus_url``, the
requests of ``/metrics`` tell.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from exporter.errors import ExporterError
from exporter.server.alert_rules import RULES, check_rules
from exporter.server.elapsed import duration
from exporter.server.notifications import MAX_FIRING, WATCHDOG_SECONDS, Alert, Inbox
from exporter.server.scrapes import Problem, Scrapes, overdue

if TYPE_CHECKING:
    from exporter.http_client.prometheus import Prometheus

LAYERS = ("system", "data", "business", "exporter")
FRESH_SECONDS = 5.0
"""Prometheus is asked again when its last answer is older."""
WAIT_SECONDS = 1.0
"""A page waits this long for Prometheus; then it shows the last answer."""
LATE_SECONDS = 10.0
"""The last response is shown as old when it is older while Prometheus does not send the next one."""
MAX_BODY = 8 << 20
"""Bytes of Prometheus' response."""
MAX_ALERTS = 2000
"""Alerts of Prometheus' answer that are kept."""
SETTLE_SECONDS = 120.0
"""Alertmanager repeats all firing alerts within this time after the first notification; then all are known."""
BUDGETS = "model:error_budget_remaining:ratio30d"
"""The query of the share that is left of the error budget of each model's objectives."""
LOADED = "model_exporter_config_last_reload_success_timestamp_seconds"
"""The metric by whose value this process is known among all exporters that Prometheus scrapes."""


@dataclass(frozen=True)
class Alerts:
    """The alerts that are known, and what is not.

    Attributes
    ----------
    alerts
        Firing and pending alerts.
    problem
        Why others may fire, as a short heading; empty when all are known.
    detail
        The problem in a sentence.
    remedy
        What the page shows to do: ``connect`` alerts to this page, or ``check`` why they no longer arrive.
    budgets
        The share of the error budget that is left, by model and objective; only Prometheus knows it.
    """

    alerts: list[Alert] = field(default_factory=list)
    problem: str = ""
    detail: str = ""
    remedy: str = ""
    budgets: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def firing(self) -> list[Alert]:
        """The alerts that fire."""
        return [alert for alert in self.alerts if alert.status == "firing"]

    @property
    def pending(self) -> list[Alert]:
        """The alerts whose condition holds, but not for long enough."""
        return [alert for alert in self.alerts if alert.status == "pending"]


class AlertSource:
    """Where the home page gets its alerts from.

    Parameters
    ----------
    prometheus
        Returns the Prometheus to ask; None when none is configured.
    inbox
        The notifications of Alertmanager.
    scrapes
        The scrapes of this exporter.
    loaded
        Returns the last two values of the metric `LOADED`.
    """

    def __init__(
        self,
        prometheus: Callable[[], Prometheus | None],
        inbox: Inbox,
        scrapes: Scrapes,
        loaded: Callable[[], Sequence[float]],
    ) -> None:
        self._prometheus = prometheus
        self._inbox = inbox
        self._scrapes = scrapes
        self._loaded = loaded
        self._lock = threading.Lock()
        self._alerts: PrometheusAlerts | None = None

    def read(self) -> Alerts:
        """Return the alerts."""
        try:
            prometheus = self._prometheus()
        except ExporterError as error:
            return Alerts(self._inbox.firing(time.monotonic()), "Prometheus cannot be asked", f"{error}.")
        if prometheus is None:
            alerts, missing = from_inbox(self._inbox, time.monotonic()), self._scrapes.problem(time.monotonic())
            return alerts if alerts.problem or not missing else Alerts(alerts.alerts, *missing)
        with self._lock:
            if self._alerts is None or self._alerts.prometheus is not prometheus:
                self._alerts = PrometheusAlerts(prometheus, self._loaded)
            asked = self._alerts
        alerts = asked.read()
        if alerts.problem and not alerts.alerts and (firing := self._inbox.firing(time.monotonic())):
            detail = f"{alerts.detail} The alerts below are those that Alertmanager sent."
            alerts = replace(alerts, alerts=firing, detail=detail)
        return alerts


def from_inbox(inbox: Inbox, now: float) -> Alerts:
    """Return the alerts of Alertmanager's notifications at the monotonic time ``now`` in seconds."""
    alerts = inbox.firing(now)
    times = inbox.watchdog()
    if times is None:
        if alerts:
            return Alerts(
                alerts, "Other alerts may not reach this page", "Watchdog does not reach it.", remedy="connect"
            )
        return Alerts(alerts, "Alerts do not reach this page", remedy="connect")
    first, last = times
    if now - last > WATCHDOG_SECONDS:
        detail = "Watchdog, which Alertmanager sends every minute, has not arrived since then."
        if count := inbox.expired():
            detail += (
                f" {count} alert{'' if count == 1 else 's'} fired then; whether {'it' if count == 1 else 'they'} still"
            )
            detail += f" fire{'s' if count == 1 else ''} is not known."
        return Alerts(alerts, f"Alerts stopped reaching this page {duration(now - last)} ago", detail, remedy="check")
    if now - first < SETTLE_SECONDS:
        return Alerts(
            alerts,
            "Waiting for alerts",
            f"The first notification since the exporter started came {duration(now - first)} ago. "
            "Alertmanager sends all firing alerts within two minutes.",
        )
    if now - inbox.forgot_at() < SETTLE_SECONDS:
        return Alerts(
            alerts,
            f"More than {MAX_FIRING} alerts fire",
            "This page keeps those of the last notifications. See all in Prometheus.",
        )
    return Alerts(alerts)


class _ApiAlert(msgspec.Struct):
    """An alert in Prometheus' API."""

    labels: dict[str, str]
    state: str
    annotations: dict[str, str] = {}
    active_at: str = msgspec.field(name="activeAt", default="")
    value: str = ""


class _ApiAlerts(msgspec.Struct):
    alerts: list[_ApiAlert]


class PrometheusAlerts:
    """The alerts of a Prometheus, asked for at most every few seconds; safe between threads.

    Parameters
    ----------
    prometheus
        The Prometheus.
    loaded
        See `AlertSource`.
    """

    def __init__(self, prometheus: Prometheus, loaded: Callable[[], Sequence[float]]) -> None:
        self.prometheus = prometheus
        self._loaded = loaded
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked = -math.inf
        self._answered = -math.inf
        self._alerts: list[Alert] = []
        self._budgets: dict[tuple[str, str], float] = {}
        self._watched = self._cut = False
        self._missing: Problem | None = None
        self._error = ""

    def read(self) -> Alerts:
        """Return the alerts; ask Prometheus, unless its last answer is fresh, and wait for it for a short time."""
        with self._lock:
            if self._thread is None and time.monotonic() - self._asked > FRESH_SECONDS:
                asking = threading.Thread(target=self._ask, name="prometheus-alerts", daemon=True)
                asking.start()
                self._thread = asking
            thread = self._thread
        if thread is not None:
            thread.join(WAIT_SECONDS)
        with self._lock:
            return replace(self._state(time.monotonic()), budgets=self._budgets)

    def _state(self, now: float) -> Alerts:
        """Return what is known. The caller holds the lock."""
        late = self._thread is not None and now - self._answered > LATE_SECONDS
        if self._error or late:
            detail = f"{self._error or f'{self.prometheus.url}: no response yet'}."
            if math.isfinite(self._answered):
                age = duration(now - self._answered)
                shown = f"What is shown is from its last response, {age} ago."
                detail += f" {shown if self._alerts else f'Its last response, {age} ago, had no alert.'}"
            return Alerts(self._alerts, "Prometheus does not respond", detail, "check")
        if not self._watched:
            detail = (
                f"Watchdog, which always fires, does not fire in {self.prometheus.url}. Load the rules of "
                "prometheus/rules/ there. Prometheus evaluates them within a minute after its start."
            )
            return Alerts(self._alerts, "Prometheus does not evaluate the alerts of this project", detail, "check")
        if self._missing:
            return Alerts(self._alerts, *self._missing)
        if self._cut:
            detail = f"This page shows {MAX_ALERTS} of them, those that fire first. See all in {self.prometheus.url}."
            return Alerts(self._alerts, f"More than {MAX_ALERTS} alerts fire or are pending", detail)
        return Alerts(self._alerts)

    def _ask(self) -> None:
        error, alerts, missing = f"{self.prometheus.url}: the response cannot be read", None, None
        budgets: dict[tuple[str, str], float] = {}
        try:
            missing = check_rules(self.prometheus.get(RULES, MAX_BODY), LAYERS) or self._check_scrapes()
            alerts = _decode(self.prometheus.get("/api/v1/alerts", MAX_BODY))
            for left in self.prometheus.query(BUDGETS):
                budgets[left.labels.get("model", ""), left.labels.get("objective", "")] = left.value
            error = ""
        except msgspec.ValidationError:
            error = f"{self.prometheus.url}: the response is not from Prometheus"
        except ExporterError as reason:
            error = str(reason)
        finally:
            with self._lock:
                self._thread, self._asked, self._error = None, time.monotonic(), error
                self._budgets = budgets
                if alerts is not None:
                    self._answered, self._missing = self._asked, missing
                    self._watched = any(alert.is_watchdog and alert.status == "firing" for alert in alerts)
                    shown = [alert for alert in alerts if alert.is_shown]
                    self._cut = len(shown) > MAX_ALERTS
                    self._alerts = sorted(shown, key=lambda alert: alert.status != "firing")[:MAX_ALERTS]

    def _check_scrapes(self) -> Problem | None:
        """Return the problem that Prometheus does not scrape this exporter; None while it does."""
        if ages := self.prometheus.query(_scrape_age(self._loaded())):
            return overdue(min(age.value for age in ages))
        return Problem(
            "Prometheus does not scrape this exporter",
            f"{self.prometheus.url} has no metrics of it since it started. Alerts on its models cannot fire until "
            "Prometheus scrapes it. See the targets of Prometheus.",
        )


def _scrape_age(loaded: Sequence[float]) -> str:
    """Return the query of the seconds since the last scrape of the process with these values of `LOADED`.

    The difference leaves room for databases that store fewer digits. Times are those of Prometheus' clock.

    >>> print(_scrape_age([1764000000.25]).replace(LOADED, "loaded"))
    time() - (timestamp(loaded) and (abs(loaded - 1764000000.25) < 0.01))
    """
    own = " or ".join(f"abs({LOADED} - {value!r}) < 0.01" for value in loaded)
    return f"time() - (timestamp({LOADED}) and ({own}))"


def _decode(data: Any) -> list[Alert]:
    """Return the alerts of this project in the member ``data`` of Prometheus' response."""
    alerts = msgspec.convert(data, _ApiAlerts).alerts
    return [
        Alert(alert.state, alert.labels, alert.annotations, alert.active_at, value=_number(alert.value))
        for alert in alerts
        if alert.labels.get("layer") in LAYERS
    ]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
