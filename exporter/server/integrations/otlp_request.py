"""Decode OpenTelemetry's export requests, in JSON or protobuf, into records and plain values."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from exporter.errors import EventError
from exporter.features.lenient_json import parse_integer, sanitize
from exporter.server.integrations.payload import check_size, convert, decode_json

Signal = Literal["logs", "traces"]
MAX_PROTOBUF = 8 * 2**20
"""Bytes of an export request in protobuf: an empty span of 2 bytes takes 200 decoded."""
MAX_RECORDS = 200_000
"""Spans or log records of an export request, predictions or not."""
_MAX_DEPTH = 32
_INTEGER = re.compile(r"-?[0-9]+")
_MEMBERS = {
    "logs": ("resource_logs", "scope_logs", "log_records"),
    "traces": ("resource_spans", "scope_spans", "spans"),
}
_Item = TypeVar("_Item")
_Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Attribute(msgspec.Struct, rename="camel", gc=False):
    key: str = ""
    value: dict[str, Any] | None = None


class _Resource(msgspec.Struct, frozen=True, rename="camel", gc=False):
    attributes: list[_Attribute] = []


class _Status(msgspec.Struct, frozen=True, rename="camel", gc=False):
    code: int = 0


class _Record(msgspec.Struct, rename="camel", gc=False):
    """The used fields of a log record or a span."""

    attributes: list[_Attribute] = []
    event_name: str = ""
    trace_id: str = ""
    span_id: str = ""
    time_unix_nano: _Nanoseconds = 0
    observed_time_unix_nano: _Nanoseconds = 0
    severity_number: int = 0
    start_time_unix_nano: _Nanoseconds = 0
    end_time_unix_nano: _Nanoseconds = 0
    status: _Status = _Status()


class _Scope(msgspec.Struct, Generic[_Item], rename="camel", gc=False):
    log_records: list[_Item] = []
    spans: list[_Item] = []


class _Group(msgspec.Struct, Generic[_Item], rename="camel", gc=False):
    resource: _Resource = _Resource()
    scope_logs: list[_Item] = []
    scope_spans: list[_Item] = []


class _Request(msgspec.Struct, Generic[_Item], rename="camel", gc=False):
    resource_logs: list[_Item] = []
    resource_spans: list[_Item] = []


_strict_decoder = msgspec.json.Decoder(_Request[_Group[_Scope[_Record]]], strict=False)


def decode_records(body: bytes, signal: Signal, protobuf: bool) -> Iterator[tuple[Any, Any] | EventError]:
    """Yield each record with the resource that it belongs to; one that is wrong becomes an error in its place.

    Raises
    ------
    EventError
        At once, when the body is not an export request; later, when it has more than `MAX_RECORDS`.
    """
    if protobuf:
        return _records(_decode_protobuf(body, signal), signal, converts=False)
    check_size(body)
    try:
        return _records(_strict_decoder.decode(body), signal, converts=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _records(_decode_leniently(body), signal, converts=True)


def _decode_leniently(body: bytes) -> _Request[Any]:
    """Decode an export request whose records are not converted yet."""
    try:
        document, rest = decode_json(body)
        if rest.strip():
            raise EventError("", "the body has data after its JSON", "malformed")
        return convert(document, _Request[Any])
    except EventError as error:
        where = f"{error.pointer}: " if error.pointer else ""
        detail = f"the body is not an export request in JSON: {where}{error.detail}"
        raise EventError("", detail, "malformed") from None


def _decode_protobuf(body: bytes, signal: Signal) -> Any:
    from google.protobuf.message import DecodeError  # imported only when a collector sends protobuf

    if len(body) > MAX_PROTOBUF:
        raise EventError("", f"the body has more than {MAX_PROTOBUF} bytes of protobuf", "too_large")
    try:
        if signal == "logs":
            from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

            return ExportLogsServiceRequest.FromString(body)
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise EventError("", "the body is not an export request in protobuf", "malformed") from None


def _records(request: Any, signal: Signal, converts: bool) -> Iterator[tuple[Any, Any] | EventError]:
    groups, scopes, records = _MEMBERS[signal]
    count = 0
    for group in _children(request, groups, _Group[Any], converts):
        for scope in _children(group, scopes, _Scope[Any], converts):
            for record in _children(scope, records, _Record, converts):
                count += 1
                if count > MAX_RECORDS:
                    raise EventError("", f"the body has more than {MAX_RECORDS} records", "too_large")
                yield record if isinstance(record, EventError) else (group.resource, record)


def _children(parent: Any, member: str, kind: Any, converts: bool) -> Iterator[Any]:
    """Yield the children of a group or scope, converted if they are not yet; an error has itself as its only child."""
    if isinstance(parent, EventError):
        yield parent
        return
    for child in getattr(parent, member):
        try:
            yield convert(child, kind, strict=False) if converts else child
        except EventError as error:
            yield error


def plain_attributes(attributes: Any) -> dict[str, Any]:
    """Return attributes, decoded from JSON or protobuf, as plain JSON."""
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any, depth: int = _MAX_DEPTH) -> Any:
    if value is None or isinstance(value, dict):
        return _value_of_json(value, depth)
    field = value.WhichOneof("value")
    if field is None or depth == 0:
        return None
    content = getattr(value, field)
    if field == "array_value":
        return [_value(item, depth - 1) for item in content.values]
    if field == "kvlist_value":
        return {item.key: _value(item.value, depth - 1) for item in content.values}
    return base64.b64encode(content).decode() if field == "bytes_value" else sanitize(content)


def _value_of_json(value: Any, depth: int) -> Any:
    if not isinstance(value, dict) or not value or depth == 0:
        return None
    member, content = next(iter(value.items()))
    if member == "arrayValue":
        return [_value_of_json(item, depth - 1) for item in _values(content)]
    if member == "kvlistValue":
        pairs = [item for item in _values(content) if isinstance(item, dict)]
        return {str(item.get("key")): _value_of_json(item.get("value"), depth - 1) for item in pairs}
    return _scalar_of_text(member, content) if isinstance(content, str) else sanitize(content)


def _scalar_of_text(member: str, text: str) -> Any:
    """Convert a scalar that JSON has as a string; a number that cannot be read stays text."""
    if member == "intValue" and _INTEGER.fullmatch(text):
        return sanitize(parse_integer(text))
    if member == "doubleValue":
        try:
            return sanitize(float(text))
        except ValueError:
            pass
    return sanitize(text)


def _values(content: Any) -> list[Any]:
    values = content.get("values") if isinstance(content, dict) else None
    return values if isinstance(values, list) else []
