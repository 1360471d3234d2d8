"""Two distributions laid over each other, and a score's way, as shapes for inline SVG.

Horizontal places are percentages and a chart's height is 100, so that it fits any width without a script;
text is set beside the shapes and keeps its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.monitoring.drift_report import TargetDrift
from exporter.monitoring.history import POINTS, STEP
from exporter.profiles.profile import CategoricalFeature, Feature, NumericFeature
from exporter.server.pages.drift_text import number
from exporter.stats.divergence import Floats

CATEGORIES = 15
"""Categories that a chart shows; the table below it has all."""
APART = 16.0
"""Width of a bar that stands apart (missing values, say), in percent: room for its name on a phone."""


@dataclass(frozen=True)
class Bar:
    """One bin, or several taken together: its name and its share in training and now."""

    name: str
    trained: float
    live: float
    apart: str = ""
    left: float = 0.0
    width: float = 0.0


@dataclass(frozen=True)
class Chart:
    """Bars, the paths they make, and what stands at the axes: (place in percent, text, its anchor)."""

    bars: list[Bar]
    trained: str
    live: str
    across: list[tuple[float, str, str]]
    up: list[tuple[float, str]]


def table(change: TargetDrift) -> list[Bar]:
    """Every bin of a target."""
    names = [label.partition(" ")[2] for label in change.target.labels()]
    return [Bar(*row) for row in zip(names, *_shares(change), strict=True)]


def distribution(change: TargetDrift, apart: float = APART) -> Chart:
    """The chart of a target."""
    bars = _placed(_bars(change), apart)
    top = max(max(bar.trained, bar.live) for bar in bars) * 1.05 or 1.0
    return Chart(
        bars=bars,
        trained="".join(_column(bar, bar.trained / top, 0.9) for bar in bars),
        live="".join(_column(bar, bar.live / top, 0.4) for bar in bars),
        across=_across(change.target, bars),
        up=[(100 - 100 * tick / top, f"{100 * tick:.3g} %") for tick in _ticks(top)],
    )


def _shares(change: TargetDrift) -> tuple[list[float], list[float]]:
    trained, live = change.trained, change.live
    return (trained / max(trained.sum(), 1.0)).tolist(), (live / max(live.sum(), 1.0)).tolist()


def _bars(change: TargetDrift) -> list[Bar]:
    bars, target = table(change), change.target
    missing, invalid = bars[-2:]
    ends = [Bar(bar.name, bar.trained, bar.live, apart=bar.name) for bar in (missing, invalid)]
    if isinstance(target, CategoricalFeature):
        known = sorted(bars[:-3], key=lambda bar: -max(bar.trained, bar.live))
        shown = [bar for bar in bars[:-3] if bar in known[:CATEGORIES]]
        rest = [bar for bar in bars[:-2] if bar not in shown]
        others = Bar("all others", sum(b.trained for b in rest), sum(b.live for b in rest), apart="others")
        return [*shown, *(bar for bar in (others, *ends) if bar.trained or bar.live)]
    inner = bars[1:-3] if target.edges else bars[:1]
    if target.edges:
        low, high = f"< {number(target.edges[0])}", f"> {number(target.edges[-1])}"
        below, above = (Bar(b.name, b.trained, b.live, apart=a) for b, a in ((bars[0], low), (bars[-3], high)))
        bars = [below, *inner, above, *ends]
    else:
        bars = [*inner, *ends]
    return [bar for bar in bars if not bar.apart or bar.trained or bar.live]


def _placed(bars: list[Bar], apart: float) -> list[Bar]:
    within = sum(not bar.apart for bar in bars)
    apart = min(apart, 48 / max(len(bars) - within, 1))
    each = (100 - apart * (len(bars) - within)) / max(within, 1)
    left, placed = 0.0, []
    for bar in bars:
        width = apart if bar.apart else each
        placed.append(Bar(bar.name, bar.trained, bar.live, bar.apart, left, width))
        left += width
    return placed


def _column(bar: Bar, height: float, part: float) -> str:
    if not height:
        return ""
    wide = min(bar.width, 8.0) * part if bar.apart else bar.width * part
    left = bar.left + (bar.width - wide) / 2
    return f"M{left:.4g} 100v-{max(100 * height, 0.7):.4g}h{wide:.4g}V100z"


def _across(target: Feature, bars: list[Bar]) -> list[tuple[float, str, str]]:
    texts = [(bar.left + bar.width / 2, bar.apart, "middle") for bar in bars if bar.apart]
    inner = [bar for bar in bars if not bar.apart]
    if isinstance(target, NumericFeature) and target.edges and inner:
        last = len(target.edges) - 1
        ticks: dict[str, float] = {}
        for part in (0, 0.25, 0.5, 0.75, 1):
            place = round(part * last)
            ticks.setdefault(number(target.edges[place]), inner[0].left + place * inner[0].width)
        anchors = ["start", *["middle"] * (len(ticks) - 2), "end"]
        return [*((left, text, anchor) for (text, left), anchor in zip(ticks.items(), anchors, strict=False)), *texts]
    return texts


def _ticks(top: float) -> list[float]:
    step = 10 ** math.floor(math.log10(top / 2))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= top / 2)
    return [step * place for place in range(1, int(top / step) + 1)]


@dataclass(frozen=True)
class Line:
    """The way of a score: a path, the threshold's height from the top, the greatest score, and words."""

    path: str
    threshold: float
    top: float
    words: str


def trend(ages: Floats, scores: npt.NDArray[np.floating], change: TargetDrift) -> Line:
    """The score over the last hour, up to now; gaps where a window held nothing."""
    ages, scores = np.append(ages, 0.0), np.append(scores, change.score)
    known: list[float] = scores[~np.isnan(scores)].tolist()
    top = max(*known, change.threshold, 1e-9) * 1.1
    path, drawing = "", False
    for age, score in zip(ages.tolist(), scores.tolist(), strict=True):
        if math.isnan(score):
            drawing = False
            continue
        place = f"{100 - 100 * age / (STEP * POINTS):.4g} {100 - 100 * score / top:.4g}"
        path += f"L{place}" if drawing else f"M{place}h0"  # a lone sample is a dot
        drawing = True
    if not known:
        words = "Nothing came in the last hour."
    else:
        reach = f"from {number(min(known))} to {number(max(known))}"
        words = f"Score over the last hour: {reach}, now {number(change.score)}."
    return Line(path, 100 - 100 * change.threshold / top, top, words)
