"""Parse queries of the review queue, and mark labels that training did not have."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from exporter.errors import EventError
from exporter.monitoring.binner import Binner
from exporter.profiles.profile import MAX_RARE, CategoricalFeature
from exporter.server.api.parameters import (
    check_parameters,
    malformed,
    parse_model,
    parse_time,
    parse_truth,
    parse_whole_number,
)
from exporter.server.application import Exporter
from exporter.slices.population import find_corrections, parse_bins
from exporter.slices.report import describe
from exporter.storage import label_json
from exporter.storage.review.correction_history import HistoryPosition
from exporter.storage.review.correction_pages import ORDERS, Position
from exporter.storage.review.corrections import PARAMETERS, STATUSES, VERDICTS, Filter, of_any_label
from exporter.validation import any_of, preview, suggestion

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
"""Corrections on a page: unless the client asks for another number, and at most."""
MAX_SEARCH = 256
"""Characters of a search text."""
MAX_ID = 2**31 - 1
"""The greatest identifier or revision that every database can store."""
_PAGING = ("cursor", "limit", "order")
_JOINED = ("false", "true")


class FoundSlice(NamedTuple):
    """A slice in which corrections were looked for.

    Attributes
    ----------
    description
        What its predictions have in common.
    truncated
        Whether there are older corrections that were not looked at, see `exporter.slices.population.MOST_LOOKED_AT`.
    """

    description: str
    truncated: bool


class QueueQuery(NamedTuple):
    """The filter, order and position of a page of the queue, and the slice of the filter."""

    filter: Filter
    order: str
    limit: int
    after: Position | None
    slice: FoundSlice | None


def parse_query(exporter: Exporter, arguments: Mapping[str, str]) -> QueueQuery:
    """Parse the query string of a page, and find the corrections of the slice that it names.

    Raises
    ------
    EventError
        When a parameter is not valid.
    StoreError
        When the corrections of the slice cannot be read.
    """
    selected = parse_filter(exporter, arguments, _PAGING)
    order = _one_of("order", arguments.get("order", "newest"), ORDERS)
    limit = parse_limit(arguments)
    after = _decode_cursor(order, arguments.get("cursor"))
    selected, found = _select_slice(exporter, selected)
    return QueueQuery(selected, order, limit, after, found)


def parse_limit(arguments: Mapping[str, str]) -> int:
    """Parse the number of entries on a page.

    Raises
    ------
    EventError
        When it is not valid.
    """
    return parse_whole_number("limit", arguments.get("limit"), MAX_LIMIT) or DEFAULT_LIMIT


def parse_history_cursor(arguments: Mapping[str, str]) -> HistoryPosition:
    """Parse the position of a page of a correction's history.

    Raises
    ------
    EventError
        When it is not valid.
    """
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", arguments.get("cursor", "0-0"), re.ASCII)
    position = HistoryPosition(int(match[1]), int(match[2])) if match else HistoryPosition(MAX_ID + 1)
    if max(position) > MAX_ID:
        raise malformed("cursor: expected the cursor in the URL history_next of the page before")
    return position


def parse_filter(exporter: Exporter, arguments: Mapping[str, str], others: tuple[str, ...] = ()) -> Filter:
    """Parse the filter of a query string that may also have the parameters ``others``.

    Raises
    ------
    EventError
        When a parameter is not valid.
    """
    check_parameters(arguments, (*PARAMETERS, *others))
    model, q = arguments.get("model"), arguments.get("q")
    if model is not None and model not in exporter.pipeline.monitors.models:
        hint = suggestion(model, exporter.pipeline.monitors.models)
        raise EventError("", f"no model {preview(model)} is configured; {hint}", "unknown_model")
    if q is not None and len(q) > MAX_SEARCH:
        raise malformed(f"q: expected at most {MAX_SEARCH} characters, got {len(q)}")
    status, joined, suspect = (arguments.get(name) for name in ("status", "joined", "suspect"))
    return Filter(
        model=model,
        version=arguments.get("version"),
        status=None if status is None else _one_of("status", status, STATUSES),
        label=_label(arguments.get("label")),
        predicted=_label(arguments.get("predicted")),
        segment=arguments.get("segment"),
        source=_one_of("source", arguments.get("source", "user"), VERDICTS),
        since=parse_time("since", arguments.get("since")),
        until=parse_time("until", arguments.get("until")),
        confidence_from=_share("confidence_from", arguments.get("confidence_from")),
        confidence_to=_share("confidence_to", arguments.get("confidence_to")),
        error_from=_number("error_from", arguments.get("error_from")),
        error_to=_number("error_to", arguments.get("error_to")),
        q=q or None,
        suspect=None if suspect is None else parse_truth("suspect", suspect),
        alike=parse_whole_number("alike", arguments.get("alike"), MAX_ID),
        where=arguments.get("where"),
        joined=None if joined is None else _one_of("joined", joined, _JOINED) == "true",
        redacted=exporter.redacted,
    )


def _select_slice(exporter: Exporter, chosen: Filter) -> tuple[Filter, FoundSlice | None]:
    """Find the corrections of the slice that a filter names; return the filter with their identifiers."""
    if chosen.where is None:
        return chosen, None
    try:
        model = parse_model(exporter.pipeline.monitors.models, chosen.model)
    except EventError as error:
        raise malformed(f"where: {error.detail}") from None
    binner = exporter.slices.binner(model, chosen.version)
    if binner is None:
        raise malformed(f"where: {preview(model)} has no profile, and slices are combinations of its bins")
    try:
        bins = parse_bins(binner, chosen.where)
    except ValueError as error:
        raise malformed(f"where: {error}") from None
    chosen = chosen._replace(model=model)
    looked_at = of_any_label(chosen)._replace(status=None)  # the page counts other statuses and labels as well
    with exporter.store.reading() as connection:
        ids, truncated = find_corrections(connection, binner, bins, looked_at)
    return chosen._replace(ids=tuple(ids)), FoundSlice(describe(bins, binner), truncated)


def encode_cursor(order: str, position: Position) -> str:
    """Encode the position at which a page ended."""
    snapshot = f",{position.snapshot}" if position.snapshot else ""
    return base64.urlsafe_b64encode(f"{order},{position.key!r},{position.id}{snapshot}".encode()).decode()


def with_new_label(exporter: Exporter, correction: dict[str, Any]) -> dict[str, Any]:
    """Return a correction's document with ``new_label``: whether its label is not among the training predictions."""
    binner = exporter.pipeline.monitors.binner(correction["model"], correction["version"])
    return {**correction, "new_label": is_new(binner, correction["label"])}


def is_new(binner: Binner | None, label: str | float | bool | None) -> bool:
    """Return whether a label is not among the training predictions; false if the profile does not have them all."""
    feature = binner.profile.prediction if binner else None
    if label is None or not isinstance(feature, CategoricalFeature) or len(feature.rare) >= MAX_RARE:
        return False
    name = label if isinstance(label, str) else label_json(label)
    return name not in feature.categories and name not in feature.rare


def _one_of(name: str, text: str, values: tuple[str, ...] | Mapping[str, Any]) -> str:
    if text not in values:
        raise malformed(f"{name}: expected {any_of(sorted(values))}, got {preview(text)}")
    return text


def _label(text: str | None) -> str | None:
    """Return the stored form of a label: JSON as in a correction, anything else is a string."""
    if text is None:
        return None
    try:
        return label_json(msgspec.json.decode(text, type=str | int | float | bool))
    except (msgspec.DecodeError, UnicodeError):
        return label_json(text)


def _share(name: str, text: str | None) -> float | None:
    value = _number(name, text, "a number from 0 to 1")
    if value is not None and not 0 <= value <= 1:
        raise malformed(f"{name}: expected a number from 0 to 1, got {preview(text)}")
    return value


def _number(name: str, text: str | None, expected: str = "a number") -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise malformed(f"{name}: expected {expected}, got {preview(text)}")
    return value


def _decode_cursor(order: str, text: str | None) -> Position | None:
    if text is None:
        return None
    try:
        cursor_order, sort_key, correction_id, *snapshot = base64.urlsafe_b64decode(text).decode().split(",")
        position = Position(float(sort_key), int(correction_id), *map(int, snapshot[:1]))
    except (binascii.Error, ValueError):
        cursor_order, position = "", Position(math.nan, 0)
    if cursor_order in ORDERS and cursor_order != order:
        raise malformed(f"cursor: it belongs to a page in the order {cursor_order}, not {order}")
    is_possible = math.isfinite(position.key) and 0 <= position.id <= MAX_ID and 0 <= position.snapshot < 2**62
    if cursor_order != order or not is_possible:
        raise malformed("cursor: expected the cursor in the URL next of the page before")
    return position
