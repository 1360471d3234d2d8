"""What is unusual in an input, beside the training data, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.features.categorical import Categorical
from exporter.features.extract import scalar_text
from exporter.monitoring.binner import Binner
from exporter.profiles.profile import CategoricalFeature, NumericFeature
from exporter.server.pages.drift_text import number, share
from exporter.stats.divergence import Floats

RARE = 0.01
"""A value whose bin had less of the training values is worth a look."""


def unusual(binner: Binner, inputs: Sequence[Mapping[str, Any]], times: Floats) -> list[dict[str, list[str]]]:
    """What training hardly saw in the inputs of some predictions.

    Parameters
    ----------
    binner
        The training side.
    inputs
        Decoded inputs of ``n`` predictions.
    times
        Unix time in seconds of each, shape ``(n,)``.

    Returns
    -------
    list
        For each prediction, sentences by input; an input that is usual is absent.
    """
    found: list[dict[str, list[str]]] = [{} for _ in inputs]
    for name, kind in binner.inputs.items():
        values = [one.get(name) for one in inputs]
        if isinstance(kind, Categorical):
            target = binner.profile.features[name]
            if isinstance(target, CategoricalFeature):
                for place, value in enumerate(kind.labels(values)):
                    if said := category(target, value, kind.noun):
                        found[place][name] = [said]
            continue
        columns = kind.columns(values, times) if values else ()
        for scalar, column in zip(kind.features(name), columns, strict=False):
            target = binner.profile.features[scalar]
            if not isinstance(target, NumericFeature):
                continue
            _, _, statistic = scalar.partition(f"{name}.") if scalar != name else ("", "", "")
            for place, value in enumerate(column.tolist()):
                said = quantity(target, value, kind.noun)
                if said and not (statistic and found[place].get(name) and not math.isfinite(value)):
                    prefix = f"{statistic} {number(value)}: " if statistic and math.isfinite(value) else ""
                    found[place].setdefault(name, []).append(f"{prefix}{said}")
    return found


def quantity(target: NumericFeature, value: float, noun: str = "a number") -> str | None:
    """What is unusual in a number; NaN is missing, an infinity invalid; None when nothing is.

    >>> target = NumericFeature(edges=(18.0, 90.0), counts=(0, 100, 0, 0, 0))
    >>> quantity(target, 17.0), quantity(target, 30.0)
    ('below all training values, 18 to 90', None)
    """
    if math.isnan(value):
        return _few("missing", target.counts[-2], sum(target.counts))
    if math.isinf(value):
        return f"not {noun}"
    if not target.edges:
        return None
    if target.precision == "single" and abs(value) < 3e38:
        value = float(np.float32(value))
    place = int(np.searchsorted(target.edges, value, side="right"))
    ranged = f"{number(target.edges[0])} to {number(target.edges[-1])}"
    if place in {0, len(target.edges)}:
        return f"{'above' if place else 'below'} all training values, {ranged}"
    low, high = target.edges[place - 1], target.edges[place]
    around = number(low) if high == math.nextafter(low, math.inf) else f"from {number(low)} to {number(high)}"
    part = target.counts[place] / max(sum(target.counts), 1)
    return f"only {share(part)} of the training values were {around}" if part < RARE else None


def category(target: CategoricalFeature, value: Any, noun: str = "a category") -> str | None:
    """What is unusual in a category; None when nothing is.

    >>> target = CategoricalFeature(categories=("NL", "BE"), counts=(995, 5, 0, 0, 0))
    >>> category(target, "NL"), category(target, "XX"), category(target, None)
    (None, 'never seen in training', 'missing; in training it never was')
    """
    total = max(sum(target.counts), 1)
    if value is None:
        return _few("missing", target.counts[-2], total)
    name = scalar_text(value)
    if name in target.categories:
        part = target.counts[target.categories.index(name)] / total
        return f"only {_thin(part)} of the training values were this" if part < RARE else None
    if name in target.rare:
        least = min(target.counts[: len(target.categories)], default=0) / total
        return f"at most {_thin(least)} of the training values were this" if least < RARE else None
    return "never seen in training" if isinstance(value, str | bool | int | float) else f"not {noun}"


def _thin(part: float) -> str:
    return share(part) if part else "few"


def _few(what: str, count: int, total: int) -> str | None:
    if count >= RARE * max(total, 1):
        return None
    return f"{what}; in training {f'only {share(count / total)} were' if count else 'it never was'}"
