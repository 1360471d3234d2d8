"""An evaluation as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exporter.commands.common import aligned
from exporter.profiles.describe import truncate
from exporter.stats.intervals import MIN_P_VALUE

WIDTH = 40
"""Columns of a name, at most."""
_CONDITIONS = {
    "at_least": "the accuracy is at least {:g}",
    "at_most": "the mean absolute error is at most {:g}",
    "margin": "the candidate is not worse than the current model by more than {:g}",
}


def text(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that describe an evaluation."""
    release = document["release"]
    yield f"release {release['name']}: {release['examples']:,} examples, {document['examples']:,} evaluated"
    yield from _counts(document["predictions"])
    yield ""
    yield from _measures(document)
    if "classes" in document:
        yield ""
        yield from _classes(document["classes"], document["classes_left_out"])
    for remark in document["remarks"]:
        yield ""
        yield from textwrap.wrap(remark, 120)
    if document["conditions"]:
        yield ""
    for one in document["conditions"]:
        yield f"{_CONDITIONS[one['condition']].format(one['than'])}: {'yes' if one['holds'] else 'no'}"


def _measures(document: Mapping[str, Any]) -> Iterator[str]:
    name = "mean_absolute_error" if document["task"] == "regression" else "accuracy"
    rows: list[tuple[str, ...]] = [
        ("", "examples", f"{name.replace('_', ' ')}, 95 %", "current model", "difference, 95 %", "p-value"),
        _row("all", document, name),
    ]
    for title, member in (("source", "sources"), ("version", "versions")):
        rows += [_row(f"{title} {truncate(key, WIDTH)}", one, name) for key, one in document[member].items()]
    if weighted := document["estimated"]:
        estimated = {"difference": None, "examples": weighted["predictions"], **weighted}
        rows.append(_row(f"estimated by {weighted['samples']:,} samples", estimated, name))
    for one in document["slices"] or ():
        bins = " and ".join(f"{feature} is {bin_.partition(' ')[2]}" for feature, bin_ in one["where"].items())
        rows.append(_row(truncate(bins, WIDTH), one, name))
    yield from aligned(rows)
    if "root_mean_squared_error" in document:
        yield f"root mean squared error {document['root_mean_squared_error']:.6g}"


def _classes(classes: Sequence[Mapping[str, Any]], left_out: int) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("class", "examples", "predicted", "recall, 95 %", "precision, 95 %")]
    for one in classes:
        shares = _share(one["recall"]), _share(one["precision"])
        rows.append((truncate(one["label"], WIDTH), f"{one['examples']:,}", f"{one['predicted']:,}", *shares))
    yield from aligned(rows)
    if left_out:
        yield f"{left_out:,} more classes"
    if new := [truncate(one["label"], WIDTH) for one in classes if not one["examples"]]:
        yield f"predicted, but no label of the release: {', '.join(new)}"


def _counts(predictions: Mapping[str, Any]) -> Iterator[str]:
    yield f"{predictions['file']}: {predictions['rows']:,} rows"
    for member, what in (
        ("missing", "examples without a prediction are left out"),
        ("unknown", "rows are of no example of the release"),
    ):
        if number := predictions[member]:
            listed = predictions[f"{member}_ids"]
            more = ", …" if number > len(listed) else ""
            yield f"  {number:,} {what}: {', '.join(truncate(one, WIDTH) for one in listed)}{more}"
    if number := predictions["repeated"]:
        yield f"  {number:,} rows repeat the prediction of an earlier one"
    if number := predictions["incomparable"]:
        yield f"  {number:,} predictions do not compare with their label, and are left out"
    if number := predictions["rejected"]:
        yield f"  {number:,} rows are not valid, and are left out:"
        yield from (f"    {truncate(reason, 120)}" for reason in predictions["rejections"])


def _row(title: str, measures: Mapping[str, Any], name: str) -> tuple[str, ...]:
    shown = _number if name == "mean_absolute_error" else _share
    change = measures["difference"]
    return (
        title,
        f"{measures['examples']:,}",
        shown(measures[name]),
        shown(measures[f"current_{name}"]),
        f"{change['value']:+.3g} ({change['lower']:+.3g} to {change['upper']:+.3g})" if change else "",
        _p_value(change["p_value"]) if change else "",
    )


def _share(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:.1%} ({estimate['lower']:.1%} to {estimate['upper']:.1%})".replace("%", " %")


def _number(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:.4g} ({estimate['lower']:.4g} to {estimate['upper']:.4g})"


def _p_value(p: float) -> str:
    return f"{p:.2g}" if p > MIN_P_VALUE else f"<{MIN_P_VALUE:g}"
