"""Decoded requests and responses of any format, and the helpers that decode them within bounds."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgspec

from exporter.errors import EventError
from exporter.features.json_inputs import parse_integer, sanitize
from exporter.validation import explain, json_pointer
from exporter.wire.events import NO_EVENTS

MAX_BODY = 16 * 2**20
"""Bytes of a body, also decompressed."""
MAX_ROWS = 50_000
"""Predictions in one body."""
MAX_CONTAINERS = 2_000_000
"""Arrays and objects in one body: decoded, small ones take much more memory than their JSON."""
MAX_CELLS = 5_000_000
"""Values of a table whose rows are objects with different members."""

_GZIP = b"\x1f\x8b"
_SCANNER = json.JSONDecoder(parse_int=parse_integer)
_T = TypeVar("_T")
_P = ParamSpec("_P")


class Column(NamedTuple):
    """A tensor or a column.

    Attributes
    ----------
    name
        The name of the tensor or column, or of the member of the body that holds it.
    values
        One value per row: a scalar, or nested lists.
    names
        Names of the elements of each value, if the format has them: columns or classes.
    """

    name: str
    values: Sequence[Any]
    names: tuple[str, ...] = ()


class Payload(NamedTuple):
    """A decoded request or response.

    Attributes
    ----------
    columns
        Inputs of a request, outputs of a response.
    id
        The identifier in the payload.
    model, version
        The server's names for them, if the format has them.
    failed
        Whether the payload is an error message instead of outputs.
    """

    columns: Sequence[Column]
    id: str | None = None
    model: str | None = None
    version: str | None = None
    failed: bool = False


def decode_json(body: bytes, json_length: int | None = None) -> tuple[Any, bytes]:
    """Decode the JSON at the beginning of a body, and return it with the bytes after it.

    Parameters
    ----------
    body
        JSON, with Python's ``NaN`` and ``Infinity`` allowed, and the data of the binary extension after it.
    json_length
        Bytes of JSON, if the sender declared them; otherwise the end of the JSON is detected.

    Raises
    ------
    EventError
        When the body does not begin with JSON, or the JSON is too large.
    """
    if json_length is not None and not 0 < json_length <= len(body):
        detail = f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes"
        raise EventError("", detail, "malformed")
    text, rest = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    check_size(text)
    try:
        return msgspec.json.decode(text), rest
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        string = text.decode("utf-8", "surrogateescape").lstrip()
        value, end = _SCANNER.raw_decode(string)
    except (ValueError, RecursionError) as error:
        detail = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise EventError("", f"the body {detail}", "malformed") from None
    after = string[end:].encode("utf-8", "surrogateescape")
    if not after.strip():
        return sanitize(value), rest
    if json_length is not None:
        raise EventError("", "the JSON ends before Inference-Header-Content-Length", "malformed")
    return sanitize(value), after


def decode_one(text: bytes) -> Any:
    """Return the document of a body that must hold nothing else."""
    document, rest = decode_json(text)
    if rest:
        raise EventError("", "the body is not JSON: data follows the first value", "malformed")
    return document


def attempt(read: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | EventError:
    """Call a function, and return the `EventError` that it raises: of several items, one that is wrong costs itself."""
    try:
        return read(*args, **kwargs)
    except EventError as error:
        return error


def split_documents(body: bytes, ndjson: bool) -> Iterator[Any]:
    """Yield the documents in a body: one object, the entries of an array, or the lines of NDJSON.

    A line that is not JSON is yielded as an `EventError`.

    Raises
    ------
    EventError
        When the body is not JSON, or has no document.
    """
    documents: Iterator[Any]
    if ndjson:
        documents = (attempt(decode_one, line) for line in io.BytesIO(body) if line.strip())
    else:
        document = decode_one(body)
        documents = iter(document if isinstance(document, list) else [document])
    is_empty = True
    for document in documents:
        is_empty = False
        yield document
    if is_empty:
        raise EventError("", NO_EVENTS, "malformed")


def decompress(body: bytes) -> bytes:
    """Decompress a gzip body of at most `MAX_BODY` bytes.

    Raises
    ------
    EventError
        When the body is larger, or not gzip.
    """
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        result = decompressor.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise EventError("", "the body is not gzip", "malformed") from None
    if len(result) > MAX_BODY:
        raise EventError("", f"the body has more than {MAX_BODY} bytes decompressed", "too_large")
    if not decompressor.eof or decompressor.unused_data:
        raise EventError("", "the body is truncated gzip, or has data after it", "malformed")
    return result


def decompress_if_gzip(body: bytes) -> bytes:
    """Decompress a body that was logged as it was compressed for its client; see `decompress`."""
    return decompress(body) if body.startswith(_GZIP) else body


def check_size(text: bytes) -> None:
    """Refuse JSON that would take much more memory decoded than encoded.

    Raises
    ------
    EventError
        When it may have more than `MAX_CONTAINERS`.
    """
    if text.count(b"[") + text.count(b"{") > MAX_CONTAINERS:
        raise EventError("", f"the body has more than {MAX_CONTAINERS} arrays and objects", "too_large")


def convert(value: Any, expected: type[_T], at: tuple[str | int, ...] = (), strict: bool = True) -> _T:
    """Convert a part of a document to a typed value; unless ``strict``, also a number from its text.

    Raises
    ------
    EventError
        With a pointer to the wrong part below ``at``.
    """
    try:
        return msgspec.convert(value, expected, strict=strict)
    except msgspec.ValidationError as error:
        path, detail, reason = explain(error, value)
        raise EventError(json_pointer((*at, *path)), detail, reason) from None


def columns_of_rows(rows: Sequence[Any], name: str) -> list[Column]:
    """Turn rows into columns: one per member when the rows are objects, otherwise a single one."""
    if not rows or not all(isinstance(row, dict) for row in rows):
        return [Column(name, [unwrap_base64(row) for row in rows])]
    if all(row.keys() == {"b64"} for row in rows):
        return [Column(name, [row["b64"] for row in rows])]
    members = dict.fromkeys(member for row in rows for member in row)
    if len(members) * len(rows) > MAX_CELLS:
        detail = f"{len(rows)} objects with {len(members)} different members are more than {MAX_CELLS} values"
        raise EventError(f"/{name}", detail, "too_large")
    return [Column(member, [unwrap_base64(row.get(member)) for row in rows]) for member in members]


def unwrap_base64(value: Any) -> Any:
    """Return the base64 in ``{"b64": …}``, and any other value unchanged."""
    return value["b64"] if isinstance(value, dict) and value.keys() == {"b64"} else value


def named_columns(value: Any, name: str) -> list[Column]:
    """Read TensorFlow Serving's ``inputs`` or ``outputs``: an object of columns, or a single column."""
    if isinstance(value, Mapping):
        return [Column(member, as_rows(cells)) for member, cells in value.items()]
    return columns_of_rows(as_rows(value), name)


def as_rows(value: Any) -> list[Any]:
    """Return the rows of a list; any other value is a single row."""
    return [unwrap_base64(row) for row in value] if isinstance(value, list) else [unwrap_base64(value)]


def reshape(values: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """Reshape flat row-major values to nested rows; a shape without dimensions is one row."""
    for size in reversed(shape[1:]):
        values = [list(values[start : start + size]) for start in range(0, len(values), size)]
    return list(values)
