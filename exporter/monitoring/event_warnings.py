"""Warnings about the events of a model version: times in another time zone, and the confidence of one class only."""

from __future__ import annotations

import logging
import math
from collections import deque

import numpy as np

from exporter.features.base import scalar_text
from exporter.profiles.quality import LEAST_ROWS, confidence_of_class
from exporter.wire.batch import Batch

log = logging.getLogger(__name__)

_STEP, _SPREAD, _PERIOD = 1800.0, 60.0, 1.0
_KEPT, _TAKEN = 100, 20  # newest rows of all batches, and of one


class EventWarnings:
    """What looks wrong in the newest events of a version; some are looked at once a second.

    Parameters
    ----------
    name
        The version, as logs name it.

    Attributes
    ----------
    found
        What looks wrong, in a sentence by the member of the event: ``time`` or ``confidence``.
    """

    def __init__(self, name: str) -> None:
        self.found: dict[str, str] = {}
        self._name, self._due = name, -math.inf
        self._times: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # of an event, and how long ago that was
        self._answers: deque[tuple[str, float]] = deque(maxlen=_KEPT)

    def observe(self, batch: Batch, now: float) -> None:
        """Look at events that arrive at the monotonic time ``now`` in seconds."""
        if now < self._due or not isinstance(batch.received, float):
            return
        self._due = now + _PERIOD
        self._times += [(time, batch.received - time) for time in batch.times[-1:] if time != batch.received]
        answers = zip(batch.predictions[-_TAKEN:], batch.confidences[-_TAKEN:], strict=False)
        self._answers += [(scalar_text(a), c) for a, c in answers if isinstance(a, str | bool | int) and c is not None]
        found = {"time": offset(list(self._times)), "confidence": confidence_of_class(list(self._answers))}
        for member in found.keys() - self.found.keys():
            if found[member]:
                log.warning("predictions of %s: %s %s", self._name, member, found[member])
        self.found = {member: text for member, text in found.items() if text}


def offset(times: list[tuple[float, float]]) -> str:
    """Say by how much times lag behind their arrival if that is always the same number of half hours.

    >>> offset([(second, 7205.0) for second in range(100)])
    'is always 2 h before the arrival, as if it were in another time zone'
    >>> offset([(0, second) for second in range(7200, 7300)])  # one file
    ''
    """
    moments, lags = np.array(times).reshape(-1, 2).T
    if len(lags) < LEAST_ROWS or np.ptp(moments) < _SPREAD:
        return ""
    steps = round(float(np.median(lags)) / _STEP)
    if steps < 1 or (abs(np.quantile(lags, (0.1, 0.9)) - steps * _STEP) > _SPREAD).any():
        return ""
    return f"is always {steps / 2:g} h before the arrival, as if it were in another time zone"
