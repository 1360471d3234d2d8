"""What a request or a response says, whatever its format."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from exporter.errors import EventError
from exporter.features.lenient_json import parse_integer, sanitize
from exporter.validation import explain, json_pointer

MAX_ROWS = 50_000
"""Predictions of one body."""
MAX_CONTAINERS = 2_000_000
"""Arrays and objects of one body: small ones take far more memory decoded than written."""
MAX_CELLS = 5_000_000
"""Values of a table that is written as objects, each with members of its own."""

_GZIP = b"\x1f\x8b"
_SCANNER = json.JSONDecoder(parse_int=parse_integer)
_T = TypeVar("_T")


class Column(NamedTuple):
    """A tensor or a column.

    Attributes
    ----------
    name
        The tensor's or the column's; that of the member of the body where it has none of its own.
    values
        One value a row: a scalar, or nested lists.
    names
        Names of the places of each value, where the format has them: columns, or classes.
    """

    name: str
    values: Sequence[Any]
    names: tuple[str, ...] = ()


class Body(NamedTuple):
    """A decoded request or response.

    Attributes
    ----------
    columns
        Inputs of a request, outputs of a response.
    id
        Its own identifier, if it has one.
    model, version
        As the server calls them, where the format says it.
    failed
        Whether it is an error message in place of outputs.
    """

    columns: Sequence[Column]
    id: str | None = None
    model: str | None = None
    version: str | None = None
    failed: bool = False


def document(body: bytes, head: int | None = None) -> tuple[Any, bytes]:
    """The JSON of a body, and the bytes behind it.

    Parameters
    ----------
    body
        JSON, Python's ``NaN`` and ``Infinity`` allowed, and what the binary extension puts behind it.
    head
        Bytes of the JSON, if the sender said so; found out otherwise.

    Raises
    ------
    EventError
        When there is no JSON at the beginning, or too much of it.
    """
    if head is not None and not 0 < head <= len(body):
        detail = f"Inference-Header-Content-Length is {head}, but the body has {len(body)} bytes"
        raise EventError("", detail, "malformed")
    text, rest = (body, b"") if head is None else (body[:head], body[head:])
    check_size(text)
    try:
        return msgspec.json.decode(text), rest
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        string = text.decode("utf-8", "surrogateescape").lstrip()
        found, end = _SCANNER.raw_decode(string)
    except (ValueError, RecursionError) as error:
        detail = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise EventError("", f"the body {detail}", "malformed") from None
    after = string[end:].encode("utf-8", "surrogateescape")
    if head is not None and after.strip():
        raise EventError("", "the JSON ends before Inference-Header-Content-Length", "malformed")
    return sanitize(found), rest if head is not None else after if after.strip() else b""


def decompressed(body: bytes, most: int) -> bytes:
    """A gzip body, at most ``most`` bytes of it.

    Raises
    ------
    EventError
        When it is more, or is not gzip.
    """
    parts = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        found = parts.decompress(body, most + 1)
    except zlib.error:
        raise EventError("", "the body is not gzip", "malformed") from None
    if len(found) > most:
        raise EventError("", f"the body has more than {most} bytes decompressed", "too_large")
    if not parts.eof or parts.unused_data:
        raise EventError("", "the body does not end where its gzip does", "malformed")
    return found


def unpacked(body: bytes, most: int) -> bytes:
    """A body that may have been logged as it was compressed for its client; see `decompressed`."""
    return decompressed(body, most) if body.startswith(_GZIP) else body


def check_size(text: bytes) -> None:
    """Refuse JSON that would take far more memory decoded than written.

    Raises
    ------
    EventError
        When it may have more than `MAX_CONTAINERS`.
    """
    if text.count(b"[") + text.count(b"{") > MAX_CONTAINERS:
        raise EventError("", f"the body has more than {MAX_CONTAINERS} arrays and objects", "too_large")


def convert(value: Any, kind: type[_T], at: tuple[str | int, ...] = ()) -> _T:
    """A part of a document as a typed value.

    Raises
    ------
    EventError
        With the pointer to what was wrong below ``at``.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        path, detail, reason = explain(error, value)
        raise EventError(json_pointer((*at, *path)), detail, reason) from None


def table(items: Sequence[Any], name: str) -> list[Column]:
    """Rows as columns: one for each member where the rows are objects, one of all otherwise."""
    if not items or not all(isinstance(item, dict) for item in items):
        return [Column(name, [plain(item) for item in items])]
    if all(item.keys() == {"b64"} for item in items):
        return [Column(name, [item["b64"] for item in items])]
    names = dict.fromkeys(key for item in items for key in item)
    if len(names) * len(items) > MAX_CELLS:
        detail = f"{len(items)} objects with {len(names)} different members are more than {MAX_CELLS} values"
        raise EventError(f"/{name}", detail, "too_large")
    return [Column(key, [plain(item.get(key)) for item in items]) for key in names]


def plain(value: Any) -> Any:
    """A value, or the base64 in ``{"b64": …}``."""
    return value["b64"] if isinstance(value, dict) and value.keys() == {"b64"} else value


def columnar(value: Any, name: str) -> list[Column]:
    """Columns of a TensorFlow Serving ``inputs`` or ``outputs``: an object of them, or a single one."""
    if isinstance(value, Mapping):
        return [Column(key, rows(cells)) for key, cells in value.items()]
    return table(rows(value), name)


def rows(value: Any) -> list[Any]:
    """A list as it is, anything else as its only row."""
    return [plain(item) for item in value] if isinstance(value, list) else [plain(value)]


def nested(values: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """Flat values, row-major, in rows of the shape; a shape without dimensions is one row."""
    for size in reversed(shape[1:]):
        values = [list(values[start : start + size]) for start in range(0, len(values), size)]
    return list(values)
