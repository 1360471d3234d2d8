"""Decode inputs that may be invalid: what cannot be decoded is counted as invalid, never refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec

_decoder = msgspec.json.Decoder(dict[str, Any])
_FLOAT_LIMIT = 10**308
_list_decoder = msgspec.json.Decoder(list[dict[str, Any]])


def decode_inputs(raw: Sequence[bytes]) -> dict[int, dict[str, Any]]:
    """Return the inputs of those events that have any, by the events' indices.

    Parameters
    ----------
    raw
        The JSON of each event's inputs; empty or ``null`` for none.
    """
    indices = [index for index, text in enumerate(raw) if text not in (b"", b"null")]
    try:
        values = _list_decoder.decode(b"[" + b",".join([raw[index] for index in indices]) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        values = [_decode_one(raw[index]) for index in indices]
    return dict(zip(indices, values, strict=True))


def _decode_one(text: bytes) -> dict[str, Any]:
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return lenient_inputs(text)


def lenient_inputs(raw: bytes) -> dict[str, Any]:
    """Return what can be decoded of ``inputs`` that the strict decoder refuses.

    Python's ``NaN`` becomes null. An infinity, or a number that a float cannot hold, becomes its text, and so an
    invalid value. Invalid UTF-8 is replaced.
    """
    try:
        document = json.loads(raw.decode("utf-8", "replace"), parse_int=parse_integer)
    except (ValueError, RecursionError):
        return {}
    cleaned = sanitize(document)
    return cleaned if isinstance(cleaned, dict) else {}


def parse_integer(text: str) -> int | str:
    """Return a JSON integer; one that a float cannot hold stays text."""
    return int(text) if len(text) < 300 else text


def sanitize(value: Any, depth: int = 64) -> Any:
    """Return a decoded document as strict JSON allows it, see `lenient_inputs`; empty below ``depth`` levels."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value) if abs(value) < _FLOAT_LIMIT else str(value)
    if isinstance(value, list):
        return [sanitize(item, depth - 1) for item in value] if depth else []
    if isinstance(value, dict):
        return {sanitize(key): sanitize(item, depth - 1) for key, item in value.items()} if depth else {}
    return value
