"""Describe the content of a release as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from exporter.profiles.describe import truncate

MAX_SHOWN = 10
"""Values of a count that are shown, the most frequent first."""
MAX_WIDTH = 60
"""Columns of a name, at most."""
_COUNTS = ("labels", "predictions", "sources", "versions")
_QUANTILES = {"label_quantiles": "labels", "error_quantiles": "errors"}


def summary(lineage: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that describe the examples of a release."""
    numbers = "label_quantiles" in lineage
    for member in _COUNTS[2:] if numbers else _COUNTS:
        if counts := lineage.get(member):
            yield f"{member}: {_counts(counts)}"
    for member, title in _QUANTILES.items():
        if quantiles := lineage.get(member):
            yield f"{title}: " + ", ".join(f"{name} {value:.6g}" for name, value in quantiles.items())
    if missing := lineage.get("without_inputs"):
        yield f"without inputs: {missing:,}"
    for one in lineage.get("slices") or ():
        names = " and ".join(f"{name} is {truncate(bin_, MAX_WIDTH)}" for name, bin_ in one["where"].items())
        shares = f"{100 * one['share']:.3g} % of the examples, {100 * one['training_share']:.3g} % of the training data"
        labels = f": {_counts(one['labels'])}" if one["labels"] else ""
        yield f"slice: {names}: {shares}{labels}"


def _counts(counts: Mapping[str, int]) -> str:
    """
    >>> _counts({"no": 1, "yes": 1200})
    'yes 1,200, no 1'
    """
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    shown = [f"{truncate(name, MAX_WIDTH)} {number:,}" for name, number in ordered[:MAX_SHOWN]]
    return ", ".join([*shown, *([f"{len(ordered) - MAX_SHOWN} more"] if len(ordered) > MAX_SHOWN else [])])
