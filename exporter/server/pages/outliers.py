"""Describe which input values are missing, invalid, or rare in the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.features.base import scalar_text
from exporter.monitoring.binner import Binner
from exporter.profiles.profile import CategoricalFeature, NumericFeature
from exporter.server.text import number, share
from exporter.stats.divergence import Floats

RARE = 0.01
"""A value is rare if its bin has a smaller share of the training values."""
_Notes = list[dict[str, list[str]]]


def find_outliers(binner: Binner, inputs: Sequence[Mapping[str, Any]], times: Floats) -> list[dict[str, list[str]]]:
    """Find the values in the inputs of predictions that are rare in the training data.

    Parameters
    ----------
    binner
        The training data of the model version.
    inputs
        Decoded inputs of ``n`` predictions.
    times
        Unix time in seconds of each, shape ``(n,)``.

    Returns
    -------
    list
        For each prediction, descriptions by the name of the input; only inputs with outliers are present.
    """
    notes: _Notes = [{} for _ in inputs]
    for name, input_type in binner.inputs.items():
        values = [row.get(name) for row in inputs]
        if input_type.categorical:
            target = binner.profile.features[name]
            if isinstance(target, CategoricalFeature):
                for index, label in enumerate(input_type.labels(values)):
                    if note := describe_category(target, label, input_type.noun):
                        notes[index][name] = [note]
            continue
        columns = input_type.columns(values, times) if values else ()
        for feature, column in zip(input_type.features(name), columns, strict=False):
            target = binner.profile.features[feature]
            if isinstance(target, NumericFeature):
                statistic = feature.removeprefix(f"{name}.") if feature != name else ""
                described = [describe_number(target, value, input_type.noun) for value in column.tolist()]
                _add_notes(notes, name, statistic, column.tolist(), described)
    return notes


def _add_notes(
    notes: _Notes, name: str, statistic: str, column: Sequence[float], described: Sequence[str | None]
) -> None:
    """Add the outliers in a column; ``statistic`` is its name if the input has several columns, else empty."""
    for index, (value, note) in enumerate(zip(column, described, strict=True)):
        if not note or (statistic and notes[index].get(name) and not math.isfinite(value)):
            continue  # an input that is missing or invalid as a whole has one note
        prefix = f"{statistic} {number(value)}: " if statistic and math.isfinite(value) else ""
        notes[index].setdefault(name, []).append(f"{prefix}{note}")


def describe_number(target: NumericFeature, value: float, noun: str = "a number") -> str | None:
    """Describe why a number is an outlier; NaN is missing, an infinity invalid. None for any other number.

    >>> target = NumericFeature(edges=(18.0, 90.0), counts=(0, 100, 0, 0, 0))
    >>> describe_number(target, 17.0), describe_number(target, 30.0)
    ('below all training values (18 to 90)', None)
    """
    if math.isnan(value):
        return _missing(target.counts[-2], sum(target.counts))
    if math.isinf(value):
        return f"not {noun}"
    return _describe_finite(target, value) if target.edges else None


def _describe_finite(target: NumericFeature, value: float) -> str | None:
    if target.precision == "single" and abs(value) < 3e38:
        value = float(np.float32(value))
    index = int(np.searchsorted(target.edges, value, side="right"))
    if index in {0, len(target.edges)}:
        trained = f"{number(target.edges[0])} to {number(target.edges[-1])}"
        return f"{'above' if index else 'below'} all training values ({trained})"
    part = target.counts[index] / max(sum(target.counts), 1)
    if part >= RARE:
        return None
    low, high = target.edges[index - 1], target.edges[index]
    around = number(low) if high == math.nextafter(low, math.inf) else f"from {number(low)} to {number(high)}"
    return f"only {share(part)} of the training values were {around}"


def describe_category(target: CategoricalFeature, value: Any, noun: str = "a category") -> str | None:
    """Describe why a category is an outlier; None if it is not.

    >>> target = CategoricalFeature(categories=("NL", "BE"), counts=(995, 5, 0, 0, 0))
    >>> describe_category(target, "NL"), describe_category(target, "XX"), describe_category(target, None)
    (None, 'not in the training data', 'missing; never missing in training')
    """
    total = max(sum(target.counts), 1)
    if value is None:
        return _missing(target.counts[-2], total)
    name = scalar_text(value)
    if name in target.categories:
        part = target.counts[target.categories.index(name)] / total
        return f"only {_share_or_few(part)} of the training values" if part < RARE else None
    if name in target.rare:
        least = min(target.counts[: len(target.categories)], default=0) / total
        return f"at most {_share_or_few(least)} of the training values" if least < RARE else None
    return "not in the training data" if isinstance(value, str | bool | int | float) else f"not {noun}"


def _share_or_few(part: float) -> str:
    return share(part) if part else "few"


def _missing(count: int, total: int) -> str | None:
    if count >= RARE * max(total, 1):
        return None
    return (
        f"missing; only {share(count / total)} were missing in training"
        if count
        else "missing; never missing in training"
    )
