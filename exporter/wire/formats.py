"""Detect the format of a payload, and decode it: Open Inference Protocol, TensorFlow Serving, MLflow, TorchServe."""

from __future__ import annotations

import base64
import itertools
import math
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from exporter.errors import EventError
from exporter.features.json_inputs import sanitize
from exporter.validation import preview, suggestion
from exporter.wire.payload import (
    Column,
    Payload,
    as_rows,
    columns_of_rows,
    convert,
    decode_json,
    decompress_if_gzip,
    named_columns,
    reshape,
)

_DTYPES = {
    "BOOL": "<u1",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
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


def decode_request(body: bytes, json_length: int | None = None) -> Payload:
    """Decode the inputs of a request.

    Parameters
    ----------
    body
        As it was sent, compressed by gzip or not.
    json_length
        The ``Inference-Header-Content-Length``, if it is known.

    Raises
    ------
    EventError
        When the format is unknown, or the body is not valid in its format.
    """
    return request_from_json(*decode_json(decompress_if_gzip(body), json_length))


def decode_response(body: bytes, json_length: int | None = None) -> Payload:
    """Decode the outputs of a response; see `decode_request`."""
    return response_from_json(*decode_json(decompress_if_gzip(body), json_length))


def request_from_json(document: Any, rest: bytes = b"") -> Payload:
    """Read the inputs of a request from its decoded JSON and the bytes after it."""
    if isinstance(document, Mapping) and _are_tensors(document.get("inputs")):
        return read_tensors(document, "inputs", rest)
    _check_no_trailing_bytes(rest)
    if isinstance(document, list):
        return Payload(columns_of_rows(document, "instances"))
    if isinstance(document, Mapping) and (columns := _request_columns(document)) is not None:
        return Payload(columns)
    raise EventError("", f"expected a request, an object with one of {_REQUEST_MEMBERS}", "missing_field")


def _request_columns(document: Mapping[str, Any]) -> list[Column] | None:
    """Read the columns of TensorFlow Serving's and MLflow's requests; None for any other document."""
    if "instances" in document:
        return _columns_of_member(document, "instances")
    if "dataframe_split" in document:
        return [_split_frame(document["dataframe_split"])]
    if "dataframe_records" in document:
        return _columns_of_member(document, "dataframe_records")
    return named_columns(document["inputs"], "inputs") if "inputs" in document else None


def _columns_of_member(document: Mapping[str, Any], member: str) -> list[Column]:
    return columns_of_rows(convert(document[member], list[Any], (member,)), member)


def response_from_json(document: Any, rest: bytes = b"") -> Payload:
    """Read the outputs of a response from its decoded JSON and the bytes after it."""
    if isinstance(document, Mapping) and _are_tensors(document.get("outputs")):
        return read_tensors(document, "outputs", rest)
    _check_no_trailing_bytes(rest)
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


def _are_tensors(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return not value or (isinstance(value[0], Mapping) and "datatype" in value[0])


def _check_no_trailing_bytes(rest: bytes) -> None:
    if rest:
        raise EventError("", f"the {len(rest)} bytes after the JSON do not belong to any tensor", "malformed")


def _split_frame(value: Any) -> Column:
    """Read MLflow's ``dataframe_split``."""
    member = "dataframe_split"
    frame = convert(value, dict[str, Any], (member,))
    names = tuple(str(name) for name in convert(frame.get("columns", []), list[str | int], (member, "columns")))
    rows = convert(frame.get("data"), list[list[Any]], (member, "data"))
    for index, row in enumerate(rows):
        if names and len(row) != len(names):
            detail = (
                f"expected the {len(names)} value{'' if len(names) == 1 else 's'} of {preview(names)}, got {len(row)}"
            )
            raise EventError(f"/{member}/data/{index}", detail, "malformed")
    return Column(member, rows, names)
