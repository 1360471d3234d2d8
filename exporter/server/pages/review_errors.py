"""The errors of a regression on the review page: label minus prediction, instead of a confusion table of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from exporter.server.pages.regression import signed
from exporter.server.pages.review_charts import Bar
from exporter.server.pages.review_filters import ReviewQuery
from exporter.server.text import number
from exporter.stats.divergence import Floats

BARS = 16
"""About how many bars the histogram has."""
TAIL = 0.02
"""Share of the errors at each end that may be far from all others."""


@dataclass(frozen=True)
class ErrorChart:
    """A histogram of errors, whose bars link to their cards.

    Attributes
    ----------
    bars
        At most `BARS` + 4, those of the errors beyond both ends included.
    top
        The highest count.
    begin, end
        The errors at both ends of the chart; with "below" or "from" where a bar counts all that are further away.
    zero
        Position of 0 in percent; None if it is outside.
    count
        The number of corrections with an error.
    mean, mean_absolute, largest
        Of the errors.
    """

    bars: list[Bar]
    top: int
    begin: str
    end: str
    zero: float | None
    count: int
    mean: str
    mean_absolute: str
    largest: str


def error_chart(errors: Floats, query: ReviewQuery) -> ErrorChart | None:
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
    return ErrorChart(
        bars,
        top,
        f"{'below ' if bins[0][0] is None else ''}{signed(edges[0])}",
        f"{'from ' if bins[-1][1] is None else ''}{signed(edges[-1])}",
        zero,
        len(errors),
        signed(float(errors.mean())),
        number(float(np.abs(errors).mean())),
        signed(float(errors[np.abs(errors).argmax()])),
    )


def histogram_edges(low: float, high: float) -> list[float]:
    """Return round edges between which a range lies: multiples of 1, 2 or 5 times a power of ten, so that 0 is one.

    >>> histogram_edges(-3.0, 12.5)
    [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]
    >>> histogram_edges(0.4, 0.4)
    [0.4, 0.5]
    """
    step = max((high - low or abs(low) or 1.0) / (BARS if high > low else 4), 1e-300)
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
