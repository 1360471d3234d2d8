"""Detect the format of a payload, and decode it: Open Inference Protocol, TensorFlow Serving, MLflow, TorchServe."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgspec
import numpy as np

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from exporter.errors import EventError
from exporter.features.json_inputs import parse_integer, sanitize
from exporter.validation import any_of, explain, json_pointer, preview, suggestion
from exporter.wire.events import MAX_OBJECTS, NO_EVENTS, check_size

MAX_BODY = 16 * 2**20
"""Bytes of a body, also decompressed."""
MAX_ROWS = 50_000
"""Predictions in one body."""
MAX_UNPACKED = 2 * MAX_BODY
"""Bytes of all compressed bodies in one request, unpacked."""
MAX_CELLS = 2_000_000
"""Values of a table whose rows are objects with different members."""

_GZIP = b"\x1f\x8b"
_SCANNER = json.JSONDecoder(parse_int=parse_integer)
unpacked: ContextVar[int] = ContextVar("unpacked", default=0)
"""Bytes that have been unpacked in this context."""
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


ENCODINGS: Mapping[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "zstd": lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 23}),
}
"""How bodies may be compressed; zstd in a window of 8 MiB, the most that decoders must support by RFC 8878."""


def decompress(body: bytes, encoding: str = "gzip") -> bytes:
    """Decompress a body of at most `MAX_BODY` bytes.

    Raises
    ------
    EventError
        When the body is larger, or not compressed so, or in an unknown encoding.
    """
    if encoding not in ENCODINGS:
        raise EventError("", f"the body may be compressed with {any_of(ENCODINGS)} only", "malformed")
    decompressor = ENCODINGS[encoding]()
    try:
        result: bytes = decompressor.decompress(body, MAX_BODY + 1)
    except (zlib.error, zstd.ZstdError):
        raise EventError("", f"the body is not {encoding}", "malformed") from None
    unpacked.set(unpacked.get() + len(result))
    if len(result) > MAX_BODY:
        raise EventError("", f"the body has more than {MAX_BODY} bytes decompressed", "too_large")
    if not decompressor.eof or decompressor.unused_data:
        raise EventError("", f"the body is truncated {encoding}, or has data after it", "malformed")
    return result


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


def reshape(values: list[Any], shape: Sequence[int]) -> list[Any]:
    """Reshape flat row-major values to nested rows; a shape without dimensions is one row."""
    for size in reversed(shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size)]
    return values


_DTYPES = {"BOOL": "<u1", "BF16": "<u2"} | {
    f"{name}{8 * size}": f"<{code}{size}"
    for name, code, sizes in (("UINT", "u", (1, 2, 4, 8)), ("INT", "i", (1, 2, 4, 8)), ("FP", "f", (2, 4, 8)))
    for size in sizes
}
DATATYPES = (*_DTYPES, "BYTES")
"""Valid datatypes of a tensor."""
_DIMENSIONS = 16
_INFINITE = {"inf", "-inf"}  # how `sanitize` writes numbers that JSON does not have


class Tensor(msgspec.Struct):
    """An input or an output in the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] | None = None


def read_tensors(document: Mapping[str, Any], member: str, rest: bytes = b"") -> Payload:
    """Decode a request or a response.

    Parameters
    ----------
    document
        Its JSON.
    member
        ``inputs`` or ``outputs``.
    rest
        The bytes after the JSON: the data of the tensors with a ``binary_data_size``, in order.

    Raises
    ------
    EventError
        When the data of a tensor do not match its shape or its datatype.
    """
    columns = []
    for index, tensor in enumerate(convert(document[member], list[Tensor], (member,))):
        at = f"/{member}/{index}"
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            columns.append(Column(tensor.name, _decode_json_data(tensor, at)))
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            detail = f"expected a size of at most the {len(rest)} bytes that follow, got {preview(size)}"
            raise EventError(f"{at}/parameters/binary_data_size", detail, "malformed")
        columns.append(Column(tensor.name, _decode_binary_data(tensor, rest[:size], at)))
        rest = rest[size:]
    if rest:
        raise EventError("", f"the last {len(rest)} bytes do not belong to any tensor", "malformed")
    names = {key: value for key in ("id", "model_name", "model_version") if (value := document.get(key)) is not None}
    for key, value in names.items():
        if not isinstance(value, str):
            raise EventError(f"/{key}", f"expected a string, got {preview(value)}", "wrong_type")
    return Payload(columns, names.get("id") or None, names.get("model_name"), names.get("model_version"))


def _size(tensor: Tensor, at: str) -> int:
    """Return the number of values in a tensor of this shape, after checking datatype and shape."""
    shape = tensor.shape
    if tensor.datatype not in DATATYPES:
        detail = f"{preview(tensor.datatype)} is not a valid datatype; {suggestion(tensor.datatype, DATATYPES)}"
        raise EventError(f"{at}/datatype", detail, "wrong_type")
    if len(shape) > _DIMENSIONS or any(size < 0 for size in shape) or 0 in shape[1:]:
        detail = f"expected at most {_DIMENSIONS} sizes, the first from 0, others from 1, got {preview(shape)}"
        raise EventError(f"{at}/shape", detail, "out_of_range")
    if (arrays := sum(math.prod(shape[:depth]) for depth in range(1, len(shape)))) > MAX_OBJECTS:
        raise EventError(f"{at}/shape", f"makes {arrays:,} arrays, {MAX_OBJECTS:,} are the most", "too_large")
    return math.prod(shape)


def _decode_json_data(tensor: Tensor, at: str) -> list[Any]:
    """Decode the rows of a tensor whose data are JSON, flat or nested."""
    size = _size(tensor, at)
    at = f"{at}/data"
    if not isinstance(tensor.data, list):
        raise EventError(at, "is required, an array", "missing_field")
    values = _flatten(tensor, at)
    if len(values) != size:
        raise _shape_error(tensor, at, f", got {len(values)}")
    _check_values(tensor.datatype, values, at)
    if tensor.datatype == "BOOL":
        values = [bool(value) for value in values]
    return reshape(values, tensor.shape)


def _flatten(tensor: Tensor, at: str) -> list[Any]:
    values: list[Any] = tensor.data
    for depth, size in enumerate(tensor.shape[1:]):
        if not values or not isinstance(values[0], list):
            break
        if set(map(type, values)) != {list} or len(values) != math.prod(tensor.shape[: depth + 1]):
            raise _shape_error(tensor, at)
        if set(map(len, values)) != {size}:
            raise _shape_error(tensor, at)
        values = list(itertools.chain.from_iterable(values))
    return values


def _check_values(datatype: str, values: list[Any], at: str) -> None:
    types = set(map(type, values))
    if datatype == "BYTES":
        _expect(types <= {str}, at, "strings")
    elif datatype == "BOOL":
        _expect(types <= {bool, int} and {0, 1} >= set(values), at, "true and false")
    elif datatype[:2] in {"FP", "BF"}:
        texts = {value for value in values if type(value) is str} if str in types else set()
        _expect(types <= {int, float, str, type(None)} and texts <= _INFINITE, at, "numbers")
    else:
        _expect(types <= {int}, at, "whole numbers")
        bounds = np.iinfo(_DTYPES[datatype])
        if values and not bounds.min <= min(values) <= max(values) <= bounds.max:
            raise EventError(at, f"expected {datatype}, from {bounds.min} to {bounds.max}", "out_of_range")


def _shape_error(tensor: Tensor, at: str, got: str = "") -> EventError:
    size = math.prod(tensor.shape)
    detail = f"expected the {size} value{'' if size == 1 else 's'} of shape {preview(tensor.shape)}{got}"
    return EventError(at, detail, "malformed")


def _expect(condition: bool, at: str, what: str) -> None:
    if not condition:
        raise EventError(at, f"expected only {what}", "wrong_type")


def _decode_binary_data(tensor: Tensor, raw: bytes, at: str) -> list[Any]:
    """Decode the rows of a tensor whose data are little-endian bytes."""
    size, datatype = _size(tensor, at), tensor.datatype
    if datatype == "BYTES":
        return reshape(_decode_strings(raw, size, at), tensor.shape)
    dtype = np.dtype(_DTYPES[datatype])
    if len(raw) != size * dtype.itemsize:
        detail = f"{datatype} of shape {preview(tensor.shape)} takes {size * dtype.itemsize} bytes, got {len(raw)}"
        raise EventError(f"{at}/parameters/binary_data_size", detail, "malformed")
    array = np.frombuffer(raw, dtype)
    if datatype == "BOOL":
        array = array != 0
    elif datatype == "BF16":  # the upper half of a 32-bit float
        array = (array.astype("<u4") << 16).view("<f4")
    finite = array.dtype.kind != "f" or np.isfinite(array).all()
    values = array.tolist()
    return reshape(values if finite else sanitize(values), tensor.shape)


def _decode_strings(raw: bytes, count: int, at: str) -> list[str]:
    """Decode strings, each after its length in four bytes; what is not UTF-8 becomes base64, as images are sent."""
    texts: list[str] = []
    end = 0
    while end < len(raw) and len(texts) < count:
        (length,) = struct.unpack_from("<I", raw, end) if end + 4 <= len(raw) else (len(raw),)
        end += 4 + length
        if end > len(raw):
            break
        item = raw[end - length : end]
        try:
            texts.append(item.decode())
        except UnicodeDecodeError:
            texts.append(base64.b64encode(item).decode())
    if end != len(raw) or len(texts) != count:
        detail = f"expected {count} strings, each after its length in four bytes, in {len(raw)} bytes"
        raise EventError(f"{at}/parameters/binary_data_size", detail, "malformed")
    return texts


_REQUEST_MEMBERS = "inputs, instances, dataframe_split and dataframe_records"
_RESPONSE_MEMBERS = "outputs, predictions and error"


def decode_request(body: Any, json_length: int | None = None) -> Payload:
    """Decode the inputs of a request.

    Parameters
    ----------
    body
        As it was sent, compressed by gzip or not; or the document that its JSON holds.
    json_length
        The ``Inference-Header-Content-Length``, if it is known.

    Raises
    ------
    EventError
        When the format is unknown, or the body is not valid in its format.
    """
    document = _decode_body(body, json_length, "inputs")
    if isinstance(document, Payload):
        return document
    if isinstance(document, list):
        return Payload(columns_of_rows(document, "instances"))
    if isinstance(document, Mapping) and (columns := _request_columns(document)) is not None:
        return Payload(columns)
    raise EventError("", f"expected a request, an object with one of {_REQUEST_MEMBERS}", "missing_field")


def _request_columns(document: Mapping[str, Any]) -> list[Column] | None:
    """Read the columns of TensorFlow Serving's and MLflow's requests; None for any other document."""
    if "dataframe_split" in document:
        return [_split_frame(document["dataframe_split"])]
    for member in ("instances", "dataframe_records"):
        if member in document:
            return columns_of_rows(convert(document[member], list[Any], (member,)), member)
    return named_columns(document["inputs"], "inputs") if "inputs" in document else None


def decode_response(body: Any, json_length: int | None = None) -> Payload:
    """Decode the outputs of a response; see `decode_request`."""
    document = _decode_body(body, json_length, "outputs")
    if isinstance(document, Payload):
        return document
    if not isinstance(document, Mapping):
        return Payload(columns_of_rows(as_rows(document), "predictions"))
    version = document.get("model_version")
    version = version if isinstance(version, str) else None
    for member in ("predictions", "outputs"):
        if member in document:
            return Payload(named_columns(document[member], member), version=version)
    if document.get("error") is not None:
        return Payload([], failed=True)
    if document and all(type(score) in {int, float} for score in document.values()):  # TorchServe: scores by label
        return Payload([Column("predictions", [list(document.values())], tuple(document))])
    raise EventError("", f"expected a response, an object with one of {_RESPONSE_MEMBERS}", "missing_field")


def _decode_body(body: Any, json_length: int | None, member: str) -> Any:
    """Return the tensors of a body, or else its document; it may be logged as it was compressed for its client."""
    document, rest = body, b""
    if isinstance(body, bytes):
        document, rest = decode_json(decompress(body) if body.startswith(_GZIP) else body, json_length)
    if isinstance(document, Mapping) and {"specversion", "data"} <= document.keys():  # CloudEvents' structured mode
        document = document["data"]
    tensors = document.get(member) if isinstance(document, Mapping) else None
    if isinstance(tensors, list) and (not tensors or (isinstance(tensors[0], Mapping) and "datatype" in tensors[0])):
        return read_tensors(document, member, rest)
    if rest:
        raise EventError("", f"the {len(rest)} bytes after the JSON do not belong to any tensor", "malformed")
    return document


def _split_frame(value: Any) -> Column:
    """Read MLflow's ``dataframe_split``."""
    member = "dataframe_split"
    frame = convert(value, dict[str, Any], (member,))
    names = tuple(str(name) for name in convert(frame.get("columns", []), list[str | int], (member, "columns")))
    rows = convert(frame.get("data"), list[list[Any]], (member, "data"))
    for index, row in enumerate(rows):
        if names and len(row) != len(names):
            values = "1 value" if len(names) == 1 else f"{len(names)} values"
            detail = f"expected the {values} of {preview(names)}, got {len(row)}"
            raise EventError(f"/{member}/data/{index}", detail, "malformed")
    return Column(member, rows, names)
