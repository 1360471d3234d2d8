"""Find the alerts for the home page, and whether it may miss others.

Alerts come from Prometheus, where ``prometheus_url`` is configured, or from the notifications of Alertmanager. That
none is known does not mean that none fires: both must also show Watchdog, which the project's rules let fire always,
and this exporter must have been scraped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from exporter.errors import EventError, ExporterError
from exporter.scheduler import Task
from exporter.server.text import duration
from exporter.validation import explain, json_pointer

if TYPE_CHECKING:
    from exporter.prometheus import Prometheus


SCRAPE_SECONDS = 120.0
"""Prometheus scrapes at least once a minute; after so long without a scrape, alerts are not evaluated."""


MAX_FIRING = 500
"""Firing alerts in memory."""
MAX_LAST = 100
"""Alerts of the last notifications in memory."""
MAX_LABEL, MAX_ANNOTATION, MAX_TIME = 500, 1000, 40
"""Characters of a label, an annotation and a time; longer ones are cut."""
LABELS = ("alertname", "severity", "layer", "model", "version", "feature", "instance", "path", "reason")
ANNOTATIONS = ("summary", "description", "dashboard_url", "runbook_url")
"""The labels and annotations that are kept."""
WATCHDOG = "Watchdog"
WATCHDOG_SECONDS = 300.0
"""Alertmanager repeats Watchdog every minute; after so long without it, alerts do not reach the page."""
EXPIRY_SECONDS = 420.0
"""Alertmanager repeats each firing alert every minute; after so long without it, an alert is not known to fire. Later
than Watchdog is missed, so that the page does not show no alert without saying why."""


@dataclass(frozen=True)
class Alert:
    """An alert, with only what the page shows, cut to a bounded size.

    Attributes
    ----------
    status
        ``firing``, ``resolved`` or, from Prometheus, ``pending``.
    starts_at, ends_at
        Times in RFC 3339, as they arrived.
    """

    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: str = ""
    ends_at: str = ""

    def __post_init__(self) -> None:
        def cut(mapping: Mapping[str, str], names: tuple[str, ...], limit: int) -> dict[str, str]:
            return {name: mapping[name][:limit] for name in names if name in mapping}

        object.__setattr__(self, "status", self.status[:MAX_LABEL])
        object.__setattr__(self, "labels", cut(self.labels, LABELS, MAX_LABEL))
        object.__setattr__(self, "annotations", cut(self.annotations, ANNOTATIONS, MAX_ANNOTATION))
        object.__setattr__(self, "starts_at", self.starts_at[:MAX_TIME])
        object.__setattr__(self, "ends_at", self.ends_at[:MAX_TIME])

    @property
    def name(self) -> str:
        """The name of the alert."""
        return self.labels.get("alertname") or "alert"

    @property
    def is_watchdog(self) -> bool:
        """Whether it is the Watchdog of this project's rules, which always fires."""
        return self.name == WATCHDOG and self.labels.get("layer") == "exporter"

    @property
    def is_shown(self) -> bool:
        """Whether the page shows it; it does not show Watchdog."""
        return self.labels.get("severity") != "none"

    def annotation(self, name: str) -> str:
        """Return an annotation, or the name of the alert without one."""
        return self.annotations.get(name) or self.name


class ReceivedAlert(msgspec.Struct):
    """One alert of a notification, as Alertmanager's webhook sends it."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    starts_at: str = msgspec.field(name="startsAt", default="")
    ends_at: str = msgspec.field(name="endsAt", default="")
    fingerprint: str = ""


class Notification(msgspec.Struct):
    """The used members of the webhook's payload, version 4."""

    status: str
    alerts: list[ReceivedAlert]
    receiver: str = ""
    group_key: str = msgspec.field(name="groupKey", default="")
    external_url: str = msgspec.field(name="externalURL", default="")
    truncated: int = msgspec.field(name="truncatedAlerts", default=0)


class _Firing(NamedTuple):
    """A firing alert, the hash of its group, and the monotonic time at which it arrived last."""

    alert: Alert
    group: int
    arrived: float


class Inbox:
    """The last notifications and the firing alerts; thread-safe.

    Attributes
    ----------
    expired : int
        How many alerts fired when Alertmanager sent its last notification, and are no longer known to.
    watchdog : tuple of float, or None
        The monotonic times of the first and of the last notification of Watchdog; None before the first.
    arrived : float or None
        The monotonic time of the last notification; None before the first.
    forgot_at : float
        The monotonic time at which a firing alert was forgotten for lack of room; minus infinity if never.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[Alert] = deque(maxlen=MAX_LAST)
        self._firing: OrderedDict[str, _Firing] = OrderedDict()  # the one that arrived last is at the end
        self.expired = 0  # since the last notification
        self.watchdog: tuple[float, float] | None = None
        self.arrived: float | None = None
        self.forgot_at = -math.inf

    def take(self, body: bytes, now: float) -> list[ReceivedAlert]:
        """Decode a webhook's body, keep its alerts, and return them.

        Parameters
        ----------
        body
            The body.
        now
            Monotonic time in seconds.

        Raises
        ------
        EventError
            When the body is not a notification of Alertmanager.
        """
        document: Any = None
        try:
            document = msgspec.json.decode(body)
            notification = msgspec.convert(document, Notification)
        except msgspec.ValidationError as error:
            path, detail, reason = explain(error, document)
            raise EventError(json_pointer(path), detail, reason) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            detail = "the body is not a JSON notification of Alertmanager's webhook"
            raise EventError("", detail, "malformed") from None
        group = hash((notification.external_url, notification.group_key))
        with self._lock:
            self._expire(now)
            self.expired, self.arrived = 0, now
            sent = {self._keep(alert, group, now) for alert in notification.alerts}
            if notification.group_key and not notification.truncated:
                self._drop_suppressed(group, sent)
        return notification.alerts

    def _drop_suppressed(self, group: int, sent: Set[str]) -> None:
        """Drop the alerts of a group that its latest notification does not have. The caller holds the lock.

        A notification has all alerts of its group that are not silenced or inhibited. Alertmanager does not send the
        end of one that resolves while it is.
        """
        for key in [key for key, firing in self._firing.items() if firing.group == group and key not in sent]:
            del self._firing[key]

    def _expire(self, now: float) -> None:
        """Drop alerts that were not repeated, such as those of an Alertmanager that died. The caller holds the lock."""
        while self._firing and now - next(iter(self._firing.values())).arrived > EXPIRY_SECONDS:
            self._firing.popitem(last=False)
            self.expired += 1

    def _keep(self, received: ReceivedAlert, group: int, now: float) -> str:
        """Keep an alert, and return its key. The caller holds the lock."""
        alert = Alert(received.status, received.labels, received.annotations, received.starts_at, received.ends_at)
        if alert.is_watchdog and alert.status == "firing":
            self.watchdog = (self.watchdog[0] if self.watchdog else now, now)
        key = received.fingerprint[:MAX_LABEL] or str(hash(tuple(sorted(received.labels.items()))))
        if not alert.is_shown:
            return key
        before = self._firing.pop(key, None)
        if (before is None) == (alert.status == "firing"):  # Alertmanager repeats notifications
            self._last.appendleft(alert)
        if alert.status == "firing":
            self._firing[key] = _Firing(alert, group, now)
            if len(self._firing) > MAX_FIRING:
                self._firing.popitem(last=False)
                self.forgot_at = now
        return key

    def firing(self, now: float) -> list[Alert]:
        """Return the alerts that fire at a monotonic time according to the notifications, the newest first."""
        with self._lock:
            self._expire(now)
            return [firing.alert for firing in reversed(self._firing.values())]

    def last(self) -> list[Alert]:
        """Return the alerts of the last notifications, the newest first."""
        with self._lock:
            return list(self._last)


LAYERS = ("system", "data", "business", "exporter")
ASK_SECONDS = 30.0
"""Time between two questions to Prometheus."""
FRESH_SECONDS = 5.0
"""Prometheus is asked again soon when somebody looks and its last answer is older."""
LATE_SECONDS = 75.0
"""The last answer is shown as old when it is older."""
BUDGETS = "min by (model) (model:error_budget_remaining:ratio30d)"
MAX_BODY = 8 << 20
"""Bytes of Prometheus' response."""
MAX_ALERTS = 2000
"""Alerts of Prometheus' answer that are kept."""
SETTLE_SECONDS = 120.0
"""Alertmanager repeats all firing alerts within this time after the first notification; then all are known."""


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
        The least share of its error budgets that a model has left, by model; empty unless Prometheus is asked.
    """

    alerts: list[Alert] = field(default_factory=list)
    problem: str = ""
    detail: str = ""
    remedy: str = ""
    budgets: dict[str, float] = field(default_factory=dict)

    @property
    def firing(self) -> list[Alert]:
        """The alerts that fire."""
        return [alert for alert in self.alerts if alert.status == "firing"]

    @property
    def pending(self) -> list[Alert]:
        """The alerts whose condition holds, but not for long enough."""
        return [alert for alert in self.alerts if alert.status == "pending"]


class AlertSource(Task):
    """Where the home page gets its alerts from; asks Prometheus in the background.

    Parameters
    ----------
    prometheus
        Returns the Prometheus to ask; None when none is configured.
    inbox
        The notifications of Alertmanager.
    scraped
        Returns the monotonic time at which the metrics were read last; None before the first time.

    Attributes
    ----------
    ask_soon
        Called when somebody looks and the last answer is not fresh.
    """

    def __init__(
        self,
        prometheus: Callable[[], Prometheus | None],
        inbox: Inbox,
        scraped: Callable[[], float | None],
    ) -> None:
        super().__init__("alerts", "Prometheus is not asked for alerts", ASK_SECONDS, lane="prometheus", at_once=True)
        self._prometheus = prometheus
        self._inbox = inbox
        self._scraped = scraped
        self._answer = Answer("")
        self._asked = -math.inf
        self.ask_soon: Callable[[], None] = lambda: None

    def refresh(self) -> None:
        """Ask Prometheus."""
        url = error = ""
        try:
            if prometheus := self._prometheus():
                url = prometheus.url
                if self._answer.url != url:
                    self._answer = Answer(url)
                error = f"{url}: the response cannot be read"
                self._answer = ask(prometheus, self._scraped())
            else:
                self._answer = Answer("")
            error = ""
        except msgspec.ValidationError:
            error = f"{url}: the response is not from Prometheus"
        except ExporterError as failure:
            error = str(failure)
        finally:
            if error:
                self._answer = replace(self._answer if self._answer.url == url else Answer(url), error=error)
            self._asked = time.monotonic()

    def read(self) -> Alerts:
        """Return the alerts of the last answer, or of the notifications where they are newer or alone."""
        now, answer = time.monotonic(), self._answer
        if now - self._asked > FRESH_SECONDS:
            self.ask_soon()
        if not (answer.url or answer.error):
            return from_inbox(self._inbox, now)
        is_late = now - answer.at > LATE_SECONDS
        if not (answer.error or is_late):
            return answer.state
        detail = f"{answer.error or f'{answer.url}: no response yet'}."
        arrived = self._inbox.arrived
        if arrived is not None and arrived > answer.at:
            detail += f" The alerts below come from Alertmanager, the last {duration(now - arrived)} ago."
            return Alerts(self._inbox.firing(now), "Prometheus does not respond", detail, "check")
        if math.isfinite(answer.at):
            age = f"{duration(now - answer.at)} ago"
            shown = f"The alerts below are from its last response, {age}."
            detail += f" {shown if answer.state.alerts else f'Its last response, {age}, had no alert.'}"
        return replace(answer.state, problem="Prometheus does not respond", detail=detail, remedy="check")


@dataclass(frozen=True)
class Answer:
    """What Prometheus answered last.

    Attributes
    ----------
    url
        Whom it is from; empty where none is configured.
    at
        Monotonic time in seconds; minus infinity before the first answer.
    state
        The alerts, and what may be missing.
    error
        Why there is no newer one.
    """

    url: str
    at: float = -math.inf
    state: Alerts = Alerts()
    error: str = ""


def from_inbox(inbox: Inbox, now: float) -> Alerts:
    """Return the alerts of Alertmanager's notifications at the monotonic time ``now`` in seconds."""
    alerts = inbox.firing(now)
    times = inbox.watchdog
    if times is None:
        if alerts:
            return Alerts(
                alerts, "Other alerts may not reach this page", "Watchdog does not reach it.", remedy="connect"
            )
        return Alerts(alerts, "Alerts do not reach this page", remedy="connect")
    first, last = times
    if now - last > WATCHDOG_SECONDS:
        detail = "Watchdog, which Alertmanager sends every minute, has not arrived since then."
        if count := inbox.expired:
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
    if now - inbox.forgot_at < SETTLE_SECONDS:
        return Alerts(
            alerts,
            f"More than {MAX_FIRING} alerts fire",
            "This page keeps the alerts of the last notifications. See all in Prometheus.",
        )
    return Alerts(alerts)


class _ApiAlert(msgspec.Struct):
    """An alert in Prometheus' API."""

    labels: dict[str, str]
    state: str
    annotations: dict[str, str] = {}
    active_at: str = msgspec.field(name="activeAt", default="")


class _ApiAlerts(msgspec.Struct):
    alerts: list[_ApiAlert]


def ask(prometheus: Prometheus, scraped: float | None) -> Answer:
    """Return the alerts of a Prometheus, and whether it may miss others.

    ``scraped`` is the monotonic time at which the metrics of this exporter were read last, if they were.
    """
    url, now = prometheus.url, time.monotonic()
    alerts = _decode(prometheus.get("/api/v1/alerts", MAX_BODY))
    shown = sorted((alert for alert in alerts if alert.is_shown), key=lambda alert: alert.status != "firing")
    try:
        budgets = {sample.labels.get("model", ""): sample.value for sample in prometheus.query(BUDGETS)}
    except ExporterError:  # the alerts are known all the same
        budgets = {}
    state = Alerts(shown[:MAX_ALERTS], budgets=budgets)
    if not any(alert.is_watchdog and alert.status == "firing" for alert in alerts):
        detail = (
            f"Watchdog, which always fires, does not fire in {url}. Load the rules of prometheus/rules/ there. "
            "Prometheus evaluates them within a minute after its start."
        )
        heading = "Prometheus does not evaluate the alerts of this project"
        state = replace(state, problem=heading, detail=detail, remedy="check")
    elif scraped is None or now - scraped > SCRAPE_SECONDS:
        since = "" if scraped is None else f" for {duration(now - scraped)}"
        heading = f"Prometheus {'has not scraped' if since else 'does not scrape'} this exporter{since}"
        detail = "Alerts on its models cannot fire until it does. See the targets of Prometheus."
        state = replace(state, problem=heading, detail=detail)
    elif len(shown) > MAX_ALERTS:
        detail = f"This page shows {MAX_ALERTS} of them, which fired first. See all in {url}."
        state = replace(state, problem=f"More than {MAX_ALERTS} alerts fire or are pending", detail=detail)
    return Answer(url, now, state)


def _decode(data: Any) -> list[Alert]:
    """Return the alerts of this project in the member ``data`` of Prometheus' response."""
    alerts = msgspec.convert(data, _ApiAlerts).alerts
    return [
        Alert(alert.state, alert.labels, alert.annotations, alert.active_at)
        for alert in alerts
        if alert.labels.get("layer") in LAYERS
    ]
