"""Read predictions from OpenTelemetry's log records and spans, sent over OTLP/HTTP."""

from __future__ import annotations

import base64
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from exporter.errors import EventError
from exporter.features.json_inputs import parse_integer, sanitize
from exporter.wire.events import check_size
from exporter.wire.formats import attempt, convert, decode_json, split_documents
from exporter.wire.mapping import ConfiguredModel, Validated, encode_inputs, other_name, validate

PROTOBUF = "application/x-protobuf"
GENERATED = frozenset({"chat", "embeddings", "generate_content", "text_completion"})
"""Operations of the GenAI conventions that call a model; other spans, such as an agent's, contain these."""
EVALUATION = "gen_ai.evaluation.result"
"""Name of the events that hold the result of an evaluation, such as a score, of a prediction."""
MAX_CALLS = 10_000
"""Identifiers of predictions that evaluations can refer to; new ones replace the oldest."""
MAX_CALL = 1000
"""Characters of a prediction's identifiers and names that are remembered."""
MAX_SPANS = 50_000
"""The latest spans, which count once if they are sent again."""
_Score = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
_GENAI = "gen_ai."
_NUMBERS = "gen_ai.usage.", "gen_ai.request.", "gen_ai.response.time_to_first_chunk"  # inputs, if they are numbers
_ERROR_STATUS = 2
_ERROR_SEVERITY = 17
_INHERITED = frozenset({"model.name", "model.version"})  # attributes that records inherit from their resource
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PredictionRecord(NamedTuple):
    """A record of a prediction.

    Attributes
    ----------
    names, model_version
        Names of the model, the most specific first, and its version, if the record names it.
    fields
        Fields of the prediction, without the model.
    ids
        What evaluations call the prediction by.
    """

    names: tuple[str | None, ...]
    model_version: str | None
    fields: dict[str, Any]
    ids: tuple[str, ...] = ()

    def predictions(self, model: ConfiguredModel) -> Validated:
        """Return the prediction, or it as a rejected one."""
        return validate([{**self.fields, "model": model.config.name}])


class EvaluationResult(msgspec.Struct, frozen=True, gc=False):
    """The attributes of the result of an evaluation; an explanation is not read."""

    name: str = msgspec.field(name="gen_ai.evaluation.name")
    label: str | None = msgspec.field(name="gen_ai.evaluation.score.label", default=None)
    score: _Score | None = msgspec.field(name="gen_ai.evaluation.score.value", default=None)


_MODEL = ("model.name", "gen_ai.request.model", "gen_ai.response.model")
_OF_EVALUATIONS = (*(field.encode_name for field in msgspec.structs.fields(EvaluationResult)), *_MODEL, "model.version",
                   "gen_ai.response.id")  # fmt: skip


class Evaluation(NamedTuple):
    """An evaluation of a prediction; ``found`` gets its result, with the name and the version of the model."""

    names: tuple[str | None, ...]
    model_version: str | None
    ids: tuple[str, ...]
    result: EvaluationResult
    found: Evaluations | None = None

    def predictions(self, model: ConfiguredModel) -> Validated:
        """Return no prediction."""
        if self.found is not None and (self.result.label or self.result.score is not None):  # it did not fail
            self.found.append((model.config.name, self.model_version, self.result))
        return [], []


Calls = OrderedDict[str, tuple[tuple[str | None, ...], str | None]]
"""The names and the version of the model of the latest predictions, by their identifiers."""
Evaluations = list[tuple[str, str | None, EvaluationResult]]


class Spans:
    """The latest spans whose predictions were read: one that is sent again counts once."""

    def __init__(self) -> None:
        self._latest, self._earlier = set[int](), set[int]()

    def new(self, records: _Indexed, taken: set[int]) -> _Indexed:
        """Yield records, the predictions only of spans that are not known yet; these are added to ``taken``."""
        for index, record in records:
            span = hash(record.ids[-1]) if isinstance(record, PredictionRecord) and record.ids else None
            if span in taken or span in self._latest or span in self._earlier:
                continue
            yield index, record
            if span is not None:  # and the reader has not stopped at it
                taken.add(span)

    def take(self, spans: set[int]) -> None:
        """Remember spans, at least the latest `MAX_SPANS`."""
        self._latest |= spans
        if len(self._latest) > MAX_SPANS:
            self._latest, self._earlier = set(), self._latest


def join(records: _Indexed, calls: Calls, found: Evaluations) -> _Indexed:
    """Yield records, the evaluations last: each is about the model of its prediction, if that is known.

    Parameters
    ----------
    records
        From `read`, each with the index of its export request.
    calls
        Gets the predictions, and forgets the oldest.
    found
        See `Evaluation`.
    """
    evaluations: list[tuple[int, Evaluation]] = []
    for index, record in records:
        if isinstance(record, Evaluation):
            evaluations.append((index, record))
            continue
        if isinstance(record, PredictionRecord) and len(str((record.ids, *record[:2]))) <= MAX_CALL:
            calls.update(dict.fromkeys(record.ids, record[:2]))
            while len(calls) > MAX_CALLS:
                calls.popitem(last=False)
        yield index, record
    for index, one in evaluations:
        names, version = next(filter(None, map(calls.get, one.ids)), one[:2])
        yield index, one._replace(names=names, model_version=version, found=found)


_Results = PredictionRecord | Evaluation | EventError
_Indexed = Iterator[tuple[int, _Results]]


def read_all(body: bytes, signal: Signal) -> _Indexed:
    """Yield what `read` does for each of an array of export requests: objects, or texts of base64 with protobuf.

    Raises
    ------
    EventError
        When the body is not an array, or empty.
    """
    for index, part in enumerate(split_documents(body, ndjson=False)):
        try:
            packed = isinstance(part, str)
            text = convert(part, bytes) if packed else msgspec.json.encode(part)
            yield from ((index, record) for record in read(text, signal, packed))
        except EventError as error:
            yield index, error


def read(body: bytes, signal: Signal, protobuf: bool) -> Iterator[_Results]:
    """Yield the predictions and evaluations in an export request; a record that is wrong becomes an error.

    Raises
    ------
    EventError
        At once, when the body is not an export request.
    """
    return _results(decode_records(body, signal, protobuf), signal)


def _results(records: Iterator[tuple[Any, Any] | EventError], signal: Signal) -> Iterator[_Results]:
    is_log = signal == "logs"
    current, inherited = None, dict[str, Any]()
    for item in records:
        if isinstance(item, EventError):
            yield item
            continue
        resource, record = item
        events = [] if is_log else [event.attributes for event in record.events if event.name == EVALUATION]
        if not record.attributes and not events:
            continue
        attributes = plain_attributes(record.attributes)
        names_one = f"{_GENAI}evaluation.name" in attributes and attributes.get(f"{_GENAI}operation.name") is None
        evaluates = names_one or EVALUATION in (attributes.get("event.name"), is_log and record.event_name)
        is_prediction = not evaluates and _is_prediction(attributes)
        events += [()] if evaluates else []
        if not (events or is_prediction):
            continue
        if resource is not current:
            current = resource
            inherited = plain_attributes(item for item in resource.attributes if item.key in _INHERITED)
        attributes = {**inherited, **attributes}
        if is_prediction:
            yield _prediction(attributes, record, is_log)
        known = {key: attributes[key] for key in _OF_EVALUATIONS if key in attributes}  # both may be many
        for more in events:
            yield attempt(_evaluation, known | plain_attributes(more), record, is_log)


def _is_prediction(attributes: Mapping[str, Any]) -> bool:
    """Return whether the attributes of a record, which is no evaluation, are those of a prediction."""
    operation = attributes.get(f"{_GENAI}operation.name")
    if f"{_GENAI}request.model" in attributes or f"{_GENAI}response.model" in attributes:
        return operation is None or (isinstance(operation, str) and operation in GENERATED)
    return any(key in {"model.name", "model.prediction"} or key.startswith("model.input.") for key in attributes)


def _evaluation(attributes: Mapping[str, Any], record: Any, is_log: bool) -> Evaluation:
    spans = (record.span_id,) if is_log else (record.span_id, record.parent_span_id)
    result = convert(attributes, EvaluationResult, ("attributes",), strict=False)
    return Evaluation(*_model(attributes), _ids(attributes, record.trace_id, *spans), result)


def _ids(attributes: Mapping[str, Any], *parts: Any) -> tuple[str, ...]:
    """Return the identifier of the response, and those of spans, in hexadecimal as tools show them."""
    trace, *spans = (part.hex() if isinstance(part, bytes) else part for part in parts)
    response = _text(attributes, "gen_ai.response.id")
    return (*([response] if response else []), *(f"{trace}-{span}" for span in spans if trace and span))


def _model(attributes: Mapping[str, Any]) -> tuple[tuple[str | None, ...], str | None]:
    """Return the names of the model, and its version."""
    names = tuple(_text(attributes, key) for key in _MODEL)
    model, request_model, response_model = names
    version = response_model if response_model not in {model, request_model} else None
    return names, _text(attributes, "model.version") or version


def _prediction(attributes: Mapping[str, Any], record: Any, is_log: bool) -> PredictionRecord:
    names, version = _model(attributes)
    ids = _ids(attributes, record.trace_id, record.span_id)
    inputs = {key[len("model.input.") :]: value for key, value in attributes.items() if key.startswith("model.input.")}
    inputs |= {key: one for key, one in attributes.items() if key.startswith(_NUMBERS) and type(one) in {int, float}}
    reasons = attributes.get("gen_ai.response.finish_reasons")
    reason = reasons[0] if isinstance(reasons, list) and reasons else None
    fields = {
        "version": version,
        "id": _text(attributes, "model.prediction.id") or _text(attributes, "gen_ai.response.id"),
        "prediction": attributes.get("model.prediction", reason),
        "confidence": attributes.get("model.confidence"),
        "duration_seconds": attributes.get("model.duration_seconds"),
        "inputs": encode_inputs(inputs) if inputs else msgspec.Raw(),
        "code": _code(attributes, record, is_log),
    }
    if is_log:
        nanoseconds = record.time_unix_nano or record.observed_time_unix_nano
    else:
        nanoseconds, end = record.start_time_unix_nano, record.end_time_unix_nano
        if fields["duration_seconds"] is None and 0 < nanoseconds <= end:
            fields["duration_seconds"] = (end - nanoseconds) / 1e9
        fields["id"] = fields["id"] or (ids[-1] if ids else None)
    fields["alias"] = other_name(ids, fields["id"])
    if 0 < nanoseconds < 2**63:
        fields["time"] = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return PredictionRecord(names, version, fields, ids)


def _text(attributes: Mapping[str, Any], key: str) -> str | None:
    """Return an attribute as text, cut above any valid length: all records may share one that is long."""
    value = attributes.get(key)
    return str(value)[: MAX_CALL + 1] if isinstance(value, str | int | float) and value != "" else None


def _code(attributes: Mapping[str, Any], record: Any, is_log: bool) -> Any:
    for key in ("model.code", "http.response.status_code"):
        if key in attributes:
            return attributes[key]
    failed = record.severity_number >= _ERROR_SEVERITY if is_log else record.status.code == _ERROR_STATUS
    return 500 if failed or "error.type" in attributes else None


def export_response(signal: Signal, protobuf: bool, rejected: int, message: str) -> bytes:
    """Encode the export response: how many records were rejected, and the error of the first."""
    if not protobuf:
        member = "rejectedLogRecords" if signal == "logs" else "rejectedSpans"
        partial = {"partialSuccess": {member: str(rejected), "errorMessage": message}}
        return msgspec.json.encode(partial if rejected else {})
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    response = ExportLogsServiceResponse()  # encoded like that of traces
    if rejected:
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = message
    encoded: bytes = response.SerializeToString()
    return encoded


def error_status(protobuf: bool, code: int, message: str) -> bytes:
    """Encode the ``google.rpc.Status`` of a request that is refused."""
    if not protobuf:
        return msgspec.json.encode({"code": code, "message": message})
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess

    # Encoded like a Status: a number in field 1 and a text in field 2.
    status: bytes = ExportLogsPartialSuccess(rejected_log_records=code, error_message=message).SerializeToString()
    return status


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


class _Event(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    attributes: list[_Attribute] = []


class _Record(msgspec.Struct, rename="camel", gc=False):
    """The used fields of a log record or a span."""

    attributes: list[_Attribute] = []
    event_name: str = ""
    trace_id: str = ""
    span_id: str = ""
    time_unix_nano: _Nanoseconds = 0
    observed_time_unix_nano: _Nanoseconds = 0
    severity_number: int = 0
    parent_span_id: str = ""
    events: list[_Event] = []
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
