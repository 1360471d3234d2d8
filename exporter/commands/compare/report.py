"""A comparison as sentences, as a table, as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from exporter.commands.compare.counts import Counts, Period, moment
from exporter.commands.compare.measures import Measure
from exporter.stats.intervals import Interval, excludes_zero


class Side(NamedTuple):
    """One of the two that are compared."""

    version: str
    period: Period
    counts: Counts


class Comparison(NamedTuple):
    """Two versions in a period, or one version in two."""

    model: str
    before: Side
    after: Side
    measures: list[Measure]

    @property
    def titles(self) -> tuple[str, str]:
        """What the sides are called: by what sets them apart."""
        if self.before.version != self.after.version:
            return f"Version {self.before.version}", f"Version {self.after.version}"
        return (
            f"The period from {moment(self.before.period.start)}",
            f"The period from {moment(self.after.period.start)}",
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


class _Kind(NamedTuple):
    """How a measure is spoken of: its title, a value, a number of an interval, and that with its unit."""

    title: str
    less: str
    more: str
    of: str
    value: Callable[[float], str]
    number: Callable[[float], str]
    unit: str


KINDS = {
    "error_ratio": _Kind(
        "error ratio", "fails less often", "fails more often", " of requests", percent, _percent, " points"
    ),
    "latency_p95_seconds": _Kind(
        "p95 latency", "is faster", "is slower", " at the 95th percentile", lambda v: f"{_plain(v)} s", _plain, " s"
    ),
    "confident_ratio": _Kind(
        "confident ratio",
        "is confident less often",
        "is confident more often",
        " of predictions",
        percent,
        _percent,
        " points",
    ),
    "correction_ratio": _Kind(
        "correction ratio",
        "is corrected less often",
        "is corrected more often",
        " of confident predictions",
        percent,
        _percent,
        " points",
    ),
    "worst_drift_nats": _Kind(
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
    """A sentence for each measure: which way it went, and whether that is real."""
    return [sentence(comparison, measure) for measure in comparison.measures]


def sentence(comparison: Comparison, measure: Measure) -> str:
    """What one measure says of the two sides."""
    kind, (_, after) = KINDS[measure.name], comparison.titles
    if measure.before is None or measure.after is None or measure.difference is None:
        return f"{kind.title.capitalize()}: not compared, {_missing(comparison, measure)}."
    old, new = kind.value(measure.before.value), kind.value(measure.after.value)
    if measure.features:
        old, new = (f"{value} in {name}" for value, name in zip((old, new), measure.features, strict=True))
    value, interval = measure.difference.value, measure.difference.interval
    if value < 0:
        value, interval = -value, Interval(-interval.high, -interval.low)
    told = f"the difference of {kind.number(value)}{kind.unit} ({_ends(kind, interval)})"
    if measure.real:
        way = kind.more if measure.difference.value > 0 else kind.less
        return f"{after} {way}: {new}{kind.of} against {old}; {told} is more than chance explains."
    if excludes_zero(interval):
        count = sum(one.difference is not None for one in comparison.measures)
        verdict = f"would be more than chance if it were looked at alone, but not as one of {count} comparisons"
    elif measure.name == "latency_p95_seconds":
        verdict = "is within chance and the width of the buckets"
    else:
        verdict = "may be chance"
    return f"{kind.title.capitalize()}: no difference is proven, {new}{kind.of} against {old}; {told} {verdict}."


def _missing(comparison: Comparison, measure: Measure) -> str:
    if measure.name == "worst_drift_nats" and (comparison.before.counts.unclear or comparison.after.counts.unclear):
        return "the training profile changed meanwhile"
    return {
        "error_ratio": "there are no requests",
        "latency_p95_seconds": "predictions came without duration_seconds",
        "confident_ratio": "there are no predictions",
        "correction_ratio": "nobody gave feedback, or no prediction was confident",
        "worst_drift_nats": "no feature with a training profile was observed on both sides",
    }[measure.name]


def _ends(kind: _Kind, interval: Interval) -> str:
    return f"{kind.number(interval.low)} to {kind.number(interval.high)}"


def table(comparison: Comparison) -> str:
    """Both sides beside one another, and the sentences below."""
    before, after = comparison.before, comparison.after
    rows = [("", *(title[0].lower() + title[1:] for title in comparison.titles), "difference, 95 % interval")]
    rows.append(("requests", *(f"{side.counts.requests:,.0f}" for side in (before, after)), ""))
    for measure in comparison.measures:
        kind = KINDS[measure.name]
        cells = [
            f"{kind.value(one.value)} ({_ends(kind, one.interval())})" if one else "unknown"
            for one in (measure.before, measure.after)
        ]
        if measure.difference:
            value, interval = measure.difference.value, measure.difference.interval
            verdict = "" if measure.verdict == "same" else f", {measure.verdict}"
            cells.append(
                f"{'+' if value > 0 else ''}{kind.number(value)}{kind.unit} ({_ends(kind, interval)}){verdict}"
            )
        else:
            cells.append("")
        rows.append((kind.title, cells[0], cells[1], cells[2]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    periods = [str(side.period) for side in (before, after)]
    when = periods[0] if periods[0] == periods[1] else f"{periods[0]}, and {periods[1]}"
    versions = " and ".join(dict.fromkeys((before.version, after.version)))
    head = f"{comparison.model}, version {versions}, {when}"
    return "\n".join([head, "", *lines, "", *sentences(comparison)])


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as a JSON document; what is infinite or unknown is null."""
    return {
        "model": comparison.model,
        **{name: _side(side) for name, side in (("before", comparison.before), ("after", comparison.after))},
        "confidence": 0.95,
        "measures": [
            {
                "name": measure.name,
                "before": _estimate(measure.before and (measure.before.value, measure.before.interval())),
                "after": _estimate(measure.after and (measure.after.value, measure.after.interval())),
                "difference": _estimate(measure.difference and measure.difference[:2]),
                "chance": measure.difference.chance if measure.difference else None,
                "features": list(measure.features) if measure.features else None,
                "verdict": measure.verdict,
                "sentence": text,
            }
            for measure, text in zip(comparison.measures, sentences(comparison), strict=True)
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    names = ("requests", "errors", "attempts", "confident", "corrections", "feedback")
    return {
        "version": side.version,
        "from": moment(side.period.start),
        "to": moment(side.period.end),
        **{name: getattr(side.counts, name) for name in names},
    }


def _estimate(known: tuple[float, Interval] | None) -> dict[str, float | None] | None:
    if known is None:
        return None
    value, interval = known
    ends: Sequence[float] = (value, *interval)
    return dict(zip(("value", "low", "high"), (end if math.isfinite(end) else None for end in ends), strict=True))
