"""The Open Inference Protocol, version 2, with its binary extension."""

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
from exporter.features.lenient_json import sanitize
from exporter.server.integrations.payload import Body, Column, convert, nested
from exporter.validation import preview, suggestion

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
"""What a tensor may be of."""
_DIMENSIONS = 16
_INFINITE = {"inf", "-inf"}  # as `sanitize` spells what JSON cannot


class Tensor(msgspec.Struct):
    """An input or an output as it stands in the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] | None = None


def read(document: Mapping[str, Any], member: str, rest: bytes = b"") -> Body:
    """A request or a response.

    Parameters
    ----------
    document
        Its JSON.
    member
        ``inputs`` or ``outputs``.
    rest
        Bytes behind the JSON: the tensors with a ``binary_data_size``, in order.

    Raises
    ------
    EventError
        When a tensor's data are not what it says about them.
    """
    columns = []
    for place, tensor in enumerate(convert(document[member], list[Tensor], (member,))):
        at = f"/{member}/{place}"
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            columns.append(Column(tensor.name, _written(tensor, at)))
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            detail = f"expected the size of bytes that follow, at most {len(rest)}, got {preview(size)}"
            raise EventError(f"{at}/parameters/binary_data_size", detail, "malformed")
        columns.append(Column(tensor.name, _binary(tensor, rest[:size], at)))
        rest = rest[size:]
    if rest:
        raise EventError("", f"{len(rest)} bytes follow that belong to no tensor", "malformed")
    names = {key: value for key in ("id", "model_name", "model_version") if (value := document.get(key)) is not None}
    for key, value in names.items():
        if not isinstance(value, str):
            raise EventError(f"/{key}", f"expected a string, got {preview(value)}", "wrong_type")
    return Body(columns, names.get("id") or None, names.get("model_name"), names.get("model_version"))


def _count(tensor: Tensor, at: str) -> int:
    """How many values the shape promises."""
    shape = tensor.shape
    if tensor.datatype not in DATATYPES:
        detail = f"{preview(tensor.datatype)} is no datatype; {suggestion(tensor.datatype, DATATYPES)}"
        raise EventError(f"{at}/datatype", detail, "wrong_type")
    if len(shape) > _DIMENSIONS or any(size < 0 for size in shape) or 0 in shape[1:]:
        detail = f"expected at most {_DIMENSIONS} sizes, the first from 0, others from 1, got {preview(shape)}"
        raise EventError(f"{at}/shape", detail, "out_of_range")
    return math.prod(shape)


def _written(tensor: Tensor, at: str) -> list[Any]:
    """The rows of a tensor whose data are JSON, flat or nested."""
    count, kind = _count(tensor, at), tensor.datatype
    at = f"{at}/data"
    if not isinstance(tensor.data, list):
        raise EventError(at, "is required, an array", "missing_field")
    flat: list[Any] = tensor.data
    for depth, size in enumerate(tensor.shape[1:]):
        if not flat or not isinstance(flat[0], list):
            break
        if set(map(type, flat)) != {list} or len(flat) != math.prod(tensor.shape[: depth + 1]):
            raise _lie(tensor, at)
        if set(map(len, flat)) != {size}:
            raise _lie(tensor, at)
        flat = list(itertools.chain.from_iterable(flat))
    if len(flat) != count:
        raise _lie(tensor, at, f", got {len(flat)}")
    types = set(map(type, flat))
    if kind == "BYTES":
        _expect(types <= {str}, at, "strings")
    elif kind == "BOOL":
        _expect(types <= {bool, int} and {0, 1} >= set(flat), at, "true and false")
        flat = [bool(value) for value in flat]
    elif kind[:2] in {"FP", "BF"}:
        texts = {value for value in flat if type(value) is str} if str in types else set()
        _expect(types <= {int, float, str, type(None)} and texts <= _INFINITE, at, "numbers")
    else:
        _expect(types <= {int}, at, "whole numbers")
        bounds = np.iinfo(_DTYPES[kind])
        if flat and not bounds.min <= min(flat) <= max(flat) <= bounds.max:
            raise EventError(at, f"expected {kind}, from {bounds.min} to {bounds.max}", "out_of_range")
    return nested(flat, tensor.shape)


def _lie(tensor: Tensor, at: str, got: str = "") -> EventError:
    return EventError(
        at, f"expected the {math.prod(tensor.shape)} values of shape {preview(tensor.shape)}{got}", "malformed"
    )


def _expect(right: bool, at: str, what: str) -> None:
    if not right:
        raise EventError(at, f"expected {what} alone", "wrong_type")


def _binary(tensor: Tensor, raw: bytes, at: str) -> list[Any]:
    """The rows of a tensor whose data are bytes, little-endian."""
    count, kind = _count(tensor, at), tensor.datatype
    if kind == "BYTES":
        return nested(_strings(raw, count, at), tensor.shape)
    dtype = np.dtype(_DTYPES[kind])
    if len(raw) != count * dtype.itemsize:
        detail = f"{kind} of shape {preview(tensor.shape)} takes {count * dtype.itemsize} bytes, got {len(raw)}"
        raise EventError(f"{at}/parameters/binary_data_size", detail, "malformed")
    values = np.frombuffer(raw, dtype)
    if kind == "BOOL":
        values = values != 0
    elif kind == "BF16":  # the upper half of a 32-bit float
        values = (values.astype("<u4") << 16).view("<f4")
    finite = values.dtype.kind != "f" or np.isfinite(values).all()
    flat = values.tolist()
    return nested(flat if finite else sanitize(flat), tensor.shape)


def _strings(raw: bytes, count: int, at: str) -> list[str]:
    """Strings, each behind its length in four bytes; what is not UTF-8 as base64, as images come."""
    texts: list[str] = []
    place = 0
    while place < len(raw) and len(texts) < count:
        (length,) = struct.unpack_from("<I", raw, place) if place + 4 <= len(raw) else (len(raw),)
        place += 4 + length
        if place > len(raw):
            break
        item = raw[place - length : place]
        try:
            texts.append(item.decode())
        except UnicodeDecodeError:
            texts.append(base64.b64encode(item).decode())
    if place != len(raw) or len(texts) != count:
        detail = f"expected {count} strings, each behind its length in four bytes, in {len(raw)} bytes"
        raise EventError(f"{at}/parameters/binary_data_size", detail, "malformed")
    return texts
