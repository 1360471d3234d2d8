"""Count feedback and labels in the monitors once the store has joined them with their predictions."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import Counter

from exporter.monitoring.registry import MonitorRegistry
from exporter.storage import CountedFeedback
from exporter.validation import preview
from exporter.wire.events import LabelledPrediction

log = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Time between two lines about labels that do not count."""


class FeedbackCounter:
    """Counts what the store has recorded; the store calls it.

    Parameters
    ----------
    monitors
        Returns the current monitors.
    rejected
        Counts events that are not accepted, by reason.
    """

    def __init__(self, monitors: Callable[[], MonitorRegistry], rejected: Counter) -> None:
        self._monitors, self._rejected = monitors, rejected
        self._log_at = -math.inf

    def count_feedback(self, feedback: CountedFeedback) -> None:
        """Count a user's feedback on a prediction of a configured model."""
        monitors = self._monitors()
        if feedback.model in monitors.models:
            now = time.monotonic()
            monitor = monitors.get(feedback.model, feedback.version, now)
            monitor.count_feedback(feedback.verdict, feedback.correction, now, feedback.segment, feedback.delay)

    def loss(self, model: str, version: str, prediction: Any, label: Any) -> float | None:
        """Return how wrong a prediction is; None if it cannot be compared with the label."""
        return self._monitors().scorer(model, version).loss(prediction, label)

    def count_labels(self, labels: Sequence[LabelledPrediction]) -> None:
        """Count predictions whose labels have become known."""
        monitors, now, unix_now = self._monitors(), time.monotonic(), time.time()
        versions: dict[tuple[str, str], list[LabelledPrediction]] = {}
        for label in labels:
            versions.setdefault((label.model, label.version), []).append(label)
        for (model, version), group in versions.items():
            if model in monitors.models:
                monitors.get(model, version, now).count_labels(group, now, unix_now)

    def count_unusable(self, ids: Sequence[str]) -> None:
        """Count labels that waited for their predictions and cannot be compared with them; log that once a minute."""
        self._rejected.labels("wrong_type").inc(len(ids))
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            log.warning(
                "%d labels cannot be compared with their predictions, such as that of %s: they do not count",
                len(ids),
                preview(ids[0], 130),
            )
