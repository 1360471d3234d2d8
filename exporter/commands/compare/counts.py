"""The counters of a version of a model in a period, as whole numbers from Prometheus."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from exporter.errors import CompareError
from exporter.monitoring.registry import OTHER_VERSION
from exporter.prometheus_api import Prometheus, quoted
from exporter.stats.divergence import Floats
from exporter.validation import suggestion

LOOKBACK = "30d"
"""How far back models and versions are searched."""


class Period(NamedTuple):
    """A period in Unix seconds."""

    start: float
    end: float

    def __str__(self) -> str:
        """Return both ends in UTC."""
        return f"{utc_time(self.start)} to {utc_time(self.end)}"


class Feature(NamedTuple):
    """Observations of a feature by bin, and the training probabilities of the bins, both of shape ``(K,)``."""

    counts: Floats
    probability: Floats


class Counts(NamedTuple):
    """The counters of one version in one period, summed over all replicas.

    Attributes
    ----------
    bounds, durations
        Upper bounds of the latency buckets, the last infinite, and the requests at or below each.
    feedback
        Feedback from users, of either verdict.
    features
        Features with observations, by name.
    changed
        Features whose training profile changed within the period: their bins cannot be added.
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
    changed: tuple[str, ...]


def utc_time(seconds: float) -> str:
    """
    >>> utc_time(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def increase(series: str, by: str, seconds: int) -> str:
    """Return PromQL for the increase of counters in the seconds before the query's time, summed by labels.

    The increase of a counter without a reset is its last value minus the last one before the period, or its whole
    value if it did not exist before. That is a whole number, whereas ``increase()`` loses the first value and
    extrapolates. After a reset the exact value is not known: there it is ``increase()`` plus the first value, as in
    the recording rules.
    """
    last, before = f"last_over_time({series}[{seconds}s])", f"last_over_time({series}[{seconds}s] offset {seconds}s)"
    estimated = f"increase({series}[{seconds}s])"
    return (
        f"sum by ({by}) ("
        f"(({last} - {before}) >= 0 or ({last} unless {before})) unless resets({series}[{seconds}s]) > 0"
        f" or {estimated} + (min_over_time({series}[{seconds}s]) unless {before}) or {estimated})"
    )


def count(prometheus: Prometheus, model: str, version: str, period: Period) -> Counts:
    """Query the counters of a version.

    Raises
    ------
    CompareError
        When the version has no data in that period.
    PrometheusError
        When the query fails.
    """
    seconds = round(period.end - period.start)
    labels = f"{{model={quoted(model)},version={quoted(version)}}}"

    def increases(name: str, by: str = "") -> dict[tuple[str, ...], float]:
        names = by.split(", ") if by else []
        samples = prometheus.query(increase(name + labels, by, seconds), period.end)
        return {tuple(sample.labels.get(label, "") for label in names): sample.value for sample in samples}

    codes = increases("model_requests_total", "code")
    attempts = increases("model_attempts_total").get((), 0.0)
    if not attempts and not sum(codes.values()):
        raise CompareError(
            f"version {version!r} of {model!r} has no data from {period}{_other_versions(prometheus, model, period)}"
        )
    buckets = {
        float(bound): value for (bound,), value in increases("model_request_duration_seconds_bucket", "le").items()
    }
    bounds = tuple(sorted(buckets))
    reference = prometheus.query(
        f"max by (feature, bin) (last_over_time(model_feature_reference_probability{labels}[{seconds}s]))", period.end
    )
    features, changed = _features(
        {(sample.labels["feature"], sample.labels["bin"]): sample.value for sample in reference},
        increases("model_feature_observations_total", "feature, bin"),
    )
    return Counts(
        requests=sum(codes.values()),
        errors=sum(value for (code,), value in codes.items() if code.startswith("5")),
        attempts=attempts,
        confident=increases("model_confident_predictions_total").get((), 0.0),
        corrections=increases("model_corrections_total").get((), 0.0),
        feedback=increases("model_feedback_total").get((), 0.0),
        bounds=bounds,
        # After a reset each bucket is extrapolated on its own, but they must stay cumulative.
        durations=tuple(np.maximum.accumulate([buckets[bound] for bound in bounds]).tolist()),
        features=features,
        changed=changed,
    )


def _features(
    reference: dict[tuple[str, str], float], observed: dict[tuple[str, ...], float]
) -> tuple[dict[str, Feature], tuple[str, ...]]:
    bins: dict[str, list[str]] = {}
    for feature, label in sorted(reference):
        bins.setdefault(feature, []).append(label)
    features, changed = {}, []
    for feature, labels in bins.items():
        probability = np.array([reference[feature, label] for label in labels])
        counts = np.array([observed.get((feature, label), 0.0) for label in labels])
        if abs(probability.sum() - 1) > 1e-6:
            changed.append(feature)
        elif counts.sum() >= 1:
            features[feature] = Feature(counts, probability)
    return features, tuple(changed)


def _other_versions(prometheus: Prometheus, model: str, period: Period) -> str:
    seconds = round(period.end - period.start)
    query = f"count by (version) (last_over_time(model_info{{model={quoted(model)}}}[{seconds}s]))"
    names = sorted((sample.labels["version"] for sample in prometheus.query(query, period.end)), key=version_sort_key)
    return f"; versions with data: {', '.join(names)}" if names else "; nor has any other version"


def version_sort_key(version: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts numbers in versions by their value.

    >>> sorted(["10", "v2", "9"], key=version_sort_key)
    ['9', '10', 'v2']
    """
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.findall(r"\d+|\D+", version)]


def models(prometheus: Prometheus, now: float) -> list[str]:
    """Return the models of the last 30 days."""
    samples = prometheus.query(f"count by (model) (last_over_time(model_info[{LOOKBACK}]))", now)
    return sorted(sample.labels["model"] for sample in samples)


def versions(prometheus: Prometheus, model: str, now: float) -> list[str]:
    """Return the versions of a model in the last 30 days, in the order in which they appeared.

    Raises
    ------
    CompareError
        When Prometheus has no data of the model.
    """
    info = f"timestamp(model_info{{model={quoted(model)},version!={quoted(OTHER_VERSION)}}})"
    # A version that appeared within the last minute may lie between two steps of the subquery.
    samples = prometheus.query(f"min by (version) (min_over_time({info}[{LOOKBACK}:1m]) or {info})", now)
    if not samples:
        names = models(prometheus, now)
        hint = suggestion(model, names) if names else "it has no model: is the exporter scraped?"
        raise CompareError(f"Prometheus has no data of a model {model!r}; {hint}")
    samples.sort(key=lambda sample: (sample.value, version_sort_key(sample.labels["version"])))
    return [sample.labels["version"] for sample in samples]


def first_seen(prometheus: Prometheus, model: str, version: str, period: Period) -> float:
    """Return the time one second before a version's first sample in a period, or the start of the period.

    Increases are counted from the sample at the start, so that the start must lie before the first sample.
    """
    seconds = round(period.end - period.start)
    first = f"timestamp(model_info{{model={quoted(model)},version={quoted(version)}}})[{seconds}s:1s]"
    samples = prometheus.query(f"min(min_over_time({first}))", period.end)
    return max(period.start, samples[0].value - 1) if samples else period.start
