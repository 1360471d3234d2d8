"""What can go wrong in the service, and the incident that is active."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from demo.model import Images

ERROR_SHARE = 0.05
SLOW_SHARE = 0.3


@dataclass(frozen=True)
class Incident:
    """One thing that can go wrong.

    Attributes
    ----------
    seconds
        How long it must last for its alert to fire.
    description
        What goes wrong.
    symptoms
        What to look for, and which alert fires when.
    """

    seconds: float
    description: str
    symptoms: str


INCIDENTS = {
    "errors": Incident(
        150,
        "a dependency of the service breaks, and about 5% of the requests answer 503",
        "the error ratio rises to 5%; ModelErrorRatioHigh (above 1%) is pending at once and fires after 1 to 2 "
        "minutes, and mutes ModelErrorBudgetBurn",
    ),
    "dark": Incident(
        480,
        "the camera goes dark: the lower half of each image keeps a tenth of its light",
        "image.intensity_mean falls from 4.9 to 2.7, its KL divergence rises far above 0.3, confidence falls and "
        "corrections rise; ModelInputsChanged fires after about 3 minutes, its causes ModelFeatureDrift, "
        "ModelFeatureMeanShift and ModelPredictionDrift, and ModelCorrectionRatioHigh (above 1%) after 6 to 9",
    ),
    "slow": Incident(
        480,
        "the machine is overloaded, and 3 of 10 requests take 0.6 to 1.2 seconds",
        "p95 latency rises above 0.5 s; ModelLatencyHigh fires after about 6 minutes",
    ),
    "noise": Incident(
        480,
        "the camera's sensor overheats, and every pixel is noisy",
        "image.sharpness and image.intensity_mean rise, confidence falls; ModelInputsChanged fires after 3 to 4 "
        "minutes, its causes ModelFeatureDrift and ModelFeatureMeanShift, and ModelCorrectionRatioHigh after 6 to 9",
    ),
    "shifted": Incident(
        600,
        "the paper feed slips, and every digit sits one column to the right",
        "every input gauge stays as it was, but confidence falls and corrections rise: only the "
        "predictions and the users show it; ModelCorrectionRatioHigh fires after 6 to 8 minutes, ModelDrift when the "
        "evidence of the predictions has accumulated",
    ),
}


class ActiveIncident(NamedTuple):
    """The incident that is active (None: none), its remaining seconds, and whether it was started by hand."""

    name: str | None
    seconds_left: float
    by_hand: bool


NO_INCIDENT = ActiveIncident(None, 0.0, by_hand=False)


class Incidents:
    """The incident that is active, if any; safe to use from many threads."""

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self._name: str | None = None
        self._until = 0.0
        self._by_hand = False
        self._random = random.Random(seed)  # noqa: S311 (not for security)
        self._numpy = np.random.default_rng(seed)

    def begin(self, name: str | None, seconds: float, *, by_hand: bool = True) -> ActiveIncident:
        """Start an incident for some seconds; None ends the active one.

        Returns
        -------
        ActiveIncident
            The one that was active before. One that was started by hand is only replaced by hand.
        """
        with self._lock:
            before = self._current()
            if by_hand or not before.by_hand:
                self._name, self._until, self._by_hand = name, time.monotonic() + seconds, by_hand
            return before

    def current(self) -> ActiveIncident:
        """Return the active incident."""
        with self._lock:
            return self._current()

    def _current(self) -> ActiveIncident:
        left = self._until - time.monotonic()
        return ActiveIncident(self._name, left, self._by_hand) if self._name and left > 0 else NO_INCIDENT

    def fails(self) -> bool:
        """Return whether the dependency fails this request."""
        return self.current().name == "errors" and self._random.random() < ERROR_SHARE

    def delay(self) -> float:
        """Return the seconds that this request waits for a busy machine."""
        if self.current().name != "slow" or self._random.random() >= SLOW_SHARE:
            return 0.0
        return self._random.uniform(0.6, 1.2)

    def apply(self, image: Images) -> Images:
        """Return an image of shape ``(8, 8)`` as the camera of the active incident takes it."""
        name = self.current().name
        if name == "dark":
            light = np.where(np.arange(8) < 4, 1.0, 0.1)
            return np.round(image * light[:, None])
        if name == "noise":
            with self._lock:  # numpy's generators are not thread-safe
                noise = self._numpy.normal(0, 6, image.shape)
            return np.round((image + noise).clip(0, 16))
        if name == "shifted":
            return np.pad(image, ((0, 0), (1, 0)))[:, :8]
        return image
