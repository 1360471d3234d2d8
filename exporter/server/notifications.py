"""Alertmanager's notifications, as the home page shows them: the last ones, in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Any

import msgspec

from exporter.errors import EventError
from exporter.validation import explain, json_pointer

KEPT = 100
"""Notifications, and firing alerts, that are remembered."""
LONGEST = 2000
"""Characters of a text that are kept."""
MOST_LABELS = 50
"""Labels, and annotations, that are kept."""


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
    """The webhook's payload, version 4, as far as it is used."""

    status: str
    alerts: list[Alert]
    receiver: str = ""


class Inbox:
    """The last notifications, and the alerts that fire; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[Alert] = deque(maxlen=KEPT)
        self._firing: OrderedDict[str, Alert] = OrderedDict()

    def take(self, body: bytes) -> list[Alert]:
        """Take a webhook's body; its alerts.

        Raises
        ------
        EventError
            When the body is not Alertmanager's.
        """
        document: Any = None
        try:
            document = msgspec.json.decode(body)
            notification = msgspec.convert(document, Notification)
        except msgspec.ValidationError as error:
            path, detail, reason = explain(error, document)
            raise EventError(json_pointer(path), detail, reason) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            detail = "the body is not the JSON that Alertmanager's webhook sends"
            raise EventError("", detail, "malformed") from None
        alerts = [_bounded(alert) for alert in notification.alerts[:KEPT]]
        with self._lock:
            for alert in alerts:
                key = alert.fingerprint or repr(sorted(alert.labels.items()))
                before = self._firing.pop(key, None)
                if (before is None) == (alert.status == "firing"):  # Alertmanager repeats itself; people are told once
                    self._last.appendleft(alert)
                if alert.status == "firing":
                    self._firing[key] = alert
                    if len(self._firing) > KEPT:
                        self._firing.popitem(last=False)
        return alerts

    def firing(self) -> list[Alert]:
        """Alerts that fire as far as the notifications say, the newest first."""
        with self._lock:
            return list(reversed(self._firing.values()))

    def last(self) -> list[Alert]:
        """The last notifications' alerts, the newest first."""
        with self._lock:
            return list(self._last)


def _bounded(alert: Alert) -> Alert:
    """An alert of a size that a page can show, whoever sent it."""

    def cut(mapping: dict[str, str]) -> dict[str, str]:
        return {key[:LONGEST]: value[:LONGEST] for key, value in list(mapping.items())[:MOST_LABELS]}

    return Alert(
        status=alert.status[:LONGEST],
        labels=cut(alert.labels),
        annotations=cut(alert.annotations),
        starts_at=alert.starts_at[:LONGEST],
        ends_at=alert.ends_at[:LONGEST],
        generator_url=alert.generator_url[:LONGEST],
        fingerprint=alert.fingerprint[:LONGEST],
    )


def is_shown(alert: Alert) -> bool:
    """Whether a person should see it: the dead man's switch always fires."""
    return alert.labels.get("severity") != "none"


def words(alert: Alert, name: str) -> Any:
    """An annotation, or the alert's name where there is none."""
    return alert.annotations.get(name) or alert.labels.get("alertname", "alert")
