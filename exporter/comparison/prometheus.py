"""Compare versions by their counters in Prometheus, over the time in which both served."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from exporter.comparison.measures import (
    Comparison,
    Counts,
    Feature,
    Period,
    Quality,
    SameRequests,
    Side,
    add,
    compare,
    never_together,
)
from exporter.errors import CompareError
from exporter.monitoring.registry import GAP_SECONDS, OTHER_VERSION, version_sort_key
from exporter.prometheus import Prometheus, quoted
from exporter.stats.quality import IntervalEstimate
from exporter.stats.sequential import Sums
from exporter.validation import parse_duration, suggestion

STEP_SECONDS = 15.0
"""Length of a step: the ends of the shared time are exact to one step."""
LOOKBACK = "30d"
"""How far back models and versions are searched."""
WINDOW = 7 * 86400.0
"""How far back the shared time is searched by default."""
MAX_POINTS = 10_000
"""Steps in which the shared time is searched; Prometheus returns at most 11,000."""
BEFORE = 300
"""Seconds before a period, at least, in which a counter's last value is searched: scrapes may be a minute apart."""
_QUALITY = (
    "model_labelled_predictions_total",
    "model_correct_predictions_total",
    "model_absolute_error_total",
    "model_squared_error_total",
)
MAX_PERIODS = 10
"""Stretches of shared time that are counted: the last ones."""


def stretches(before: Collection[int], after: Collection[int], most: int) -> list[tuple[int, int]]:
    """Find the stretches of time in which two versions served.

    A stretch begins when both versions have had a request, and extends up to each further moment at
    which both have had one again. If one version has requests for longer than the gap while the other has none, the
    stretch has ended where both served for the last time. Steps without any request, such as those of a quiet night,
    end nothing, because no version serves alone in them.

    Parameters
    ----------
    before, after
        The numbers of the steps in which each version had a request.
    most
        The gap: steps with requests of one version after which a stretch has ended.

    Returns
    -------
    list
        The first and the last step of each stretch that was extended.

    >>> stretches({1, 2, 3}, {2, 4, 99}, 10)
    [(2, 4)]
    """
    found: list[tuple[int, int]] = []
    begun, waited, served = 0, 0, set[str]()
    for step in sorted({*before, *after}):
        waited += 1
        served.update(name for name, steps in (("before", before), ("after", after)) if step in steps)
        if len(served) < 2:
            continue
        if begun and waited <= most:
            found = [*found[: -1 if found and found[-1][0] == begun else None], (begun, step)]
        else:
            begun = step
        waited, served = 0, set()
    return found


def compare_shared(prometheus: Prometheus, model: str, pair: tuple[str, str], window: Period) -> Comparison:
    """Compare two versions over the time in a window in which both served.

    Raises
    ------
    CompareError
        When they did not serve at the same time.
    PrometheusError
        When Prometheus cannot be queried.
    """
    periods = shared_periods(prometheus, model, pair, window)[-MAX_PERIODS:]
    if not periods:
        for version in pair:
            count(prometheus, model, version, window)  # says which one has no data
        raise never_together(model, *pair, f" from {window}")
    whole = Period(periods[0].start, periods[-1].end)
    sides = [Side(v, whole, add([count(prometheus, model, v, period) for period in periods])) for v in pair]
    seconds = sum(period.end - period.start for period in periods)
    return Comparison(model, sides[0], sides[1], compare(sides[0].counts, sides[1].counts), seconds)


def compare_periods(
    prometheus: Prometheus, model: str, before: tuple[str, Period], after: tuple[str, Period]
) -> Comparison:
    """Compare two versions, each in its period.

    Raises
    ------
    CompareError
        When Prometheus has no data of one of them.
    PrometheusError
        When it cannot be queried.
    """
    sides = [Side(version, period, count(prometheus, model, version, period)) for version, period in (before, after)]
    return Comparison(model, sides[0], sides[1], compare(sides[0].counts, sides[1].counts))


def default_window(appeared: Sequence[float], now: float) -> Period:
    """Return the window in which the shared time of two versions is searched, given when each appeared."""
    start = max(*appeared, now - WINDOW)
    return Period(start - 60 - 2 * STEP_SECONDS, now)  # times of appearance are exact to a minute


def shared_periods(prometheus: Prometheus, model: str, pair: tuple[str, str], window: Period) -> list[Period]:
    """Return the stretches of a window in which both versions served; see `stretches`.

    Raises
    ------
    PrometheusError
        When Prometheus cannot be queried.
    """
    step = max(STEP_SECONDS, math.ceil((window.end - window.start) / MAX_POINTS))
    first = window.end - math.floor((window.end - window.start) / step) * step
    before, after = (_steps_served(prometheus, model, version, Period(first, window.end), step) for version in pair)
    found = stretches(before, after, max(round(GAP_SECONDS / step), 1))
    return [Period(first + begin * step, first + end * step) for begin, end in found]


def _steps_served(prometheus: Prometheus, model: str, version: str, grid: Period, step: float) -> set[int]:
    """Return the steps of a grid at the end of which a version had counted more predictions than before."""
    attempts = f"model_attempts_total{{model={quoted(model)},version={quoted(version)}}}"
    served: set[int] = set()
    for series in prometheus.query_range(attempts, grid.start, grid.end, step):
        previous = 0.0  # and the same as before where a series was away, as when Prometheus was down
        for at, value in series.values:
            index = round((at - grid.start) / step)
            if index and value and value != previous:  # a counter that a restart reset to 0 counted nothing
                served.add(index)
            previous = value
    return served


def increase(series: str, by: str, seconds: int) -> str:
    """Return PromQL for the increase of counters in the seconds before the query's time, summed by labels.

    The increase of a counter without a reset is its last value minus the last one before the period, or its whole
    value if it did not exist before. That is a whole number, whereas ``increase()`` loses the first value and
    extrapolates. After a reset the exact value is not known: there it is ``increase()`` plus the first value, as in
    the recording rules.
    """
    last = f"last_over_time({series}[{seconds}s])"
    before = f"last_over_time({series}[{max(seconds, BEFORE)}s] offset {seconds}s)"
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
    profiles = prometheus.query(f"count by (profile) (last_over_time(model_info{labels}[{seconds}s]))", period.end)
    # Of several profiles, the shares of the bins have no mean: they do not sum to 1 then.
    share = ("max", "last_over_time") if len(profiles) > 1 else ("avg", "avg_over_time")
    reference = prometheus.query(
        f"{share[0]} by (feature, bin) ({share[1]}(model_feature_reference_probability{labels}[{seconds}s]))",
        period.end,
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
        quality=_quality(increases)._replace(estimated=_estimated(prometheus, labels, period)),
    )


def _quality(increases: Callable[[str], dict[tuple[str, ...], float]]) -> Quality:
    """Return what the labels say that arrived in a period; only regressions have errors and no right predictions."""
    found = [increases(name) for name in _QUALITY]
    labelled, correct, absolute, squared = (samples.get((), 0.0) for samples in found)
    return Quality(labelled, correct, absolute, squared, bool(found[2]) and (not found[1] or absolute > 0))


def _estimated(prometheus: Prometheus, labels: str, period: Period) -> IntervalEstimate | None:
    """Return the mean of the estimates in a period, and of their bands; of the shortest window that there is."""
    seconds = round(period.end - period.start)
    for name in ("model_estimated_accuracy", "model_estimated_mean_absolute_error"):
        numbers: list[dict[str, float]] = []
        for suffix in ("", "_lower", "_upper"):
            query = f"avg by (window) (avg_over_time({name}{suffix}{labels}[{seconds}s]))"
            numbers.append({s.labels["window"]: s.value for s in prometheus.query(query, period.end)})
        windows = sorted(set.intersection(*map(set, numbers)), key=parse_duration)
        if windows:
            return IntervalEstimate(*(values[windows[0]] for values in numbers))
    return None


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


def same_requests(
    prometheus: Prometheus, model: str, pair: tuple[str | None, str | None], period: Period
) -> tuple[str, str, SameRequests] | None:
    """Return two versions that answered the same requests in a period, and the counts of their answers.

    Parameters
    ----------
    pair
        The version that users saw, and the one that they did not see; None for any. Of several pairs, the one with the
        most requests is returned.

    Raises
    ------
    PrometheusError
        When a query fails.
    """
    chosen = [f"model={quoted(model)}"]
    chosen += [f"{side}={quoted(name)}" for side, name in zip(("before", "after"), pair, strict=True) if name]
    seconds = max(round(period.end - period.start), 1)

    def increases(name: str) -> dict[tuple[str, str], float]:
        series = f"model_shadow_{name}_total{{{','.join(chosen)}}}"
        samples = prometheus.query(increase(series, "before, after", seconds), period.end)
        return {(sample.labels["before"], sample.labels["after"]): sample.value for sample in samples}

    pairs = increases("pairs")
    found = max(pairs, key=pairs.__getitem__, default=None)
    if found is None or pairs[found] < 1:
        return None
    absolute = increases("absolute_difference").get(found)
    squared = increases("squared_difference").get(found, 0.0)
    differences = None if absolute is None else Sums(absolute, squared, pairs[found])
    return *found, SameRequests(period, pairs[found], increases("disagreements").get(found, 0.0), differences)


def models(prometheus: Prometheus, now: float) -> list[str]:
    """Return the models of the last 30 days."""
    samples = prometheus.query(f"count by (model) (last_over_time(model_info[{LOOKBACK}]))", now)
    return sorted(sample.labels["model"] for sample in samples)


def versions(prometheus: Prometheus, model: str, now: float) -> dict[str, float]:
    """Return the versions of a model in the last 30 days and when they appeared, in that order.

    Raises
    ------
    CompareError
        When Prometheus has no data of the model.
    PrometheusError
        When the query fails.
    """
    info = f"timestamp(model_info{{model={quoted(model)},version!={quoted(OTHER_VERSION)}}})"
    # A version that appeared within the last minute may lie between two steps of the subquery.
    samples = prometheus.query(f"min by (version) (min_over_time({info}[{LOOKBACK}:1m]) or {info})", now)
    if not samples:
        names = models(prometheus, now)
        hint = suggestion(model, names) if names else "it has no model: is the exporter scraped?"
        raise CompareError(f"Prometheus has no data of a model {model!r}; {hint}")
    samples.sort(key=lambda sample: (sample.value, version_sort_key(sample.labels["version"])))
    return {sample.labels["version"]: sample.value for sample in samples}
