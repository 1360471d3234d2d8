"""Seldon Core's messages, version 1: predictions and feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from exporter.errors import EventError
from exporter.server.integrations.payload import Body, Column, convert, nested, rows, table
from exporter.validation import preview

MEMBERS = ("data", "strData", "jsonData", "binData")
"""Of which a message has one."""


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
    """What users say of a prediction."""

    request: Any = None
    response: Any = None
    reward: float | None = None
    truth: Any = None


def is_message(document: Mapping[str, Any]) -> bool:
    """Whether an object is one of Seldon's messages."""
    return any(member in document for member in MEMBERS)


def message(document: Any, at: tuple[str | int, ...] = ()) -> Body:
    """A message; its identifier is ``meta.puid``.

    Raises
    ------
    EventError
        When it is none, or its tensor's shape is not that of its values.
    """
    found = convert(document, _Message, at)
    puid = (found.meta and found.meta.puid) or None
    if found.data is not None:
        return Body([_column(found.data, (*at, "data"))], puid)
    if found.str_data is not None:
        return Body([Column("strData", [found.str_data])], puid)
    if found.bin_data is not None:
        return Body([Column("binData", [found.bin_data])], puid)
    if found.json_data is not msgspec.UNSET:
        return Body(table(rows(found.json_data), "jsonData"), puid)
    return Body([], puid)


def feedback(document: Any) -> Feedback:
    """A feedback message, its parts not looked at yet.

    Raises
    ------
    EventError
        When it is none.
    """
    found = convert(document, Feedback)
    if found.reward is None and found.truth is None:
        raise EventError("/truth", "is required, or a reward in its stead", "missing_field")
    return found


def _column(data: _Data, at: tuple[str | int, ...]) -> Column:
    names = tuple(data.names or ())
    if data.ndarray is not None:
        return Column("data", data.ndarray, names)
    if data.tensor is None:
        raise EventError("/" + "/".join(map(str, at)), "expected a tensor or an ndarray", "missing_field")
    shape, values = data.tensor.shape, data.tensor.values
    if any(size < 0 for size in shape) or 0 in shape[1:] or math.prod(shape) != len(values) or len(shape) > 16:
        where = "/".join(map(str, (*at, "tensor", "values")))
        detail = f"expected the {math.prod(shape[:16])} values of shape {preview(shape)}, got {len(values)}"
        raise EventError(f"/{where}", detail, "malformed")
    return Column("data", nested(values, shape), names)
