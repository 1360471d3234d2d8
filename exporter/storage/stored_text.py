"""How labels, predictions and other texts are written in the tables, and how they and times are read from them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import msgspec

from exporter.features.extract import scalar_text


def label_json(value: Any) -> str | None:
    """Encode a label or a prediction as the stored JSON text; None stays None."""
    return None if value is None else msgspec.json.encode(value).decode()


def label_spellings(stored: str) -> set[str]:
    """Return the stored labels that are the same label as a stored one: as in profiles, 7, 7.0 and "7" are.

    >>> sorted(label_spellings("7")), label_spellings('"yes"')
    (['"7"', '7', '7.0'], {'"yes"'})
    >>> sorted(label_spellings("-0.0"))
    ['"0"', '-0.0', '0', '0.0']
    """
    try:
        text = scalar_text(msgspec.json.decode(stored))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # an older version, or another program, wrote it
        return {stored}
    spellings = {stored, msgspec.json.encode(text).decode()}
    with contextlib.suppress(msgspec.MsgspecError, ValueError, OverflowError):
        value = msgspec.json.decode(text, type=int | float | bool)
        numbers = (value, float(value), -float(value)) if type(value) is int else (value,)  # the last one for -0.0
        spellings |= {msgspec.json.encode(same).decode() for same in numbers if scalar_text(same) == text}
    return spellings


def storable(text: str) -> str:
    """Replace NUL in a text, which PostgreSQL does not accept."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def decode_label(text: str | None) -> Any:
    """Decode a stored label or prediction; None if it cannot be read."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def rfc3339(seconds: float | None) -> str | None:
    """Format Unix time as RFC 3339; None for a time that has no year of four digits.

    >>> rfc3339(1795514400.0), rfc3339(-62135600400.0)
    ('2026-11-24T10:00:00Z', None)
    """
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None
