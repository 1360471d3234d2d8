"""Keep Alertmanager's last notifications in memory, for the home page."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from exporter.errors import EventError
from exporter.validation import explain, json_pointer

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
    value
        The value of its expression; None where only Prometheus knows it.
    """

    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: str = ""
    ends_at: str = ""
    value: float | None = None

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
    """The last notifications and the firing alerts; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[Alert] = deque(maxlen=MAX_LAST)
        self._firing: OrderedDict[str, _Firing] = OrderedDict()  # the one that arrived last is at the end
        self._expired = 0  # since the last notification
        self._watchdog: tuple[float, float] | None = None
        self._forgot_at = -math.inf

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
            self._expired = 0
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
            self._expired += 1

    def _keep(self, received: ReceivedAlert, group: int, now: float) -> str:
        """Keep an alert, and return its key. The caller holds the lock."""
        alert = Alert(received.status, received.labels, received.annotations, received.starts_at, received.ends_at)
        if alert.is_watchdog and alert.status == "firing":
            self._watchdog = (self._watchdog[0] if self._watchdog else now, now)
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
                self._forgot_at = now
        return key

    def firing(self, now: float) -> list[Alert]:
        """Return the alerts that fire at a monotonic time according to the notifications, the newest first."""
        with self._lock:
            self._expire(now)
            return [firing.alert for firing in reversed(self._firing.values())]

    def expired(self) -> int:
        """Return how many alerts fired when Alertmanager sent its last notification, and are no longer known to."""
        with self._lock:
            return self._expired

    def forgot_at(self) -> float:
        """Return the monotonic time at which a firing alert was forgotten for lack of room; minus infinity if never."""
        with self._lock:
            return self._forgot_at

    def last(self) -> list[Alert]:
        """Return the alerts of the last notifications, the newest first."""
        with self._lock:
            return list(self._last)

    def watchdog(self) -> tuple[float, float] | None:
        """Return the monotonic times of the first and of the last notification of Watchdog; None before the first."""
        with self._lock:
            return self._watchdog
