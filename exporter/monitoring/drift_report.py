"""What the pages and the commands know of a model version: its targets beside training, worst first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.window_stats import WindowStats
from exporter.profiles.profile import Feature
from exporter.stats.divergence import Floats

DEFAULT_THRESHOLD = 0.3
"""Of the three alerts below, in nats, where the configuration sets none; the rules have the same."""
FEATURE_ALERT = "ModelFeatureDrift"
PREDICTION_ALERT = "ModelPredictionDrift"
CONFIDENCE_ALERT = "ModelConfidenceDrift"
PREDICTION, CONFIDENCE = "(prediction)", "(confidence)"
"""Stand for what the model gave where a feature is named."""
OUTPUTS = {PREDICTION: "prediction", CONFIDENCE: "confidence"}
_ALERTS = {PREDICTION: PREDICTION_ALERT, CONFIDENCE: CONFIDENCE_ALERT}


@dataclass(frozen=True, eq=False)
class TargetDrift:
    """One target in one window, beside its training.

    Attributes
    ----------
    name
        The feature, `PREDICTION` or `CONFIDENCE`.
    trained, live
        Values in each bin, shape ``(K,)``.
    weight
        Each bin's part of the difference, shape ``(K,)``: ``(p − q)·ln(p/q)`` of the smoothed shares.
    score, noise, threshold
        KL(live ‖ training), its noise floor and the alert's threshold, in nats; the first two are NaN
        without values.
    observations
        Values in the window.
    """

    name: str
    place: int
    alert: str
    target: Feature
    trained: Floats
    live: Floats
    weight: Floats
    score: float
    noise: float
    threshold: float
    observations: int
    mean: float
    stddev: float
    shift: float
    trained_mean: float
    trained_stddev: float
    min: float
    max: float
    unseen: float

    @property
    def severity(self) -> float:
        """How far above what an alert needs; above 1 it has drifted, below 0 nothing is known."""
        return float(_severity(np.array([self.score]), np.array([self.noise]), np.array([self.threshold]))[0])

    @property
    def is_constant(self) -> bool:
        """Whether all values lie in the one bin of training: a constant has no noise, so any score is above it."""
        return bool(np.count_nonzero(self.trained) == 1 and self.live[self.trained > 0].sum() == self.live.sum())

    @property
    def status(self) -> str:
        """``empty``, ``few`` (values), ``drifted``, ``slight`` (below the threshold) or ``same``."""
        if not self.observations:
            return "empty"
        if self.severity > 1:
            return "drifted"
        if self.noise >= self.threshold:
            return "few"
        if self.is_constant:
            return "same"
        return "slight" if self.score > self.noise else "same"


def threshold(model: ModelConfig, name: str) -> float:
    """The threshold of a feature: its own, its image's, the model's or the default, as the metrics have it."""
    own = model.features.get(name)
    if own is None:
        own = next((f for source, f in model.features.items() if name.startswith(f"{source}.")), None)
    alerts = model.alerts if own is None or FEATURE_ALERT not in own.alerts else own.alerts
    return alerts.get(FEATURE_ALERT, DEFAULT_THRESHOLD)


def target_names(binner: Binner) -> list[str]:
    """Names of the targets, the prediction and the confidence last."""
    outputs = ((PREDICTION, binner.prediction), (CONFIDENCE, binner.confidence))
    return [*binner.names, *(name for name, place in outputs if place is not None)]


def thresholds(model: ModelConfig, names: list[str]) -> Floats:
    """Thresholds of the targets in nats, shape ``(T,)``."""
    outputs = {name: model.alerts.get(alert, DEFAULT_THRESHOLD) for name, alert in _ALERTS.items()}
    return np.array([outputs[name] if name in outputs else threshold(model, name) for name in names])


def _severity(score: Floats, noise: Floats, limits: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = score / np.maximum(limits, noise)
    return np.where(np.isnan(score), -1.0, np.nan_to_num(ratio, nan=0.0))


def worst(monitor: ModelMonitor, now: float) -> tuple[str, TargetDrift] | None:
    """The target that has drifted most, and in which window; None before anything came."""
    found, most = None, -1.0
    binner = monitor.binner
    if binner is None:
        return None
    limits = thresholds(monitor.config, target_names(binner))
    for window, reading in monitor.read(now).items():
        severity = _severity(reading.kl, reading.noise, limits)
        if len(severity) and severity.max() > most:
            most, place = float(severity.max()), int(severity.argmax())
            found = (window, _change(binner, reading, place, limits))
    return found


def target_drifts(monitor: ModelMonitor, reading: WindowStats) -> list[TargetDrift]:
    """The targets of a model version in one window, the worst first."""
    if monitor.binner is None:
        return []
    names = target_names(monitor.binner)
    limits = thresholds(monitor.config, names)
    found = [_change(monitor.binner, reading, place, limits) for place in range(len(names))]
    return sorted(found, key=lambda change: (-change.severity, change.place))


def _change(binner: Binner, reading: WindowStats, place: int, limits: Floats) -> TargetDrift:
    names, target = target_names(binner), binner.targets[place]
    start = int(binner.starts[place])
    trained, live = np.array(target.counts, dtype=np.float64), reading.counts[start : start + len(target.counts)]
    q = binner.reference.probability[start : start + len(live)]
    prior = float(binner.reference.prior[place])
    p = (live + prior * q) / (live.sum() + prior)
    return TargetDrift(
        name=names[place],
        place=place,
        alert=_ALERTS.get(names[place], FEATURE_ALERT),
        target=target,
        trained=trained,
        live=live,
        weight=(p - q) * np.log(p / q),
        score=float(reading.kl[place]),
        noise=float(reading.noise[place]),
        threshold=float(limits[place]),
        observations=int(live.sum()),
        mean=float(reading.mean[place]),
        stddev=float(reading.stddev[place]),
        shift=float(reading.shift[place]),
        min=float(reading.min[place]),
        max=float(reading.max[place]),
        unseen=float(reading.unseen[place]),
        trained_mean=float(binner.mean[place]),
        trained_stddev=float(binner.stddev[place]),
    )
