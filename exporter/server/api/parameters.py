"""Parameters in the query and JSON bodies: checked, with errors that say what would be right."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TypeVar

import msgspec

from exporter.errors import EventError
from exporter.storage import STATUSES
from exporter.validation import any_of, explain, json_pointer, preview, suggestion
from exporter.wire.events import check_model

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
"""Corrections on a page: unless the client asks for another number, and at most."""
MAX_SEARCH = 256
"""Characters of a search text."""
MAX_ID = 2**31 - 1
"""The greatest identifier or revision that every database can store."""

_Body = TypeVar("_Body", bound=msgspec.Struct)


def malformed(detail: str) -> EventError:
    """Return the error for a parameter."""
    return EventError("", detail, "malformed")


def check_parameters(arguments: Mapping[str, str], names: Collection[str]) -> None:
    """Check that all parameters are known and hold text that can be stored."""
    for name, text in arguments.items():
        if name not in names:
            raise malformed(f"the parameter {preview(name)} is not known; {suggestion(name, names)}")
        if "\0" in text:
            raise malformed(f"{name}: expected text without the character NUL")


def parse_model(models: Collection[str], name: str | None) -> str:
    """Return the name of a configured model; the only one where none is named."""
    if name:
        check_model(models, name)
        return name
    if not models:
        raise EventError("", "model: is required, and no model is configured", "missing_field")
    if len(models) != 1:
        raise EventError("", f"model: is required, one of {any_of(map(preview, models))}", "missing_field")
    return next(iter(models))


def parse_whole_number(name: str, text: str | None, most: int) -> int | None:
    """Return a parameter from 1 to ``most``."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise malformed(f"{name}: expected a whole number from 1 to {most}, got {preview(text)}")
    return int(text)


def parse_truth(name: str, text: str | None) -> bool:
    """Return whether a parameter is ``true``; False without one."""
    if text not in (None, "true", "false"):
        raise malformed(f"{name}: expected true or false, got {preview(text)}")
    return text == "true"


def parse_ids(text: str | None) -> bool:
    """Return whether the parameter ``ids`` asks for the identifiers of the accepted events."""
    if text not in (None, "0", "1"):
        raise malformed(f"ids: expected 1 or 0, got {preview(text)}")
    return text == "1"


def parse_time(name: str, text: str | None) -> float | None:
    """Return a time in Unix seconds; other forms of ISO 8601 than those of RFC 3339 are read as well."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        expected = 'an RFC 3339 time with a zone such as "2026-11-24T10:00:00Z"'
        raise malformed(f"{name}: expected {expected}, got {preview(text)}")
    return time.timestamp()


def parse_json(body: bytes) -> object:
    """Return the document of a body."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed("the body is not JSON") from None


def convert_body(struct: type[_Body], document: object) -> _Body:
    """Return a document as a struct."""
    try:
        return msgspec.convert(document, struct)
    except msgspec.ValidationError as error:
        path, detail, reason = explain(error, document, struct.__struct_fields__, {"status": STATUSES})
        raise EventError(json_pointer(path), detail, reason) from None
