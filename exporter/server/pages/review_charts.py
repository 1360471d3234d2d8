"""The mistakes at a glance: what is taken for what, and when; each cell and each bar leads to its cards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from exporter.server.pages.review_cards import brief
from exporter.server.pages.review_filters import Choice, stamp
from exporter.storage.correction_stats import BARS
from exporter.storage.schema import label_json

MOST_LABELS = 10
"""Labels on each side of the confusion table."""
UPRIGHT = 3
"""Characters of a label that stands upright above its column."""
STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400, 364 * 86400)
"""Seconds that a bar may stand for: whole multiples of the buckets of `exporter.storage.correction_stats`."""

FIRST, LAST = -62135596800, 253402300799
"""Unix times of the first and the last second that `datetime` knows."""


@dataclass(frozen=True)
class Cell:
    """How often one label was taken for another: the number, its shade from 0 to 5, and the address of the cards."""

    count: int
    shade: int
    args: dict[str, str]
    chosen: bool


@dataclass(frozen=True)
class Confusion:
    """Predicted labels downwards, corrected ones across.

    Attributes
    ----------
    across, down
        Labels as people read them.
    rows
        Cells, ``len(down)`` rows of ``len(across)``.
    left_out
        Labels that were too many, across and down.
    vertical
        Whether a label is too long to stand upright.
    """

    across: list[str]
    down: list[str]
    rows: list[list[Cell]]
    left_out: int
    vertical: bool


def confused(pairs: Sequence[tuple[Any, Any, int]], choice: Choice) -> Confusion | None:
    """The confusion table of ``(predicted, label, count)``; None without any."""
    counts = Counter({(label_json(predicted), label_json(label)): count for predicted, label, count in pairs})
    names = {label_json(value): brief(value, 24) for pair in pairs for value in pair[:2]}
    down, across = Counter[str | None](), Counter[str | None]()
    for (predicted, label), count in counts.items():
        down[predicted] += count
        across[label] += count
    if not counts:
        return None
    shown_down, shown_across = _most(down, names), _most(across, names)
    top = max(counts.values())
    chosen = (choice.filter.predicted, choice.filter.label)

    def cell(predicted: str | None, label: str | None) -> Cell:
        count = counts[predicted, label]
        return Cell(
            count,
            math.ceil(5 * count / top),
            choice.but(predicted=predicted, label=label),
            chosen == (predicted, label),
        )

    return Confusion(
        across=[names[label] for label in shown_across],
        down=[names[label] for label in shown_down],
        rows=[[cell(predicted, label) for label in shown_across] for predicted in shown_down],
        left_out=len(down.keys() | across.keys()) - len({*shown_down, *shown_across}),
        vertical=any(len(names[label]) > UPRIGHT for label in shown_across),
    )


def _most(totals: Counter[str | None], names: dict[str | None, str]) -> list[str | None]:
    """The most frequent labels: short ones, digits say, in their order, longer ones the most frequent first."""
    most = [label for label, _ in totals.most_common(MOST_LABELS)]
    short = all(len(names[label]) <= UPRIGHT for label in most)
    return sorted(most, key=lambda label: (len(names[label]), names[label])) if short else most


@dataclass(frozen=True)
class Bar:
    """Corrections of one step: percentages for the chart, words, and the address of the cards."""

    left: float
    width: float
    height: float
    words: str
    args: dict[str, str]


@dataclass(frozen=True)
class Bars:
    """The chart: its bars, the most that one holds, and its first and last moment."""

    bars: list[Bar]
    top: int
    begin: str
    end: str


def over_time(counts: Sequence[tuple[float, int]], fine: int, choice: Choice, now: float) -> Bars | None:
    """The chart of ``(start, corrections)`` in steps of ``fine`` seconds; None without any."""
    if not counts:
        return None
    first, last = counts[0][0], counts[-1][0] + fine
    since = choice.filter.since if choice.filter.since is not None else first
    until = choice.filter.until if choice.filter.until is not None else max(last, min(now, last + (last - since) / 4))
    step = next((step for step in STEPS if (until - since) / step <= BARS), STEPS[-1])
    begin = math.floor(since / step) * step
    places = max(math.ceil((until - begin) / step), 1)
    total = Counter[int]()
    for start, count in counts:
        total[min(max(int((start - begin) // step), 0), places - 1)] += count
    top = max(total.values())
    bars = []
    for place, count in sorted(total.items()):
        start = begin + place * step
        within = max(start, choice.filter.since or start), min(start + step, choice.filter.until or start + step)
        address = choice.but(since=stamp(within[0]), until=stamp(within[1]))
        words = f"{count:,} from {clock(start)} to {clock(start + step)}"
        bars.append(Bar(100 * place / places, 100 / places, 100 * count / top, words, address))
    return Bars(bars, top, clock(begin), clock(begin + places * step))


def clock(seconds: float) -> str:
    """
    >>> clock(1795514400.0), clock(-1e12)  # a bar may begin before the first year, or end after the last
    ('24 Nov 10:00', '1 Jan 00:00')
    """
    return f"{datetime.fromtimestamp(min(max(seconds, FIRST), LAST), UTC):%-d %b %H:%M}"


def ago(seconds: float) -> str:
    """
    >>> ago(20), ago(90), ago(7200), ago(200000)
    ('just now', '1 minute ago', '2 hours ago', '2 days ago')
    """
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count:,} {name}{'s' if count > 1 else ''} ago"
    return "just now"
