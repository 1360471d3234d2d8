"""What changed, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from exporter.monitoring.drift_report import TargetDrift
from exporter.profiles.profile import CategoricalFeature, NumericFeature
from exporter.stats.divergence import Floats

TELLING = 0.15
"""Part of the whole difference that a second clause must explain to be worth its words."""

Clause = tuple[float, str]


def number(value: float) -> str:
    """
    >>> number(0.31415), number(math.nan), number(12345.0), number(1.5e12)
    ('0.314', '–', '12,345', '1.5e+12')
    """
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def share(part: float) -> str:
    """
    A percentage that does not break before its sign.

    >>> [share(part).replace("\\N{NO-BREAK SPACE}", " ") for part in (0.3391, 0.0021, 0.9996, 0.00001, 1.0, 0.0)]
    ['34 %', '0.21 %', 'over 99 %', 'under 0.1 %', '100 %', '0 %']
    """
    if 0 < part < 0.001:
        text = "under 0.1"
    elif 0.995 <= part < 1:
        text = "over 99"
    else:
        text = f"{100 * part:.0f}" if part >= 0.0995 else f"{100 * part:.2g}"
    return f"{text}\N{NO-BREAK SPACE}%"


def quoted(name: str) -> str:
    """
    >>> quoted("NL"), quoted("a b"), quoted("x" * 50)[-4:]
    ('NL', '“a b”', 'xx…”')
    """
    short = name if len(name) <= 40 else f"{name[:39]}…"
    return short if short.isalnum() else f"“{short}”"


def sentence(change: TargetDrift) -> str:
    """What happened to a target, in one sentence."""
    if not change.observations:
        return "No value came in this window."
    if not change.trained.sum():
        return "Training had no value of it, so there is nothing to compare with."
    if change.status == "few":
        many = "1 value is" if change.observations == 1 else f"{change.observations:,} values are"
        return f"{many} too few to say: sampling alone explains {number(change.noise)}."
    if change.is_constant:
        return "Always the same, as in training."
    if change.status == "same":
        return "No more change than sampling explains."
    least = TELLING * change.weight.sum()
    found = sorted(_clauses(change), key=lambda clause: -clause[0])
    told = "; ".join(text for weight, text in islice(found, 2) if weight >= min(least, found[0][0]))
    if change.status == "slight":
        return f"A little: {told}."
    return f"{told[0].upper()}{told[1:]}."


def _clauses(change: TargetDrift) -> Iterator[Clause]:
    """What can be said, each with the part of the difference that it explains."""
    trained, live = change.trained / change.trained.sum(), change.live / change.observations
    for place, what in ((-2, "missing"), (-1, "of the wrong type")):
        if live[place] > trained[place]:
            text = f"{share(live[place])} of the values are {what}; in training {_were(trained[place])}"
            yield change.weight[place], text
        elif trained[place]:
            verb = f"are {what}" if live[place] else f"is {what}"
            now = share(live[place]) if live[place] else "none"
            yield change.weight[place], f"{now} {verb}; in training {share(trained[place])} of the values were"
    if isinstance(change.target, CategoricalFeature):
        yield from _categories(change, change.target, trained, live)
    elif change.target.edges:
        yield from _numbers(change, change.target, trained, live)


def _were(part: float) -> str:
    return f"{share(part)} were" if part else "none were"


def _moved(before: float, after: float) -> str:
    if not before:
        return f"never occurred in training and {'are' if after else 'is'} now {share(after)}"
    return f"{'rose' if after > before else 'fell'} from {share(before)} to {share(after)}"


def _categories(change: TargetDrift, target: CategoricalFeature, trained: Floats, live: Floats) -> Iterator[Clause]:
    count = len(target.categories)
    moved = np.abs(live - trained)[: count + 1].round(9)
    # Readers go by how much moved, not by how much it weighs; what training never saw weighs all the same.
    weight = change.weight[: count + 1].sum() * moved / max(moved.sum(), 1e-9)
    order = sorted(range(count), key=lambda place: (-moved[place], live[place] < trained[place]))
    for place in order[: 1 if count == 2 else 2]:  # of two, the one says what the other does
        yield weight[place], f"the share of {quoted(target.categories[place])} {_moved(trained[place], live[place])}"
    if change.unseen > trained[count]:
        text = f"categories that training never saw are now {share(change.unseen)}"
        yield max(weight[count], change.weight[count]), text
    elif moved[count]:
        yield weight[count], f"the share of rare categories {_moved(trained[count], live[count])}"


def _numbers(change: TargetDrift, target: NumericFeature, trained: Floats, live: Floats) -> Iterator[Clause]:
    edges = target.edges
    inside, last = slice(1, len(edges)), len(edges)
    if change.min == change.max and change.trained_stddev > 0 and change.observations > 1:
        ranged = f"from {number(edges[0])} to {number(edges[-1])}"
        stuck = f"every value is {number(change.min)}; in training they ranged {ranged}"
        yield change.weight[: last + 1].sum(), stuck
        return
    for end, outside in ((0, f"below {number(edges[0])}"), (last, f"above {number(edges[-1])}")):
        if live[end] > trained[end]:
            yield change.weight[end], f"values {outside} {_moved(trained[end], live[end])}"
    most = 1 + int(change.weight[inside].argmax()) if last > 1 else 0
    whole, single = change.weight[inside].sum(), change.weight[most] if most else 0.0
    spread = whole - single if single > whole / 2 else whole  # where one bin tells most, it comes first
    if abs(change.shift) >= 0.3:
        moved = f"the mean moved {'up' if change.shift > 0 else 'down'} by {number(abs(change.shift))}"
        how = f"{moved} training standard deviations, from {number(change.trained_mean)} to {number(change.mean)}"
        yield spread, how
    elif change.trained_stddev > 0 and not 2 / 3 < (ratio := change.stddev / change.trained_stddev) < 1.5:
        yield spread, f"the values scatter {number(ratio)} times as widely as in training"
    if most:
        low, high = edges[most - 1], edges[most]
        alone = high == math.nextafter(low, math.inf)
        where = f"the value {number(low)}" if alone else f"values from {number(low)} to {number(high)}"
        yield single, f"the share of {where} {_moved(trained[most], live[most])}"
