"""What happened to a version of a model in a period, as whole counts from Prometheus."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from exporter.commands.compare.prometheus import Prometheus, quoted
from exporter.errors import CompareError
from exporter.monitoring.registry import OTHER_VERSION
from exporter.stats.divergence import Floats
from exporter.validation import suggestion

REMEMBERED = "30d"
"""How far back versions are looked for."""


class Period(NamedTuple):
    """From when to when, in Unix seconds."""

    start: float
    end: float

    def __str__(self) -> str:
        """Both ends in UTC."""
        return f"{moment(self.start)} to {moment(self.end)}"


class Feature(NamedTuple):
    """Observations of a feature by bin, and the bins' training probabilities, both of shape ``(K,)``."""

    counts: Floats
    probability: Floats


class Counts(NamedTuple):
    """What one version did in one period, all replicas together.

    Attributes
    ----------
    bounds, durations
        Upper bounds of the latency buckets, the last infinite, and the requests at or below each.
    feedback
        Users' words, whatever they said.
    features
        Those with observations, by name.
    unclear
        Features whose training profile changed within the period: their bins do not go together.
    """

    requests: float
    errors: float
    attempts: float
    confident: float
    corrections: float
    feedback: float
    bounds: tuple[float, ...]
    durations: tuple[float, ...]
    features: dict[str, Feature]
    unclear: tuple[str, ...]


def moment(seconds: float) -> str:
    """
    >>> moment(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def increase(series: str, by: str, seconds: int) -> str:
    """PromQL for how much counters grew in the time before the query's, summed by labels.

    A counter that was not reset grew by its last value less the last one before the period, or by all of it when
    it was not there before: whole numbers, where ``increase()`` loses the first value and extrapolates. Of one that
    was reset this is not known, so there it is ``increase()`` and the first value, as in the recording rules.
    """
    last, before = f"last_over_time({series}[{seconds}s])", f"last_over_time({series}[{seconds}s] offset {seconds}s)"
    grown = f"increase({series}[{seconds}s])"
    return (
        f"sum by ({by}) ("
        f"(({last} - {before}) >= 0 or ({last} unless {before})) unless resets({series}[{seconds}s]) > 0"
        f" or {grown} + (min_over_time({series}[{seconds}s]) unless {before}) or {grown})"
    )


def count(prometheus: Prometheus, model: str, version: str, period: Period) -> Counts:
    """Count what a version did.

    Raises
    ------
    CompareError
        When Prometheus cannot be asked, or the version did nothing in that period.
    """
    seconds = round(period.end - period.start)
    labels = f"{{model={quoted(model)},version={quoted(version)}}}"

    def grew(name: str, by: str = "") -> dict[tuple[str, ...], float]:
        names = by.split(", ") if by else []
        found = prometheus.query(increase(name + labels, by, seconds), period.end)
        return {tuple(sample.labels.get(label, "") for label in names): sample.value for sample in found}

    codes = grew("model_requests_total", "code")
    attempts = grew("model_attempts_total").get((), 0.0)
    if not attempts and not sum(codes.values()):
        raise CompareError(
            f"version {version!r} of {model!r} has no data from {period}{_others(prometheus, model, period)}"
        )
    buckets = {float(bound): value for (bound,), value in grew("model_request_duration_seconds_bucket", "le").items()}
    bounds = tuple(sorted(buckets))
    reference = prometheus.query(
        f"max by (feature, bin) (last_over_time(model_feature_reference_probability{labels}[{seconds}s]))", period.end
    )
    features, unclear = _features(
        {(sample.labels["feature"], sample.labels["bin"]): sample.value for sample in reference},
        grew("model_feature_observations_total", "feature, bin"),
    )
    return Counts(
        requests=sum(codes.values()),
        errors=sum(value for (code,), value in codes.items() if code.startswith("5")),
        attempts=attempts,
        confident=grew("model_confident_predictions_total").get((), 0.0),
        corrections=grew("model_corrections_total").get((), 0.0),
        feedback=grew("model_feedback_total").get((), 0.0),
        bounds=bounds,
        # After a reset the buckets are extrapolated each for itself; cumulative they must stay.
        durations=tuple(np.maximum.accumulate([buckets[bound] for bound in bounds]).tolist()),
        features=features,
        unclear=unclear,
    )


def _features(
    reference: dict[tuple[str, str], float], observed: dict[tuple[str, ...], float]
) -> tuple[dict[str, Feature], tuple[str, ...]]:
    bins: dict[str, list[str]] = {}
    for feature, label in sorted(reference):
        bins.setdefault(feature, []).append(label)
    features, unclear = {}, []
    for feature, labels in bins.items():
        probability = np.array([reference[feature, label] for label in labels])
        counts = np.array([observed.get((feature, label), 0.0) for label in labels])
        if abs(probability.sum() - 1) > 1e-6:
            unclear.append(feature)
        elif counts.sum() >= 1:
            features[feature] = Feature(counts, probability)
    return features, tuple(unclear)


def _others(prometheus: Prometheus, model: str, period: Period) -> str:
    seconds = round(period.end - period.start)
    there = f"count by (version) (last_over_time(model_info{{model={quoted(model)}}}[{seconds}s]))"
    found = sorted((sample.labels["version"] for sample in prometheus.query(there, period.end)), key=natural)
    return f"; Prometheus knows of: {', '.join(found)}" if found else "; nor has any other version"


def natural(version: str) -> list[tuple[int, int | str]]:
    """Key that sorts versions as people count.

    >>> sorted(["10", "v2", "9"], key=natural)
    ['9', '10', 'v2']
    """
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.findall(r"\d+|\D+", version)]


def known_models(prometheus: Prometheus, now: float) -> list[str]:
    """Models that Prometheus has seen in the last 30 days."""
    found = prometheus.query(f"count by (model) (last_over_time(model_info[{REMEMBERED}]))", now)
    return sorted(sample.labels["model"] for sample in found)


def versions(prometheus: Prometheus, model: str, now: float) -> list[str]:
    """The versions of a model in the last 30 days, in the order in which they appeared.

    Raises
    ------
    CompareError
        When Prometheus does not know the model.
    """
    info = f"timestamp(model_info{{model={quoted(model)},version!={quoted(OTHER_VERSION)}}})"
    # One that came within the last minute may be between two steps of the subquery.
    found = prometheus.query(f"min by (version) (min_over_time({info}[{REMEMBERED}:1m]) or {info})", now)
    if not found:
        known = known_models(prometheus, now)
        hint = suggestion(model, known) if known else "it knows none: is the exporter scraped?"
        raise CompareError(f"Prometheus knows no versions of a model {model!r}; {hint}")
    return [s.labels["version"] for s in sorted(found, key=lambda s: (s.value, natural(s.labels["version"])))]


def appeared(prometheus: Prometheus, model: str, version: str, period: Period) -> float:
    """A second before a version was first there in a period, or the period's start.

    The sample at the start is where a counter's growth is counted from, and the first of a version's shall count.
    """
    seconds = round(period.end - period.start)
    first = f"timestamp(model_info{{model={quoted(model)},version={quoted(version)}}})[{seconds}s:1s]"
    found = prometheus.query(f"min(min_over_time({first}))", period.end)
    return max(period.start, found[0].value - 1) if found else period.start
