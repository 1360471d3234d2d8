"""Keep Alertmanager's last notifications in memory, for the home page."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Any

import msgspec

from exporter.errors import EventError
from exporter.validation import explain, json_pointer

MAX_ALERTS = 100
"""Notifications, and firing alerts, in memory."""
MAX_TEXT = 2000
"""Characters of a text; longer ones are cut."""
MAX_LABELS = 50
"""Labels, and annotations, of an alert; further ones are dropped."""


class Alert(msgspec.Struct):
    """One alert of a notification, as Alertmanager's webhook sends it."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    starts_at: str = msgspec.field(name="startsAt", default="")
    ends_at: str = msgspec.field(name="endsAt", default="")
    generator_url: str = msgspec.field(name="generatorURL", default="")
    fingerprint: str = ""


class Notification(msgspec.Struct):
    """The used members of the webhook's payload, version 4."""

    status: str
    alerts: list[Alert]
    receiver: str = ""


class Inbox:
    """The last notifications and the firing alerts; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[Alert] = deque(maxlen=MAX_ALERTS)
        self._firing: OrderedDict[str, Alert] = OrderedDict()

    def take(self, body: bytes) -> list[Alert]:
        """Decode a webhook's body, keep its alerts, and return them.

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
        alerts = [_limit_size(alert) for alert in notification.alerts[:MAX_ALERTS]]
        with self._lock:
            for alert in alerts:
                key = alert.fingerprint or repr(sorted(alert.labels.items()))
                before = self._firing.pop(key, None)
                if (before is None) == (alert.status == "firing"):  # Alertmanager repeats notifications
                    self._last.appendleft(alert)
                if alert.status == "firing":
                    self._firing[key] = alert
                    if len(self._firing) > MAX_ALERTS:
                        self._firing.popitem(last=False)
        return alerts

    def firing(self) -> list[Alert]:
        """Return the alerts that fire according to the notifications, the newest first."""
        with self._lock:
            return list(reversed(self._firing.values()))

    def last(self) -> list[Alert]:
        """Return the alerts of the last notifications, the newest first."""
        with self._lock:
            return list(self._last)


def _limit_size(alert: Alert) -> Alert:
    """Limit the size of an alert, so that a page can show it."""

    def cut(mapping: dict[str, str]) -> dict[str, str]:
        return {key[:MAX_TEXT]: value[:MAX_TEXT] for key, value in list(mapping.items())[:MAX_LABELS]}

    return Alert(
        status=alert.status[:MAX_TEXT],
        labels=cut(alert.labels),
        annotations=cut(alert.annotations),
        starts_at=alert.starts_at[:MAX_TEXT],
        ends_at=alert.ends_at[:MAX_TEXT],
        generator_url=alert.generator_url[:MAX_TEXT],
        fingerprint=alert.fingerprint[:MAX_TEXT],
    )


def is_shown(alert: Alert) -> bool:
    """Return whether the page shows an alert; it does not show Watchdog, which always fires."""
    return alert.labels.get("severity") != "none"


def annotation(alert: Alert, name: str) -> Any:
    """Return an annotation, or the name of the alert without one."""
    return alert.annotations.get(name) or alert.labels.get("alertname", "alert")
