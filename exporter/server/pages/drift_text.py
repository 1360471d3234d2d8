"""Describe in a sentence how a feature changed since training."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from exporter.monitoring.drift_evidence import LIMIT
from exporter.monitoring.drift_report import TargetDrift
from exporter.profiles.profile import CategoricalFeature, NumericFeature
from exporter.stats.divergence import Floats

MIN_EXPLAINED = 0.15
"""Share of the whole difference that a second statement must explain to be part of the sentence."""
_WIDE = 0.05
"""A weight whose upper bound is further away is given with its bound."""

Statement = tuple[float, str]
"""A text, and the part of the difference that it explains."""


def number(value: float) -> str:
    """
    >>> number(0.31415), number(math.nan), number(12345.0), number(1.5e12)
    ('0.314', '–', '12,345', '1.5e+12')
    """
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def percent(part: float) -> str:
    """
    Format a share with three digits, or more where it would look like all.

    >>> [percent(part).replace("\\N{NO-BREAK SPACE}", " ") for part in (0.13894, 0.01, 1, math.nan)]
    ['13.9 %', '1 %', '100 %', '–']
    >>> [percent(part).replace("\\N{NO-BREAK SPACE}", " ") for part in (0.9994, 0.9996, 0.99999, 0.9999999)]
    ['99.9 %', '99.96 %', '99.999 %', 'over 99.999 %']
    """
    if math.isnan(part):
        return "–"
    texts = (f"{100 * part:.{digits}g}" for digits in (3, 4, 5))
    text = next((text for text in texts if part >= 1 or float(text) < 100), "over 99.999")
    return f"{text}\N{NO-BREAK SPACE}%"


def share(part: float) -> str:
    """
    Format a share as a percentage, with a no-break space before the sign.

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


def describe(drift: TargetDrift) -> str:
    """Describe the change of a target in a sentence, and in a second one its evidence of a slow change, if any."""
    text = _describe_window(drift)
    if drift.status != "drifted" and drift.evidence > LIMIT:
        text += f" Over a longer time, a small, lasting change: evidence {drift.evidence:.0f} of {LIMIT:.0f}."
    return text


def _describe_window(drift: TargetDrift) -> str:
    if not drift.observations:
        return "No values in this window."
    if not drift.trained.sum():
        return "The training data has no values of it to compare with."
    if drift.status == "few":
        count = "1 value is" if drift.observations == 1 else f"{drift.observations:,} values are"
        return f"{count} too few: sampling noise alone can reach {number(drift.noise)}."
    if drift.is_constant:
        return "Constant, as in training."
    return _describe_change(drift)


def describe_dependence(drift: TargetDrift) -> str:
    """Describe why the noise floor is higher than that of independent values; empty where it is not."""
    if not drift.is_dependent:
        return ""
    count, effective = f"{drift.observations:,}", f"{max(round(drift.effective), 1):,}"
    as_much = f": {count} of them tell as much as {effective} independent ones" if effective != count else ""
    floors = f"{number(drift.noise)} instead of {number(drift.independent_noise)}"
    where = "In healthy windows of the past" if drift.is_learned else "In training"
    return f"{where}, values depend on those before them{as_much}, so the noise floor is {floors}."


def describe_season(drift: TargetDrift) -> str:
    """Describe with which training values a target is compared, where they change with the hour; empty elsewhere."""
    if drift.season is None:
        return ""
    return f"Changes with the hour of the {drift.season}: compared with training values of the same hours (UTC)."


def describe_importance(drift: TargetDrift) -> str:
    """Describe how much the model's answers depend on a feature; empty where the profile does not know it."""
    known = drift.importance
    if known is None:
        return ""
    if known.is_hardly_used:
        return f"The model hardly uses it: at most {share(known.upper)} of the variation of its answers depends on it."
    upper = f" to {share(known.upper)}" if known.upper > known.weight + _WIDE else ""
    return f"Of the variation of the model’s answers, {share(known.weight)}{upper} depends on it."


def _describe_change(drift: TargetDrift) -> str:
    if drift.status == "same":
        return "No change beyond sampling noise."
    statements = sorted(_statements(drift), key=lambda statement: -statement[0])
    least = min(MIN_EXPLAINED * drift.weight.sum(), statements[0][0])
    text = "; ".join(text for weight, text in statements[:2] if weight >= least)
    return f"Small change: {text}." if drift.status == "slight" else f"{text[0].upper()}{text[1:]}."


def _statements(drift: TargetDrift) -> Iterator[Statement]:
    trained, live = drift.trained / drift.trained.sum(), drift.live / drift.observations
    for index, what in ((-2, "missing"), (-1, "of the wrong type")):
        if live[index] > trained[index]:
            before = f"{share(trained[index])} were" if trained[index] else "none were"
            yield drift.weight[index], f"{share(live[index])} of the values are {what}; in training {before}"
        elif trained[index]:
            now = share(live[index]) if live[index] else "none"
            yield drift.weight[index], f"{now} of the values are {what}; in training {share(trained[index])} were"
    if isinstance(drift.target, CategoricalFeature):
        yield from _category_statements(drift, drift.target, trained, live)
    elif drift.target.edges:
        yield from _numeric_statements(drift, drift.target, trained, live)


def _share_change(what: str, before: float, after: float) -> str:
    return f"the share of {what} {'rose' if after > before else 'fell'} from {share(before)} to {share(after)}"


def _category_statements(
    drift: TargetDrift, target: CategoricalFeature, trained: Floats, live: Floats
) -> Iterator[Statement]:
    count = len(target.categories)
    difference = np.abs(live - trained)[: count + 1].round(9)
    # Rank categories by the change of their share, which readers see, instead of their part of the divergence.
    weight = drift.weight[: count + 1].sum() * difference / max(difference.sum(), 1e-9)
    order = sorted(range(count), key=lambda index: (-difference[index], live[index] < trained[index]))
    for index in order[: 1 if count == 2 else 2]:  # of two categories, the second changes as much as the first
        yield weight[index], _share_change(quoted(target.categories[index]), trained[index], live[index])
    if drift.unseen > trained[count]:
        text = f"{share(drift.unseen)} of the values are categories that are not in the training data"
        yield max(weight[count], drift.weight[count]), text
    elif difference[count]:
        yield weight[count], _share_change("rare categories", trained[count], live[count])


def _numeric_statements(
    drift: TargetDrift, target: NumericFeature, trained: Floats, live: Floats
) -> Iterator[Statement]:
    edges = target.edges
    inside, last = slice(1, len(edges)), len(edges)
    if drift.min == drift.max and drift.trained_stddev > 0 and drift.observations > 1:
        text = f"every value is {number(drift.min)}; training has values from {number(edges[0])} to {number(edges[-1])}"
        yield drift.weight[: last + 1].sum(), text
        return
    for index, outside in ((0, f"values below {number(edges[0])}"), (last, f"values above {number(edges[-1])}")):
        if live[index] > trained[index]:
            yield drift.weight[index], _share_change(outside, trained[index], live[index])
    top = 1 + int(drift.weight[inside].argmax()) if last > 1 else 0
    total, single = drift.weight[inside].sum(), drift.weight[top] if top else 0.0
    spread = total - single if single > total / 2 else total  # a bin that explains most of it comes first
    if (moments := _describe_moments(drift)) is not None:
        yield spread, moments
    if top:
        yield single, _share_change(_describe_bin(edges[top - 1], edges[top]), trained[top], live[top])


def _describe_moments(drift: TargetDrift) -> str | None:
    """Describe the change of the mean, or else of the standard deviation; None when both are small."""
    if abs(drift.shift) >= 0.3:
        change = f"the mean {'rose' if drift.shift > 0 else 'fell'} by {number(abs(drift.shift))}"
        means = f"from {number(drift.trained_mean)} to {number(drift.mean)}"
        return f"{change} training standard deviations, {means}"
    if drift.trained_stddev > 0 and not 2 / 3 < (ratio := drift.stddev / drift.trained_stddev) < 1.5:
        return f"the standard deviation is {number(ratio)} times that of training"
    return None


def _describe_bin(low: float, high: float) -> str:
    is_single_value = high == math.nextafter(low, math.inf)
    return f"the value {number(low)}" if is_single_value else f"values from {number(low)} to {number(high)}"
