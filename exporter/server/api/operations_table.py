"""Every route: what it is for, what it takes and what it returns; see `exporter.server.api.openapi`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from exporter.datasets import FORMATS
from exporter.events import BusinessEvent, Feedback, Prediction
from exporter.server.api import correction_query
from exporter.server.api import schemas as answers
from exporter.server.api.corrections import BatchDecision, ReviewDecision, SampleRequest
from exporter.server.api.datasets import MOST, Order
from exporter.server.integrations.otlp import PROTOBUF
from exporter.server.integrations.proxy_records import ProxyRecord
from exporter.server.notifications import Notification
from exporter.storage.corrections import ORDERS, STATUSES, VERDICTS

JSON, NDJSON, TEXT, HTML = "application/json", "application/x-ndjson", "text/plain", "text/html"
OPENMETRICS, FORM, PNG = "application/openmetrics-text", "application/x-www-form-urlencoded", "image/png"
Media = dict[str, Any]
"""Types by media type; None is a text or a file that no type describes."""


class Parameter(NamedTuple):
    """A parameter of the query, or a header."""

    name: str
    type: Any = str
    description: str = ""
    required: bool = False
    place: str = "query"


class Operation(NamedTuple):
    """One method of one route.

    Attributes
    ----------
    summary
        What it does.
    answers
        Type of each good answer, or a `Media`; all others are problems.
    body
        Type of the request's body, or a `Media`; None where there is none.
    """

    summary: str
    answers: dict[int, Any]
    body: Any = None
    parameters: tuple[Parameter, ...] = ()


def _choice(words: Any) -> Any:
    return Literal[tuple(sorted(words))]


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_Page = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
_KEY = Parameter(
    "Idempotency-Key",
    Annotated[str, msgspec.Meta(min_length=1, max_length=255)],
    "Makes a retry count once.",
    place="header",
)
_MODEL = Parameter("model", str, "A configured model.")
_FORMAT = Parameter("format", _choice(FORMATS), "What is written; JSON lines when absent.")
_PERIOD = (
    Parameter("since", _Moment, "The correction came then or later."),
    Parameter("until", _Moment, "The correction came before."),
)
_PAGE = (
    Parameter("limit", _Page, "Entries on a page."),
    Parameter("cursor", str, "As next has it."),
)
_VERSIONS = Parameter("var-version", list[str], "The version, as links of Grafana have it; of several, each.")
_QUEUE = (
    _MODEL,
    Parameter("version"),
    Parameter("segment"),
    Parameter("status", _choice(STATUSES)),
    Parameter("label", str, "The label that counts, as JSON or as plain text."),
    Parameter("predicted", str, "The prediction, as JSON or as plain text."),
    Parameter("source", _choice(VERDICTS), "Users' corrections when absent."),
    *_PERIOD,
    Parameter("confidence_from", _Share),
    Parameter("confidence_to", _Share),
    Parameter(
        "q",
        Annotated[str, msgspec.Meta(max_length=correction_query.LONGEST_SEARCH)],
        "Text in the comment, the user, the prediction's identifier or the inputs.",
    ),
    Parameter("order", _choice(ORDERS), "The newest first when absent."),
    *_PAGE,
)
_TASKS = list[dict[str, Any]]
_FILES: Media = {form.content_type.partition(";")[0]: None for form in FORMATS.values()} | {JSON: _TASKS}
_PAGE_FOR_PEOPLE: dict[int, Any] = {200: {HTML: None}}
_PROBE: dict[int, Any] = {200: {TEXT: None}}
_BACK: dict[int, Any] = {303: {HTML: None}, 200: {HTML: None}}
_IDS = Parameter("ids", Literal["1"], "Asks for the identifiers of what was taken.")
_INFER: tuple[dict[int, Any], Any, tuple[Parameter, ...]] = (
    {202: answers.Accepted},
    {JSON: dict[str, Any] | list[dict[str, Any]], NDJSON: None},
    (_KEY, _IDS),
)
_RECORDS: tuple[dict[int, Any], Any, tuple[Parameter, ...]] = (
    {200: {JSON: dict[str, Any], PROTOBUF: None}},
    {JSON: dict[str, Any], PROTOBUF: None},
    (_KEY,),
)

OPERATIONS: dict[str, Operation] = {
    "POST /v1/predictions": Operation(
        "Record what a model answered.",
        {202: answers.Accepted},
        {JSON: Prediction | list[Prediction], NDJSON: None},
        (_KEY, _IDS),
    ),
    "POST /v1/feedback": Operation(
        "Take users' words; they are on disk before the answer.",
        {201: answers.Word | answers.Words, 200: answers.Word | answers.Words},
        Feedback | list[Feedback],
        (_KEY,),
    ),
    "POST /v1/events": Operation(
        "Count business events.", {202: answers.Accepted}, BusinessEvent | list[BusinessEvent], (_KEY,)
    ),
    "POST /v1/notifications": Operation("Alertmanager's webhook.", {200: dict[str, Any]}, Notification, (_KEY,)),
    "GET /v1/corrections": Operation("The review queue.", {200: answers.Corrections}, parameters=_QUEUE),
    "GET /v1/corrections/users": Operation(
        "Who corrected a model how often.", {200: answers.Users}, parameters=(_MODEL._replace(required=True),)
    ),
    "GET /v1/corrections/<int:place>": Operation(
        "One correction with its history.", {200: answers.CorrectionWithHistory}
    ),
    "PATCH /v1/corrections": Operation("Decide several corrections.", {200: answers.Results}, list[BatchDecision]),
    "PATCH /v1/corrections/<int:place>": Operation("Decide a correction.", {200: answers.Correction}, ReviewDecision),
    "POST /v1/corrections/samples": Operation(
        "Draw confident predictions that nobody spoke about for review.", {201: answers.Drawn}, SampleRequest, (_KEY,)
    ),
    "GET /v1/dataset": Operation(
        "Accepted corrections of a model as a file.",
        {200: _FILES},
        parameters=(
            _MODEL._replace(required=True),
            _FORMAT,
            Parameter("version"),
            Parameter("label", str, "The label that counts."),
            *_PERIOD,
        ),
    ),
    "POST /v1/dataset/releases": Operation(
        "Freeze what is accepted of a model.", {201: answers.Release, 200: answers.Release}, Order
    ),
    "GET /v1/dataset/releases": Operation(
        "The releases, the newest first.",
        {200: answers.Releases},
        parameters=(
            _MODEL,
            Parameter("limit", _Page, "Entries on a page."),
            Parameter("cursor", int, "As next has it."),
        ),
    ),
    "GET /v1/dataset/releases/<key>": Operation(
        "A release: its bytes, or its document.",
        {200: _FILES | {JSON: answers.Release | _TASKS}},
        parameters=(_FORMAT,),
    ),
    "GET /metrics": Operation(
        "The metrics.",
        {200: {TEXT: None, OPENMETRICS: None}},
        parameters=(Parameter("name[]", list[str], "Only these metrics."),),
    ),
    "GET /-/healthy": Operation("Whether the process lives.", _PROBE),
    "GET /-/ready": Operation("Whether events are taken.", _PROBE),
    "POST /-/reload": Operation("Read the configuration again.", _PROBE),
    "PUT /-/reload": Operation("Read the configuration again.", _PROBE),
    "GET /": Operation("The home page.", _PAGE_FOR_PEOPLE),
    "GET /drift": Operation(
        "The drift page.",
        _PAGE_FOR_PEOPLE,
        parameters=(_MODEL, Parameter("version"), _VERSIONS, Parameter("window"), Parameter("feature")),
    ),
    "GET /review": Operation("The review page.", _PAGE_FOR_PEOPLE, parameters=(*_QUEUE, _VERSIONS)),
    "POST /review/decide": Operation("A decision of a form, back to its page.", _BACK, {FORM: dict[str, str]}),
    "POST /review/samples": Operation("A draw of a form, on to what was drawn.", _BACK, {FORM: dict[str, str]}),
    "GET /v1/corrections/<int:place>/inputs/<path:name>.png": Operation("An image input.", {200: {PNG: None}}),
    "POST /v1/exchanges": Operation(
        "What a proxy saw: requests with their answers as they went over the wire.",
        {202: answers.Accepted},
        {JSON: ProxyRecord | list[ProxyRecord], NDJSON: None},
        (_KEY, _IDS),
    ),
    "POST /v1/kserve": Operation(
        "What KServe's logger sends, as CloudEvents.", {202: dict[str, Any]}, {JSON: Any}, (_KEY,)
    ),
    "POST /v2/models/<model>/infer": Operation("A request with its response.", *_INFER),
    "POST /v2/models/<model>/versions/<version>/infer": Operation("A request with its response.", *_INFER),
    "POST /v1/seldon/feedback": Operation(
        "Seldon's feedback message.", {201: dict[str, Any], 200: dict[str, Any]}, dict[str, Any], (_MODEL, _KEY)
    ),
    "POST /v1/logs": Operation("OpenTelemetry's log records.", *_RECORDS),
    "POST /v1/traces": Operation("OpenTelemetry's spans.", *_RECORDS),
    "GET /runbooks/": Operation("The runbooks of all alerts.", _PAGE_FOR_PEOPLE),
    "GET /runbooks/<name>": Operation("The runbook of an alert.", _PAGE_FOR_PEOPLE),
    "GET /openapi.json": Operation("This document.", {200: dict[str, Any]}),
}
"""By method and Flask's rule. A test compares it with the routes that there are."""
