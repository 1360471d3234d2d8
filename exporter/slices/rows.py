"""Find the corrections in a slice, by the bins of their stored inputs and outputs."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import sqlalchemy as sa

from exporter.features.base import InputType
from exporter.features.categorical import Categorical
from exporter.features.lenient_json import decode_inputs
from exporter.monitoring.binner import Binner
from exporter.profiles.row_bins import feature_bins
from exporter.slices.recorder import output_bins
from exporter.slices.search import Bins
from exporter.stats.divergence import Floats
from exporter.storage.review.corrections import Filter, list_ids, read_predictions
from exporter.storage.stored_text import decode_label
from exporter.validation import preview, suggestion

MAX_ROWS, MAX_SECONDS = 100_000, 5.0
"""Corrections whose inputs are looked at, the newest ones that the rest of a filter selects, and time for it."""


def parse_bins(binner: Binner, text: str) -> Bins:
    """Return the bins that a JSON object names by feature, as ``where`` of ``GET /v1/slices`` does.

    Raises
    ------
    ValueError
        When it names none, or one that the profile does not have.
    """
    try:
        names = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        names = {}
    if not names:
        example = '{"carrier": "03 MQ"}'
        raise ValueError(f"expected a JSON object of features and bins such as {example}, got {preview(text)}")
    bins: list[tuple[int, int]] = []
    for name, label in names.items():
        if name not in binner.target_names:
            raise ValueError(f"the profile has no feature {preview(name)}; {suggestion(name, binner.target_names)}")
        index = binner.target_names.index(name)
        labels = binner.targets[index].labels()
        if label not in labels:
            raise ValueError(f"{preview(name)} has no bin {preview(label)}; {suggestion(label, labels)}")
        bins.append((index, labels.index(label)))
    return tuple(bins)


def find_corrections(connection: sa.Connection, binner: Binner, bins: Bins, chosen: Filter) -> tuple[list[int], bool]:
    """Return the identifiers of those corrections that are in a slice.

    Parameters
    ----------
    connection
        To read with.
    binner
        Whose bins are meant, whatever the version of a correction's prediction.
    bins
        The slice.
    chosen
        The corrections that are looked at; those without stored inputs are in no slice.

    Returns
    -------
    tuple
        The identifiers, and whether there are older corrections that were not looked at: more than `MAX_ROWS`, or than
        can be looked at in `MAX_SECONDS`, such as large images.
    """
    end = time.monotonic() + MAX_SECONDS
    ids = list_ids(connection, chosen, MAX_ROWS + 1)
    found: list[int] = []
    for rows in read_predictions(connection, ids[:MAX_ROWS]):
        found += [row.id for row, inside in zip(rows, _are_inside(binner, bins, rows), strict=True) if inside]
        if time.monotonic() > end:
            return found, min(row.id for row in rows) > ids[-1]
    return found, len(ids) > MAX_ROWS


def _are_inside(binner: Binner, bins: Bins, rows: Any) -> Any:
    decoded = decode_inputs([row.inputs.encode("utf-8", "replace") for row in rows])
    times = np.array([row.time for row in rows])
    inside = np.ones(len(rows), np.bool_)
    for target, bin_index in bins:
        if target == binner.prediction:
            codes = output_bins(binner, target, [decode_label(row.prediction) for row in rows])
        elif target == binner.confidence:
            codes = output_bins(binner, target, [row.confidence for row in rows])
        else:
            name = binner.target_names[target]
            source, kind = next((s, k) for s, k in binner.inputs.items() if name in k.features(s))
            values = [decoded.get(index, {}).get(source) for index in range(len(rows))]
            codes = feature_bins(binner.targets[target], _values(kind, name, source, values, times))
        inside &= codes == bin_index
    return inside


def _values(kind: InputType, name: str, source: str, values: list[Any], times: Floats) -> Any:
    if isinstance(kind, Categorical):
        return kind.labels(values)
    return kind.columns(values, times)[kind.features(source).index(name)]
