"""The JSON of inputs as the store has it: read it whatever it holds, and remove inputs from it.

An older version, or another program, may have written it: nothing in it raises an error here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from exporter.features.lenient_json import lenient_inputs
from exporter.features.png_codec import escape_prefix

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_values = msgspec.json.Decoder(dict[str, Any])
_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError)


def readable(text: str) -> str:
    """Return stored inputs as JSON that every program can read, unchanged if they are; empty for no JSON object.

    >>> readable('{"a": 1.50}'), readable('{"a": 1e999}'), readable("{")
    ('{"a": 1.50}', '{"a":"inf"}', '')
    """
    if not text:
        return ""
    try:
        _values.decode(text)
    except _ERRORS:
        decoded = lenient_inputs(text.encode("utf-8", "replace"))
        return msgspec.json.encode(decoded).decode() if decoded else ""
    return text


def remove_inputs(text: str, names: Collection[str]) -> str:
    """Return stored inputs without the named ones, in canonical JSON; unchanged if they hold none of them.

    >>> remove_inputs('{"n\\\\u0061me": "Ada", "age": 41}', {"name"}), remove_inputs('{"name"', {"name"})
    ('{"age":41}', '')
    """
    # Without an escape sequence, a name in the JSON is written as it is.
    if not names or ("\\" not in text and not any(name in text for name in names)):
        return text
    try:
        members = {name: raw for name, raw in _members.decode(text).items() if name not in names}
        parts = [f"{_canonical_json(name)}:{_canonical(bytes(raw).decode())}" for name, raw in members.items()]
        return f"{{{','.join(parts)}}}"
    except _ERRORS:
        decoded = lenient_inputs(text.encode("utf-8", "replace"))
    return _canonical_json({name: value for name, value in decoded.items() if name not in names}) if decoded else ""


def _canonical(value: str) -> str:
    """Return JSON without needless escape sequences; a packed image, which has none, stays as it is."""
    return _canonical_json(msgspec.json.decode(value)) if "\\" in value else value


def _canonical_json(value: Any) -> str:
    return escape_prefix(msgspec.json.encode(value)).decode()
