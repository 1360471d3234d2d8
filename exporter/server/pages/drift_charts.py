"""Charts of the drift page as shapes for inline SVG: live and training distribution, and the history of a score.

Horizontal positions are percentages and the height of a chart is 100, so that charts fit any width without a script;
labels are outside the scaled shapes and keep their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from exporter.monitoring.drift_report import TargetDrift
from exporter.monitoring.history import POINTS, STEP
from exporter.profiles.profile import CategoricalFeature, Feature, NumericFeature
from exporter.server.pages.drift_text import number
from exporter.stats.divergence import Floats

CATEGORIES = 15
"""Categories in a chart; the table below it has all."""
SPECIAL_WIDTH = 20.0
"""Width in percent of a bar for special values, such as missing ones: enough for its label on a phone."""
WIDTHS = {"narrow": 255, "roomy": 530}
"""The least width of a chart in pixels, on a phone and on anything wider than 40 rem, as style.css has it."""
CHARACTER, GAP = 7.7, 6
"""Width of a character of a label, and space between two labels, in pixels."""


@dataclass(frozen=True)
class Bar:
    """A bin, or several combined, with their share in training and now.

    Attributes
    ----------
    special
        The label of a bar for special values (missing, invalid, out of range, other categories); else empty.
    """

    name: str
    trained: float
    live: float
    special: str = ""
    left: float = 0.0
    width: float = 0.0


@dataclass(frozen=True)
class Label:
    """A label below the chart.

    Attributes
    ----------
    position
        From the left, in percent.
    anchor
        The SVG anchor.
    optional
        Whether it is left out where it would overlap another one; else it takes the next row.
    row
        The row below the axis, from 0.
    """

    position: float
    text: str
    anchor: str = "middle"
    optional: bool = False
    row: int = 0


@dataclass(frozen=True)
class Chart:
    """Bars, the paths that draw them, and the labels of both axes.

    Attributes
    ----------
    x_labels
        The labels below the axis by the name of a width: ``narrow`` on a phone, else ``roomy``.
    y_labels
        Position from the top and text of each label.
    """

    bars: list[Bar]
    trained: str
    live: str
    x_labels: dict[str, list[Label]]
    y_labels: list[tuple[float, str]]


def table(drift: TargetDrift) -> list[Bar]:
    """Return all bins of a target."""
    names = [label.partition(" ")[2] for label in drift.target.labels()]
    return [Bar(*row) for row in zip(names, *_shares(drift), strict=True)]


def distribution(drift: TargetDrift, special_width: float = SPECIAL_WIDTH) -> Chart:
    """Return the chart of a target's distribution."""
    bars = _position(_bars(drift), special_width)
    top = max(max(bar.trained, bar.live) for bar in bars) * 1.05 or 1.0
    return Chart(
        bars=bars,
        trained="".join(_bar_path(bar, bar.trained / top, 0.9) for bar in bars),
        live="".join(_bar_path(bar, bar.live / top, 0.4) for bar in bars),
        x_labels={name: _fit(_x_labels(drift.target, bars), width) for name, width in WIDTHS.items()},
        y_labels=[(100 - 100 * tick / top, f"{100 * tick:.3g} %") for tick in _ticks(top)],
    )


def _shares(drift: TargetDrift) -> tuple[list[float], list[float]]:
    trained, live = drift.trained, drift.live
    return (trained / max(trained.sum(), 1.0)).tolist(), (live / max(live.sum(), 1.0)).tolist()


def _bars(drift: TargetDrift) -> list[Bar]:
    bars, target = table(drift), drift.target
    missing, invalid = bars[-2:]
    ends = [Bar(bar.name, bar.trained, bar.live, special=bar.name) for bar in (missing, invalid)]
    if isinstance(target, CategoricalFeature):
        by_share = sorted(bars[:-3], key=lambda bar: -max(bar.trained, bar.live))
        visible = [bar for bar in bars[:-3] if bar in by_share[:CATEGORIES]]
        rest = [bar for bar in bars[:-2] if bar not in visible]
        others = Bar("all others", sum(b.trained for b in rest), sum(b.live for b in rest), special="others")
        return [*visible, *(bar for bar in (others, *ends) if bar.trained or bar.live)]
    inner = bars[1:-3] if target.edges else bars[:1]
    if target.edges:
        low, high = f"< {number(target.edges[0])}", f"> {number(target.edges[-1])}"
        below, above = (Bar(b.name, b.trained, b.live, special=a) for b, a in ((bars[0], low), (bars[-3], high)))
        bars = [below, *inner, above, *ends]
    else:
        bars = [*inner, *ends]
    return [bar for bar in bars if not bar.special or bar.trained or bar.live]


def _position(bars: list[Bar], special_width: float) -> list[Bar]:
    regular = sum(not bar.special for bar in bars)
    special_width = min(special_width, 48 / max(len(bars) - regular, 1))
    regular_width = (100 - special_width * (len(bars) - regular)) / max(regular, 1)
    left, result = 0.0, []
    for bar in bars:
        width = special_width if bar.special else regular_width
        result.append(replace(bar, left=left, width=width))
        left += width
    return result


def _bar_path(bar: Bar, height: float, fill: float) -> str:
    """Return the SVG path of a bar that fills a part of its width."""
    if not height:
        return ""
    width = min(bar.width, 8.0) * fill if bar.special else bar.width * fill
    left = bar.left + (bar.width - width) / 2
    return f"M{left:.4g} 100v-{max(100 * height, 0.7):.4g}h{width:.4g}V100z"


def _x_labels(target: Feature, bars: list[Bar]) -> list[Label]:
    """Return the labels below the axis, the most important first."""
    labels = [Label(bar.left + bar.width / 2, bar.special) for bar in bars if bar.special]
    inner = [bar for bar in bars if not bar.special]
    if isinstance(target, NumericFeature) and target.edges and inner:
        last = len(target.edges) - 1
        for fraction, anchor in ((0, "start"), (1, "end"), (0.5, "middle"), (0.25, "middle"), (0.75, "middle")):
            index = round(fraction * last)
            text, position = number(target.edges[index]), inner[0].left + index * inner[0].width
            if all(text != label.text for label in labels):
                labels.append(Label(position, text, anchor, optional=True))
    return labels


def _fit(labels: list[Label], width: float) -> list[Label]:
    """Return labels in rows in which none overlaps another one before it, in a chart of a width in pixels."""
    taken: list[tuple[int, float, float]] = []
    result = []
    for label in labels:
        size = len(label.text) * CHARACTER + GAP
        left = label.position / 100 * width - {"start": 0.0, "middle": size / 2, "end": size}[label.anchor]
        row = 0
        while any(used == row and left < end and start < left + size for used, start, end in taken):
            row += 1
        if not (row and label.optional):
            taken.append((row, left, left + size))
            result.append(replace(label, row=row))
    return result


def _ticks(top: float) -> list[float]:
    step = 10 ** math.floor(math.log10(top / 2))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= top / 2)
    return [step * index for index in range(1, int(top / step) + 1)]


@dataclass(frozen=True)
class TrendLine:
    """The history of a score.

    Attributes
    ----------
    path
        The SVG path.
    threshold
        Position of the threshold from the top.
    top
        The score at the top.
    description
        The chart in words.
    """

    path: str
    threshold: float
    top: float
    description: str


def trend(ages: Floats, scores: npt.NDArray[np.floating], drift: TargetDrift) -> TrendLine:
    """Draw the score over the last hour up to now, with gaps while the window was empty."""
    ages, scores = np.append(ages, 0.0), np.append(scores, drift.score)
    present: list[float] = scores[~np.isnan(scores)].tolist()
    top = max(*present, drift.threshold, 1e-9) * 1.1
    path, drawing = "", False
    for age, score in zip(ages.tolist(), scores.tolist(), strict=True):
        if math.isnan(score):
            drawing = False
            continue
        point = f"{100 - 100 * age / (STEP * POINTS):.4g} {100 - 100 * score / top:.4g}"
        path += f"L{point}" if drawing else f"M{point}h0"  # a lone sample is a dot
        drawing = True
    if not present:
        description = "No values in the last hour."
    else:
        scores_range = f"from {number(min(present))} to {number(max(present))}"
        description = f"Score over the last hour: {scores_range}, now {number(drift.score)}."
    return TrendLine(path, 100 - 100 * drift.threshold / top, top, description)
