"""Charts of the review page: a confusion table and corrections over time; cells and bars link to their cards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from exporter.features.base import label_json
from exporter.server.pages.review_filters import FIRST, LAST, ReviewQuery, format_time, rfc3339
from exporter.server.pages.values import signed
from exporter.server.text import abbreviate, number
from exporter.stats.divergence import Floats
from exporter.storage import BARS

MAX_LABELS = 10
"""Labels on each side of the confusion table."""
MAX_HORIZONTAL = 3
"""Characters of a horizontal label above its column; longer labels are vertical."""
STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400, 364 * 86400)
"""Seconds per bar: whole multiples of the steps of an `Overview`."""


@dataclass(frozen=True)
class Cell:
    """The number of corrections from one label to another, its shade from 0 to 5, and the address of its cards."""

    count: int
    shade: int
    args: dict[str, str]
    selected: bool


class Confusion(NamedTuple):
    """Predicted labels by row, corrected labels by column.

    Attributes
    ----------
    columns, rows
        Labels of the columns and rows, for display.
    cells
        ``len(rows)`` lists of ``len(columns)`` cells.
    omitted
        The number of labels beyond `MAX_LABELS`.
    vertical
        Whether the labels of the columns are vertical.
    """

    columns: list[str]
    rows: list[str]
    cells: list[list[Cell]]
    omitted: int
    vertical: bool


def confusion_table(pairs: Sequence[tuple[Any, Any, int]], query: ReviewQuery) -> Confusion | None:
    """Return the confusion table of ``(predicted, label, count)``; None without corrections."""
    counts = Counter({(label_json(predicted), label_json(label)): count for predicted, label, count in pairs})
    names = {label_json(value): abbreviate(value, 24) for pair in pairs for value in pair[:2]}
    by_row, by_column = Counter[str | None](), Counter[str | None]()
    for (predicted, label), count in counts.items():
        by_row[predicted] += count
        by_column[label] += count
    if not counts:
        return None
    rows, columns = _most_frequent(by_row, names), _most_frequent(by_column, names)
    top = max(counts.values())
    selected = (query.filter.predicted, query.filter.label)

    def cell(predicted: str | None, label: str | None) -> Cell:
        count = counts[predicted, label]
        return Cell(
            count,
            math.ceil(5 * count / top),
            query.with_changes(predicted=predicted, label=label),
            selected == (predicted, label),
        )

    return Confusion(
        columns=[names[label] for label in columns],
        rows=[names[predicted] for predicted in rows],
        cells=[[cell(predicted, label) for label in columns] for predicted in rows],
        omitted=len(by_row.keys() | by_column.keys()) - len({*rows, *columns}),
        vertical=any(len(names[label]) > MAX_HORIZONTAL for label in columns),
    )


def _most_frequent(totals: Counter[str | None], names: dict[str | None, str]) -> list[str | None]:
    """Return the most frequent labels: short ones, such as digits, in alphabetical order, others by frequency."""
    labels = [label for label, _ in totals.most_common(MAX_LABELS)]
    short = all(len(names[label]) <= MAX_HORIZONTAL for label in labels)
    return sorted(labels, key=lambda label: (len(names[label]), names[label])) if short else labels


class Bar(NamedTuple):
    """The corrections of one step: percentages for the chart, a description, and the address of the cards."""

    left: float
    width: float
    height: float
    description: str
    args: dict[str, str]


class Chart(NamedTuple):
    """Bars that link to their cards.

    Attributes
    ----------
    top
        The highest count.
    begin, end
        What is at both ends; with "below" or "from" where a bar counts all that is further away.
    zero
        Position of 0 in percent; None if it is outside.
    facts
        Of errors: their number, the mean, the mean absolute and the largest error.
    """

    bars: list[Bar]
    top: int
    begin: str
    end: str
    zero: float | None = None
    facts: Mapping[str, Any] = MappingProxyType({})


def time_chart(counts: Sequence[tuple[float, int]], bucket: int, query: ReviewQuery, now: float) -> Chart | None:
    """Return the chart of ``(start, corrections)`` in buckets of seconds; None without corrections."""
    if not counts:
        return None
    first, last = counts[0][0], counts[-1][0] + bucket
    since = query.filter.since if query.filter.since is not None else first
    until = query.filter.until if query.filter.until is not None else max(last, min(now, last + (last - since) / 4))
    step = next((step for step in STEPS if (until - since) / step <= BARS), STEPS[-1])
    begin = math.floor(since / step) * step
    bar_count = max(math.ceil((until - begin) / step), 1)
    total = Counter[int]()
    for start, count in counts:
        total[min(max(int((start - begin) // step), 0), bar_count - 1)] += count
    top = max(total.values())
    bars = []
    for index, count in sorted(total.items()):
        start = begin + index * step
        within = max(start, query.filter.since or start), min(start + step, query.filter.until or start + step)
        since_text, until_text = (rfc3339(min(max(edge, FIRST), LAST)) for edge in within)
        address = query.with_changes(since=since_text, until=until_text)
        description = f"{count:,} from {format_time(start)} to {format_time(start + step)}"
        bars.append(Bar(100 * index / bar_count, 100 / bar_count, 100 * count / top, description, address))
    return Chart(bars, top, format_time(begin), format_time(begin + bar_count * step))


ERROR_BARS = 16
"""About how many bars the histogram has."""
TAIL = 0.02
"""Share of the errors at each end that may be far from all others."""


def error_chart(errors: Floats, query: ReviewQuery) -> Chart | None:
    """Return the histogram of errors (see `read_errors`), shape ``(n,)``; None without any."""
    if not len(errors):
        return None
    edges = histogram_edges(*_range(errors))
    counts: list[int] = np.bincount(np.searchsorted(edges, errors, "right"), minlength=len(edges) + 1).tolist()
    ends: list[float | None] = [None, *edges, None]
    bins = [
        (low, high, count)
        for low, high, count in zip(ends[:-1], ends[1:], counts, strict=True)
        if count or (low is not None and high is not None)
    ]
    width, top = 100 / len(bins), max(counts)
    bars = [
        Bar(
            index * width,
            width,
            100 * count / top,
            f"{count:,} {_describe(low, high)}",
            query.with_changes(error_from=_text(low), error_to=_text(high)),
        )
        for index, (low, high, count) in enumerate(bins)
    ]
    zero = next((index * width for index, (low, _, _) in enumerate(bins) if low == 0), None)
    begin = f"{'below ' if bins[0][0] is None else ''}{signed(edges[0])}"
    end = f"{'from ' if bins[-1][1] is None else ''}{signed(edges[-1])}"
    mean, absolute, largest = errors.mean(), np.abs(errors).mean(), errors[np.abs(errors).argmax()]
    facts = {
        "count": len(errors),
        "mean": signed(float(mean)),
        "mean_absolute": number(float(absolute)),
        "largest": signed(float(largest)),
    }
    return Chart(bars, top, begin, end, zero, facts)


def histogram_edges(low: float, high: float) -> list[float]:
    """Return round edges between which a range lies: multiples of 1, 2 or 5 times a power of ten, so that 0 is one.

    >>> histogram_edges(-3.0, 12.5)
    [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]
    >>> histogram_edges(0.4, 0.4)
    [0.4, 0.5]
    """
    step = max((high - low or abs(low) or 1.0) / (ERROR_BARS if high > low else 4), 1e-300)
    power = math.floor(math.log10(step))
    factor = next(f for f in (1, 2, 5, 10) if f * 10.0**power >= step * (1 - 1e-9))
    width = factor * 10.0**power
    first, last = math.floor(low / width + 1e-9), math.floor(high / width + 1e-9) + 1
    # Divided rather than multiplied by a negative power, so that 3 tenths are 0.3.
    steps = [float(factor * index) for index in range(first, last + 1)]
    return list(dict.fromkeys(step * 10.0**power if power >= 0 else step / 10.0**-power for step in steps))


def _range(errors: Floats) -> tuple[float, float]:
    """Return the range of the chart: all errors, without those at an end that are far from the others."""
    low, high = np.quantile(errors, (TAIL, 1 - TAIL)).tolist()
    reach = (high - low) / 2
    lowest, highest = float(errors.min()), float(errors.max())
    return lowest if lowest >= low - reach else low, highest if highest <= high + reach else high


def _describe(low: float | None, high: float | None) -> str:
    if low is None:
        return f"below {signed(high or 0.0)}"
    return f"from {signed(low)}" if high is None else f"from {signed(low)} to {signed(high)}"


def _text(edge: float | None) -> str | None:
    return None if edge is None else f"{edge!r}".removesuffix(".0")
