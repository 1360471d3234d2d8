"""Decode Seldon Core's messages, version 1: predictions and feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from exporter.errors import EventError
from exporter.validation import preview
from exporter.wire.payload import Column, Payload, as_rows, columns_of_rows, convert, reshape

MEMBERS = ("data", "strData", "jsonData", "binData")
"""A message has one of these."""


class _Meta(msgspec.Struct):
    puid: str | None = None


class _Tensor(msgspec.Struct):
    shape: list[int]
    values: list[float | str | None]


class _Data(msgspec.Struct):
    names: list[str] | None = None
    tensor: _Tensor | None = None
    ndarray: list[Any] | None = None


class _Message(msgspec.Struct):
    meta: _Meta | None = None
    data: _Data | None = None
    str_data: str | None = msgspec.field(name="strData", default=None)
    json_data: Any = msgspec.field(name="jsonData", default=msgspec.UNSET)
    bin_data: str | None = msgspec.field(name="binData", default=None)


class Feedback(msgspec.Struct):
    """Feedback on a prediction."""

    request: Any = None
    response: Any = None
    reward: float | None = None
    truth: Any = None


def is_message(document: Mapping[str, Any]) -> bool:
    """Return whether an object is one of Seldon's messages."""
    return any(member in document for member in MEMBERS)


def decode_message(document: Any, at: tuple[str | int, ...] = ()) -> Payload:
    """Decode a message; its identifier is ``meta.puid``.

    Raises
    ------
    EventError
        When it is not a message, or its tensor has another shape than its values.
    """
    message = convert(document, _Message, at)
    puid = (message.meta and message.meta.puid) or None
    if message.data is not None:
        return Payload([_column(message.data, (*at, "data"))], puid)
    if message.str_data is not None:
        return Payload([Column("strData", [message.str_data])], puid)
    if message.bin_data is not None:
        return Payload([Column("binData", [message.bin_data])], puid)
    if message.json_data is not msgspec.UNSET:
        return Payload(columns_of_rows(as_rows(message.json_data), "jsonData"), puid)
    return Payload([], puid)


def decode_feedback(document: Any) -> Feedback:
    """Decode a feedback message, without its parts.

    Raises
    ------
    EventError
        When it is not a feedback message.
    """
    message = convert(document, Feedback)
    if message.reward is None and message.truth is None:
        raise EventError("/truth", "is required, or a reward instead", "missing_field")
    return message


def _column(data: _Data, at: tuple[str | int, ...]) -> Column:
    names = tuple(data.names or ())
    if data.ndarray is not None:
        return Column("data", data.ndarray, names)
    if data.tensor is None:
        raise EventError("/" + "/".join(map(str, at)), "expected a tensor or an ndarray", "missing_field")
    shape, values = data.tensor.shape, data.tensor.values
    if any(size < 0 for size in shape) or 0 in shape[1:] or math.prod(shape) != len(values) or len(shape) > 16:
        where = "/".join(map(str, (*at, "tensor", "values")))
        size = math.prod(shape[:16])
        detail = f"expected the {size} value{'' if size == 1 else 's'} of shape {preview(shape)}, got {len(values)}"
        raise EventError(f"/{where}", detail, "malformed")
    return Column("data", reshape(values, shape), names)
