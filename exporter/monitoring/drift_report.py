"""Report the drift of each target of a model version, for pages and commands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exporter.config import ModelConfig
from exporter.monitoring.drift_evidence import evidence_limit
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.windows import WindowStats
from exporter.profiles.profile import CONFIDENCE, PREDICTION, Feature
from exporter.stats.divergence import Floats

FEATURE_ALERT = "ModelFeatureDrift"
PREDICTION_ALERT = "ModelPredictionDrift"
OUTPUTS = {PREDICTION: "prediction", CONFIDENCE: "confidence"}
OUTPUT_ALERTS = {PREDICTION: PREDICTION_ALERT, CONFIDENCE: PREDICTION_ALERT}
"""A confidence is part of an answer, and has the threshold of predictions."""


@dataclass(frozen=True, eq=False)
class TargetDrift:
    """The drift of one target in one window.

    Attributes
    ----------
    name
        The feature, `PREDICTION` or `CONFIDENCE`.
    index
        Index of the target.
    trained, live
        Number of values in each bin, in training and in the window, shape ``(K,)``.
    weight
        Contribution of each bin to the difference, shape ``(K,)``: ``(p − q)·ln(p/q)`` of the smoothed shares.
    score, noise, threshold
        KL(live ‖ training), its noise floor and the alert's threshold, in nats; the first two are NaN without values.
    independent_noise
        What the noise floor would be if the values did not depend on each other.
    observations
        Number of values in the window.
    effective
        How many independent values tell as much.
    is_learned
        Whether live values show that they depend on each other, instead of training.
    mean, stddev, min, max, unseen
        See `exporter.monitoring.windows.WindowStats`.
    shift
        Mean less the training mean, in training standard deviations.
    evidence
        Accumulated evidence of a small, lasting change in nats; NaN where it is not known, or not asked for.
    evidence_limit
        The evidence of this target alone with which the model's evidence is at its limit.
    resembles
        Another feature whose training values these values look like; empty without one.
    """

    name: str
    index: int
    alert: str
    target: Feature
    trained: Floats
    live: Floats
    weight: Floats
    score: float
    noise: float
    threshold: float
    independent_noise: float
    observations: int
    effective: float
    is_learned: bool
    mean: float
    stddev: float
    shift: float
    trained_mean: float
    trained_stddev: float
    min: float
    max: float
    unseen: float
    evidence: float = math.nan
    evidence_limit: float = math.nan
    resembles: str = ""

    @property
    def severity(self) -> float:
        """The score relative to what an alert needs: above 1 the target has drifted; -1 without values."""
        return float(_severity(np.array([self.score]), np.array([self.noise]), np.array([self.threshold]))[0])

    @property
    def is_dependent(self) -> bool:
        """Whether the noise floor is higher because values depend on each other."""
        return self.noise > self.independent_noise

    @property
    def is_constant(self) -> bool:
        """Whether all live values lie in the only bin of training. A constant has no noise, so any score exceeds it."""
        return bool(np.count_nonzero(self.trained) == 1 and self.live[self.trained > 0].sum() == self.live.sum())

    @property
    def status(self) -> str:
        """``empty``, ``few`` (too few values), ``drifted``, ``slight`` (below the threshold) or ``same``."""
        if not self.observations:
            return "empty"
        if self.severity > 1:
            return "drifted"
        if self.noise >= self.threshold:
            return "few"
        return "slight" if self.score > self.noise and not self.is_constant else "same"


def thresholds(model: ModelConfig, names: list[str]) -> Floats:
    """Return the drift thresholds of the targets in nats, shape ``(T,)``."""
    return np.array([model.threshold(OUTPUT_ALERTS.get(name, FEATURE_ALERT), name) for name in names])


def _severity(score: Floats, noise: Floats, limits: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = score / np.maximum(limits, noise)
    return np.where(np.isnan(score), -1.0, np.where(np.isnan(ratio), 0.0, ratio))


def worst(monitor: ModelMonitor, now: float, name: str | None = None) -> tuple[str, TargetDrift] | None:
    """Return the target that has drifted most, with the window; None before the first values.

    Parameters
    ----------
    monitor
        The model version.
    now
        Monotonic time in seconds.
    name
        The only target that is looked at; all when None.
    """
    binner = monitor.binner
    if binner is None:
        return None
    result, highest = None, -1.0
    limits = thresholds(monitor.config, binner.target_names)
    for window, stats in monitor.read(now).items():
        severity = _severity(stats.kl, stats.noise, limits)
        if name is not None:
            severity[[other != name for other in binner.target_names]] = -1.0
        if len(severity) and severity.max() > highest:
            highest = float(severity.max())
            result = window, _target_drifts(monitor, stats, [int(severity.argmax())])[0]
    return result


def target_drifts(monitor: ModelMonitor, stats: WindowStats, evidence: Floats | None = None) -> list[TargetDrift]:
    """Return the drift of all targets of a model version in one window.

    They are in the order of their severity.

    Parameters
    ----------
    monitor
        The model version.
    stats
        Statistics of the window.
    evidence
        See `ModelMonitor.read_evidence`; used for the features alone.
    """
    drifts = _target_drifts(monitor, stats, evidence=evidence)
    known = [drift for drift in drifts if drift.trained_stddev > 0 and drift.name not in OUTPUTS]
    trained = np.array([(one.trained_mean, one.trained_stddev) for one in known])
    for drift in known:
        if drift.status == "drifted" and drift.observations >= _FEWEST:
            drifts[drift.index] = replace(drift, resembles=_resembled(drift, known, trained))
    return sorted(drifts, key=lambda drift: (-drift.severity, drift.index))


_NEAR, _FAR = 0.3, 1.0
"""Nats, between normal distributions, up to which values look like those of a feature; and what others are further."""
_FEWEST = 20


def _resembled(drift: TargetDrift, known: Sequence[TargetDrift], trained: Floats) -> str:
    """Return the only numeric feature whose training values the values look like; empty for the feature itself."""
    mean, stddev = trained.T
    ratio = drift.stddev / stddev
    with np.errstate(divide="ignore"):
        distance = (ratio**2 + ((drift.mean - mean) / stddev) ** 2 - 1) / 2 - np.log(ratio)
    nearest, *others = np.argsort(distance)
    is_alone = all(distance[other] > distance[nearest] + _FAR for other in others)
    return known[nearest].name if is_alone and distance[nearest] < _NEAR and known[nearest] is not drift else ""


def _target_drifts(
    monitor: ModelMonitor, stats: WindowStats, indices: Iterable[int] | None = None, evidence: Floats | None = None
) -> list[TargetDrift]:
    binner, noise = monitor.binner, monitor.noise
    if binner is None or noise is None:
        return []
    names = binner.target_names
    limit = evidence_limit(monitor.config.false_alarm_seconds()) + math.log(len(names))
    numbers = {
        "score": stats.kl,
        "independent_noise": binner.reference.noise(stats.observations),
        "effective": noise.effective(stats.observations),
        "trained_mean": binner.mean,
        "trained_stddev": binner.stddev,
    }
    numbers |= {name: getattr(stats, name) for name in ("noise", "mean", "stddev", "shift", "min", "max", "unseen")}

    def drift(index: int) -> TargetDrift:
        name, bins = names[index], binner.ranges[index]
        alert = OUTPUT_ALERTS.get(name, FEATURE_ALERT)
        live, q, prior = stats.counts[bins], binner.reference.probability[bins], float(binner.reference.prior[index])
        p = (live + prior * q) / (live.sum() + prior)
        known: dict[str, Any] = {field: float(values[index]) for field, values in numbers.items()}
        if evidence is not None and name not in OUTPUTS:
            known |= {"evidence": float(evidence[index]), "evidence_limit": limit}
        return TargetDrift(
            name=name,
            index=index,
            alert=alert,
            threshold=monitor.config.threshold(alert, name),
            target=binner.targets[index],
            trained=binner.training[bins],
            live=live,
            weight=(p - q) * np.log(p / q),
            observations=int(live.sum()),
            is_learned=index in noise.learned,
            **known,
        )

    return [drift(index) for index in (range(len(names)) if indices is None else indices)]
