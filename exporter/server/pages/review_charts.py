"""Charts of the review page: a confusion table and corrections over time; cells and bars link to their cards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from exporter.server.pages.review_cards import abbreviate
from exporter.server.pages.review_filters import ReviewQuery, rfc3339
from exporter.storage import label_json
from exporter.storage.review.correction_stats import BARS

MAX_LABELS = 10
"""Labels on each side of the confusion table."""
MAX_HORIZONTAL = 3
"""Characters of a horizontal label above its column; longer labels are vertical."""
STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400, 364 * 86400)
"""Seconds per bar: whole multiples of the buckets of `exporter.storage.review.correction_stats`."""

FIRST, LAST = -62135596800, 253402300799
"""Unix times of the first and last second that `datetime` can represent."""


@dataclass(frozen=True)
class Cell:
    """The number of corrections from one label to another, its shade from 0 to 5, and the address of its cards."""

    count: int
    shade: int
    args: dict[str, str]
    selected: bool


@dataclass(frozen=True)
class Confusion:
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


@dataclass(frozen=True)
class Bar:
    """The corrections of one step: percentages for the chart, a description, and the address of the cards."""

    left: float
    width: float
    height: float
    description: str
    args: dict[str, str]


@dataclass(frozen=True)
class TimeChart:
    """The corrections over time: the bars, the highest count, and the first and last time."""

    bars: list[Bar]
    top: int
    begin: str
    end: str


def time_chart(counts: Sequence[tuple[float, int]], bucket: int, query: ReviewQuery, now: float) -> TimeChart | None:
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
    return TimeChart(bars, top, format_time(begin), format_time(begin + bar_count * step))


def format_time(seconds: float) -> str:
    """
    >>> format_time(1795514400.0), format_time(-1e12)  # a bar may begin before the first year, or end after the last
    ('24 Nov 10:00', '1 Jan 00:00')
    """
    return f"{datetime.fromtimestamp(min(max(seconds, FIRST), LAST), UTC):%-d %b %H:%M}"
