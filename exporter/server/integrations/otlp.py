"""OpenTelemetry's logs and traces: records and spans that are predictions, over OTLP/HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec

from exporter.errors import EventError
from exporter.features.lenient_json import sanitize
from exporter.server.integrations.mapping import checked, encoded
from exporter.server.integrations.payload import check_size

Signal = Literal["logs", "traces"]
PROTOBUF = "application/x-protobuf"
GENERATED = frozenset({"chat", "embeddings", "generate_content", "text_completion"})
"""Operations of the GenAI conventions that a model answers; others, such as an agent's, are made of these."""
MAX_PROTOBUF = 8 * 2**20
"""Bytes of an export request in protobuf: an empty span of two bytes takes two hundred decoded."""
MAX_RECORDS = 200_000
"""Spans or log records of an export request, predictions or not."""
_GENAI = "gen_ai."
_ERROR_STATUS = 2
_ERROR_SEVERITY = 17
_SHARED = frozenset({"model.name", "model.version"})  # what a resource may say for its records
_MAX_DEPTH = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Attribute(msgspec.Struct, rename="camel", gc=False):
    key: str = ""
    value: Any = None


class _Resource(msgspec.Struct, frozen=True, rename="camel", gc=False):
    attributes: list[_Attribute] = []


class _Status(msgspec.Struct, frozen=True, rename="camel", gc=False):
    code: int = 0


class _Record(msgspec.Struct, rename="camel", gc=False):
    """A log record or a span, as far as it is used."""

    attributes: list[_Attribute] = []
    trace_id: str = ""
    span_id: str = ""
    time_unix_nano: int = 0
    observed_time_unix_nano: int = 0
    severity_number: int = 0
    start_time_unix_nano: int = 0
    end_time_unix_nano: int = 0
    status: _Status = _Status()


class _Scope(msgspec.Struct, rename="camel", gc=False):
    log_records: list[_Record] = []
    spans: list[_Record] = []


class _Group(msgspec.Struct, rename="camel", gc=False):
    resource: _Resource = _Resource()
    scope_logs: list[_Scope] = []
    scope_spans: list[_Scope] = []


class _Request(msgspec.Struct, rename="camel", gc=False):
    resource_logs: list[_Group] = []
    resource_spans: list[_Group] = []


class Found(NamedTuple):
    """A record that is about a prediction.

    Attributes
    ----------
    names
        What its model is called, the best first.
    fields
        Of the prediction, but for the model.
    """

    names: tuple[str | None, ...]
    fields: dict[str, Any]

    def of(self, model: str) -> tuple[list[Any], list[Any]]:
        """The prediction of a configured model, checked; see `exporter.server.integrations.mapping.checked`."""
        return checked([{**self.fields, "model": model}])


def read(body: bytes, signal: Signal, protobuf: bool) -> Iterator[Found | EventError]:
    """The records of an export request that are about predictions, or why one cannot be read.

    Raises
    ------
    EventError
        At once, when the body is no export request.
    """
    request = _protobuf(body, signal) if protobuf else _json(body)
    return _found(request, signal)


def _found(request: Any, signal: Signal) -> Iterator[Found | EventError]:
    logs = signal == "logs"
    count = 0
    for group in request.resource_logs if logs else request.resource_spans:
        shared: dict[str, Any] | None = None
        for scope in group.scope_logs if logs else group.scope_spans:
            for record in scope.log_records if logs else scope.spans:
                count += 1
                if count > MAX_RECORDS:
                    raise EventError("", f"the body has more than {MAX_RECORDS} records", "too_large")
                if not record.attributes:
                    continue
                own = _attributes(record.attributes)
                if not is_prediction(own):
                    continue
                if shared is None:
                    shared = _attributes(a for a in group.resource.attributes if a.key in _SHARED)
                try:
                    yield _prediction({**shared, **own}, record, logs)
                except EventError as error:
                    yield error


def is_prediction(attributes: Mapping[str, Any]) -> bool:
    """Whether a record's own attributes are about a prediction."""
    if f"{_GENAI}request.model" in attributes or f"{_GENAI}response.model" in attributes:
        return attributes.get(f"{_GENAI}operation.name", "chat") in GENERATED
    return any(key in {"model.name", "model.prediction"} or key.startswith("model.input.") for key in attributes)


def _json(body: bytes) -> _Request:
    """A request in JSON; 64-bit numbers come as strings."""
    check_size(body)
    try:
        return msgspec.json.decode(body, type=_Request, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("", f"the body is no export request in JSON: {error}", "malformed") from None


def _protobuf(body: bytes, signal: Signal) -> Any:
    from google.protobuf.message import DecodeError  # only where a collector sends it

    if len(body) > MAX_PROTOBUF:
        raise EventError("", f"the body has more than {MAX_PROTOBUF} bytes of protobuf", "too_large")
    try:
        if signal == "logs":
            from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

            return ExportLogsServiceRequest.FromString(body)
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise EventError("", "the body is no export request in protobuf", "malformed") from None


def _attributes(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """An attribute's value, of JSON or of protobuf, as plain JSON."""
    if value is None or isinstance(value, dict):
        return _value_of_json(value, depth)
    kind = value.WhichOneof("value")
    if kind is None or depth == 0:
        return None
    found = getattr(value, kind)
    if kind == "array_value":
        return [_value(item, depth - 1) for item in found.values]
    if kind == "kvlist_value":
        return {item.key: _value(item.value, depth - 1) for item in found.values}
    return base64.b64encode(found).decode() if kind == "bytes_value" else sanitize(found)


def _value_of_json(value: Any, depth: int) -> Any:
    if not isinstance(value, dict) or depth == 0:
        return None
    for kind, found in value.items():
        if kind == "arrayValue":
            return [_value_of_json(item, depth - 1) for item in _values(found)]
        if kind == "kvlistValue":
            pairs = [item for item in _values(found) if isinstance(item, dict)]
            return {str(item.get("key")): _value_of_json(item.get("value"), depth - 1) for item in pairs}
        if kind == "intValue" and isinstance(found, str):
            return int(found) if found.lstrip("-").isdecimal() and len(found) < 21 else None
        if kind == "doubleValue" and isinstance(found, str):
            return {"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}.get(found, found)
        return sanitize(found)
    return None


def _values(found: Any) -> list[Any]:
    values = found.get("values") if isinstance(found, dict) else None
    return values if isinstance(values, list) else []


def _prediction(attributes: Mapping[str, Any], record: Any, log: bool) -> Found:
    names = tuple(_text(attributes, key) for key in ("model.name", "gen_ai.request.model", "gen_ai.response.model"))
    model, asked, answered = names
    inputs = {key[len("model.input.") :]: value for key, value in attributes.items() if key.startswith("model.input.")}
    inputs |= _measures(attributes)
    reasons = attributes.get("gen_ai.response.finish_reasons")
    reason = reasons[0] if isinstance(reasons, list) and reasons else None
    fields = {
        "version": _text(attributes, "model.version") or (answered if answered not in {model, asked} else None),
        "id": _text(attributes, "model.prediction.id") or _text(attributes, "gen_ai.response.id"),
        "prediction": attributes.get("model.prediction", reason),
        "confidence": attributes.get("model.confidence"),
        "duration_seconds": attributes.get("model.duration_seconds"),
        "inputs": encoded(inputs) if inputs else msgspec.Raw(),
        "code": _code(attributes, record, log),
    }
    if log:
        moment = record.time_unix_nano or record.observed_time_unix_nano
    else:
        moment, end = record.start_time_unix_nano, record.end_time_unix_nano
        if fields["duration_seconds"] is None and 0 < moment <= end:
            fields["duration_seconds"] = (end - moment) / 1e9
        fields["id"] = fields["id"] or _span(record)
    if 0 < moment < 2**63:
        fields["time"] = _EPOCH + timedelta(microseconds=moment // 1000)
    return Found(names, fields)


def _measures(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of the GenAI conventions as inputs by the last part of their name."""
    return {
        key.rpartition(".")[2]: value
        for key, value in attributes.items()
        if key.startswith(("gen_ai.usage.", "gen_ai.request.")) and type(value) in {int, float}
    }


def _text(attributes: Mapping[str, Any], key: str) -> str | None:
    value = attributes.get(key)
    return str(value) if isinstance(value, str | int | float) and value != "" else None


def _code(attributes: Mapping[str, Any], record: Any, log: bool) -> Any:
    for key in ("model.code", "http.response.status_code"):
        if key in attributes:
            return attributes[key]
    failed = record.severity_number >= _ERROR_SEVERITY if log else record.status.code == _ERROR_STATUS
    return 500 if failed or "error.type" in attributes else None


def _span(record: Any) -> str | None:
    """``<trace>-<span>`` in hexadecimal, as tools show them."""
    parts = [part.hex() if isinstance(part, bytes) else part for part in (record.trace_id, record.span_id)]
    return "-".join(parts) if all(parts) else None


def answer(signal: Signal, protobuf: bool, rejected: int, message: str) -> bytes:
    """The export response: how many of the records were refused, and why the first was."""
    if not protobuf:
        kind = "rejectedLogRecords" if signal == "logs" else "rejectedSpans"
        partial = {kind: str(rejected), "errorMessage": message}
        return msgspec.json.encode({"partialSuccess": partial} if rejected else {})
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response: Any
    if signal == "logs":
        response = ExportLogsServiceResponse()
        if rejected:
            response.partial_success.rejected_log_records = rejected
    else:
        response = ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = rejected
    if rejected:
        response.partial_success.error_message = message
    encoded_response: bytes = response.SerializeToString()
    return encoded_response


def refusal(protobuf: bool, code: int, message: str) -> bytes:
    """The ``google.rpc.Status`` of a request that is refused as a whole."""
    if not protobuf:
        return msgspec.json.encode({"code": code, "message": message})
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess

    # On the wire a number in field 1 and a text in field 2, as in a Status.
    status: bytes = ExportLogsPartialSuccess(rejected_log_records=code, error_message=message).SerializeToString()
    return status
