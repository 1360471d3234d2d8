"""What a request asks of the review queue, and what it is told of a label."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec

from exporter.errors import EventError
from exporter.monitoring.binner import Binner
from exporter.profiles.profile import MAX_RARE, CategoricalFeature
from exporter.server.application import Exporter
from exporter.storage.corrections import ORDERS, STATUSES, VERDICTS, Filter, Position
from exporter.storage.schema import spelling
from exporter.validation import any_of, preview, suggestion

LIMIT, MOST = 100, 1000
"""Corrections on a page when the client does not say, and at the most."""
LONGEST_SEARCH = 256
"""Characters of a text to search for."""
MAX_PLACE = 2**31 - 1
"""The greatest identifier or revision that every database can hold."""
_PAGING = ("cursor", "limit", "order")


class QueueQuery(NamedTuple):
    """A page of the queue."""

    chosen: Filter
    order: str
    limit: int
    after: Position | None


def parse_query(exporter: Exporter, arguments: Mapping[str, str]) -> QueueQuery:
    """The page that a query string asks for.

    Raises
    ------
    EventError
        What is wrong with it.
    """
    chosen = filtered(exporter, arguments, _PAGING)
    order = _one_of("order", arguments.get("order", "newest"), ORDERS)
    limit = arguments.get("limit", str(LIMIT))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST):
        raise _wrong(f"limit: expected a whole number from 1 to {MOST}, got {preview(limit)}")
    return QueueQuery(chosen, order, int(limit), _place(order, arguments.get("cursor")))


def filtered(exporter: Exporter, arguments: Mapping[str, str], others: tuple[str, ...] = ()) -> Filter:
    """The filter of a query string, in which ``others`` may stand too.

    Raises
    ------
    EventError
        What is wrong with it.
    """
    known = (*Filter._fields, *others)
    for name, text in arguments.items():
        if name not in known:
            raise _wrong(f"the parameter {preview(name)} is not known; {suggestion(name, known)}")
        if "\0" in text:
            raise _wrong(f"{name}: expected text without the character NUL")
    model, q = arguments.get("model"), arguments.get("q")
    if model is not None and model not in exporter.pipeline.monitors.models:
        hint = suggestion(model, exporter.pipeline.monitors.models)
        raise EventError("", f"no model {preview(model)} is configured; {hint}", "unknown_model")
    if q is not None and len(q) > LONGEST_SEARCH:
        raise _wrong(f"q: expected at most {LONGEST_SEARCH} characters, got {len(q)}")
    status = arguments.get("status")
    return Filter(
        model=model,
        version=arguments.get("version"),
        status=None if status is None else _one_of("status", status, STATUSES),
        label=_label(arguments.get("label")),
        predicted=_label(arguments.get("predicted")),
        segment=arguments.get("segment"),
        source=_one_of("source", arguments.get("source", "user"), VERDICTS),
        since=_time("since", arguments.get("since")),
        until=_time("until", arguments.get("until")),
        confidence_from=_share("confidence_from", arguments.get("confidence_from")),
        confidence_to=_share("confidence_to", arguments.get("confidence_to")),
        q=q or None,
    )


def cursor(order: str, place: Position) -> str:
    """Where a page ended, as the client gets it."""
    return base64.urlsafe_b64encode(f"{order},{place[0]!r},{place[1]}".encode()).decode()


def marked(exporter: Exporter, correction: dict[str, Any]) -> dict[str, Any]:
    """A correction's document with ``new_label``: whether training never saw such a prediction."""
    binner = exporter.pipeline.monitors.binner(correction["model"], correction["version"])
    return {**correction, "new_label": is_new(binner, correction["label"])}


def is_new(binner: Binner | None, label: str | float | bool | None) -> bool:
    """Whether a label is not among the profile's predictions; never where the profile cannot know."""
    feature = binner.profile.prediction if binner else None
    if label is None or not isinstance(feature, CategoricalFeature) or len(feature.rare) >= MAX_RARE:
        return False
    name = label if isinstance(label, str) else spelling(label)
    return name not in feature.categories and name not in feature.rare


def _wrong(detail: str) -> EventError:
    return EventError("", detail, "malformed")


def _one_of(name: str, text: str, known: tuple[str, ...] | Mapping[str, Any]) -> str:
    if text not in known:
        raise _wrong(f"{name}: expected {any_of(sorted(known))}, got {preview(text)}")
    return text


def _label(text: str | None) -> str | None:
    """A label as it is stored: JSON as it stands in a correction, anything else is a string."""
    if text is None:
        return None
    try:
        return spelling(msgspec.json.decode(text, type=str | int | float | bool))
    except (msgspec.DecodeError, UnicodeError):
        return spelling(text)


def _time(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment: datetime = msgspec.convert(text, Annotated[datetime, msgspec.Meta(tz=True)])
    except msgspec.ValidationError:
        raise _wrong(f'{name}: expected an RFC 3339 time such as "2026-11-24T10:00:00Z", got {preview(text)}') from None
    return moment.timestamp()


def _share(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise _wrong(f"{name}: expected a number from 0 to 1, got {preview(text)}")
    return value


def _place(order: str, text: str | None) -> Position | None:
    if text is None:
        return None
    try:
        of, key, place = base64.urlsafe_b64decode(text).decode().split(",")
        found = float(key), int(place)
    except (binascii.Error, ValueError):
        of, found = "", (math.nan, 0)
    if of in ORDERS and of != order:
        raise _wrong(f"cursor: it is of a page in the order {of}, not {order}")
    if of != order or not math.isfinite(found[0]) or not 0 <= found[1] <= MAX_PLACE:
        raise _wrong("cursor: expected what the page before calls next")
    return found
