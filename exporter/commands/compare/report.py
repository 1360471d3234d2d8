"""A comparison as sentences, as a table, as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from exporter.commands.compare.counts import Counts, Period, utc_time
from exporter.commands.compare.metrics import Metric
from exporter.stats.intervals import CONFIDENCE, Interval, excludes_zero


class Side(NamedTuple):
    """A version in a period, and its counts."""

    version: str
    period: Period
    counts: Counts


class Comparison(NamedTuple):
    """Two versions in a period, or one version in two."""

    model: str
    before: Side
    after: Side
    metrics: list[Metric]

    @property
    def titles(self) -> tuple[str, str]:
        """The names of the sides: their versions if these differ, else their periods."""
        if self.before.version != self.after.version:
            return f"Version {self.before.version}", f"Version {self.after.version}"
        return (
            f"The period from {utc_time(self.before.period.start)}",
            f"The period from {utc_time(self.after.period.start)}",
        )


def percent(value: float) -> str:
    """
    >>> percent(0.0314), percent(0.00043), percent(1)
    ('3.1 %', '0.043 %', '100.0 %')
    >>> percent(-0.0), percent(-0.00000000001)
    ('0.0 %', '0.0 %')
    """
    return f"{_percent(value)} %"


def _percent(value: float) -> str:
    size = abs(100 * value)
    if size < 5e-7:
        return "0.0"  # and not -0.0
    return f"{100 * value:.1f}" if size >= 1 else f"{100 * value:.2g}"


def _plain(value: float) -> str:
    return f"{value + 0.0:.3g}"  # and not -0


class _Wording(NamedTuple):
    """The title of a metric, what less and more of it is, and how its values and intervals are formatted."""

    title: str
    less: str
    more: str
    of: str
    value: Callable[[float], str]
    number: Callable[[float], str]
    unit: str


_WORDINGS = {
    "error_ratio": _Wording(
        "error ratio", "fails less often", "fails more often", " of requests", percent, _percent, " points"
    ),
    "latency_p95_seconds": _Wording(
        "p95 latency", "is faster", "is slower", " at the 95th percentile", lambda v: f"{_plain(v)} s", _plain, " s"
    ),
    "confident_ratio": _Wording(
        "confident ratio",
        "is confident less often",
        "is confident more often",
        " of predictions",
        percent,
        _percent,
        " points",
    ),
    "correction_ratio": _Wording(
        "correction ratio",
        "is corrected less often",
        "is corrected more often",
        " of confident predictions",
        percent,
        _percent,
        " points",
    ),
    "worst_drift_nats": _Wording(
        "worst feature drift",
        "gets inputs nearer to its training data",
        "gets inputs further from its training data",
        "",
        lambda v: f"{_plain(v)} nats",
        _plain,
        " nats",
    ),
}


def sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each metric."""
    return [sentence(comparison, metric) for metric in comparison.metrics]


def sentence(comparison: Comparison, metric: Metric) -> str:
    """Say how a metric differs between the sides, and whether that is significant."""
    wording, (_, after) = _WORDINGS[metric.name], comparison.titles
    if metric.before is None or metric.after is None or metric.difference is None:
        return f"{wording.title.capitalize()}: not compared, {_why_unknown(comparison, metric)}."
    old, new = wording.value(metric.before.value), wording.value(metric.after.value)
    if metric.features:
        old, new = (f"{value} in {name}" for value, name in zip((old, new), metric.features, strict=True))
    value, interval = metric.difference.value, metric.difference.interval
    if value < 0:
        value, interval = -value, Interval(-interval.high, -interval.low)
    size = f"the difference of {wording.number(value)}{wording.unit} ({_range(wording, interval)})"
    if metric.significant:
        verb = wording.more if metric.difference.value > 0 else wording.less
        return f"{after} {verb}: {new}{wording.of} against {old}; {size} is statistically significant."
    doubt = _doubt(comparison, metric, interval)
    return f"{wording.title.capitalize()}: no significant difference, {new}{wording.of} against {old}; {size} {doubt}."


def _doubt(comparison: Comparison, metric: Metric, interval: Interval) -> str:
    """Say why a difference is not significant."""
    if excludes_zero(interval):
        count = sum(other.difference is not None for other in comparison.metrics)
        return f"would be significant on its own, but not as one of {count} comparisons"
    if metric.name == "latency_p95_seconds":
        return "may be due to chance or to the width of the buckets"
    return "may be due to chance"


def _why_unknown(comparison: Comparison, metric: Metric) -> str:
    if metric.name == "worst_drift_nats" and (comparison.before.counts.changed or comparison.after.counts.changed):
        return "the training profile changed meanwhile"
    return {
        "error_ratio": "there are no requests",
        "latency_p95_seconds": "predictions came without duration_seconds",
        "confident_ratio": "there are no predictions",
        "correction_ratio": "nobody gave feedback, or no prediction was confident",
        "worst_drift_nats": "no feature with a training profile was observed on both sides",
    }[metric.name]


def _range(wording: _Wording, interval: Interval) -> str:
    return f"{wording.number(interval.low)} to {wording.number(interval.high)}"


def table(comparison: Comparison) -> str:
    """Return both sides as a table, followed by the sentences."""
    sides = comparison.before, comparison.after
    rows = [("", *(title[0].lower() + title[1:] for title in comparison.titles), "difference, 95 % interval")]
    rows.append(("requests", *(f"{side.counts.requests:,.0f}" for side in sides), ""))
    rows += [_table_row(metric) for metric in comparison.metrics]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    periods = ", and ".join(dict.fromkeys(str(side.period) for side in sides))
    versions = " and ".join(dict.fromkeys(side.version for side in sides))
    head = f"{comparison.model}, version {versions}, {periods}"
    return "\n".join([head, "", *lines, "", *sentences(comparison)])


def _table_row(metric: Metric) -> tuple[str, ...]:
    wording = _WORDINGS[metric.name]
    cells = [
        f"{wording.value(estimate.value)} ({_range(wording, estimate.interval())})" if estimate else "unknown"
        for estimate in (metric.before, metric.after)
    ]
    change = ""
    if metric.difference:
        value, interval = metric.difference.value, metric.difference.interval
        sign, verdict = "+" if value > 0 else "", "" if metric.verdict == "same" else f", {metric.verdict}"
        change = f"{sign}{wording.number(value)}{wording.unit} ({_range(wording, interval)}){verdict}"
    return (wording.title, *cells, change)


def document(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON document; infinite and unknown numbers are null."""
    return {
        "model": comparison.model,
        **{name: _side(side) for name, side in (("before", comparison.before), ("after", comparison.after))},
        "confidence": CONFIDENCE,
        "measures": [
            {
                "name": metric.name,
                "before": metric.before and _interval(metric.before.value, metric.before.interval()),
                "after": metric.after and _interval(metric.after.value, metric.after.interval()),
                "difference": metric.difference and _interval(metric.difference.value, metric.difference.interval),
                "chance": metric.difference and metric.difference.p_value,
                "features": list(metric.features) if metric.features else None,
                "verdict": metric.verdict,
                "sentence": text,
            }
            for metric, text in zip(comparison.metrics, sentences(comparison), strict=True)
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    names = ("requests", "errors", "attempts", "confident", "corrections", "feedback")
    return {
        "version": side.version,
        "from": utc_time(side.period.start),
        "to": utc_time(side.period.end),
        **{name: getattr(side.counts, name) for name in names},
    }


def _interval(value: float, interval: Interval) -> dict[str, float | None]:
    numbers = {"value": value, "low": interval.low, "high": interval.high}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
