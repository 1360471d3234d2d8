"""Decide whether a model should be retrained: its accuracy fell, or enough of its mistakes are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from exporter.server.elapsed import parse_time
from exporter.server.notifications import Alert

ACCURACY_ALERT = "ModelAccuracyLow"


class Trigger(NamedTuple):
    """Why a model should be retrained."""

    reason: str
    detail: str
    alert: Alert | None = None

    def alert_document(self) -> dict[str, Any] | None:
        """Return the alert as its JSON document; None without one."""
        if self.alert is None:
            return None
        return {
            "name": self.alert.name,
            "version": self.alert.labels.get("version"),
            "starts_at": self.alert.starts_at,
            "summary": self.alert.annotations.get("summary"),
            "description": self.alert.annotations.get("description"),
        }


def accuracy_trigger(firing: Sequence[Alert], model: str, asked: float) -> Trigger | None:
    """Return the trigger of a model's low accuracy, once an incident.

    Parameters
    ----------
    firing
        The alerts that fire.
    model
        The model.
    asked
        Unix time in seconds of the last request for this reason: alerts that began before were the same incident.
    """
    for alert in firing:
        began = parse_time(alert.starts_at)
        if alert.name != ACCURACY_ALERT or alert.labels.get("model") != model or began is None:
            continue
        if began.timestamp() > asked:
            return Trigger("accuracy", alert.annotations.get("summary") or f"{ACCURACY_ALERT} fires", alert)
    return None


def corrections_trigger(enough: int, corrections: int) -> Trigger | None:
    """Return the trigger of accepted corrections that are in no release yet; ``enough`` is 0 for never.

    >>> corrections_trigger(200, 199), corrections_trigger(0, 199)
    (None, None)
    """
    if not enough or corrections < enough:
        return None
    return Trigger("corrections", f"{corrections:,} accepted corrections are in no release yet")
