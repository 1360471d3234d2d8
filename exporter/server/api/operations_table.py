"""The table of all routes with their parameters, bodies and responses; see `exporter.server.api.openapi`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from exporter.datasets import FORMATS
from exporter.events import BusinessEvent, Feedback, Prediction
from exporter.server.api import correction_query, schemas
from exporter.server.api.corrections import BatchDecision, ReviewDecision, SampleRequest
from exporter.server.api.datasets import MAX_LIMIT, ReleaseRequest
from exporter.server.integrations.otlp import PROTOBUF
from exporter.server.integrations.proxy_records import ProxyRecord
from exporter.server.notifications import Notification
from exporter.storage.corrections import ORDERS, STATUSES, VERDICTS

JSON, NDJSON, TEXT, HTML = "application/json", "application/x-ndjson", "text/plain", "text/html"
OPENMETRICS, FORM, PNG = "application/openmetrics-text", "application/x-www-form-urlencoded", "image/png"
Media = dict[str, Any]
"""Types by media type; None for text and files, which no type describes."""


class Parameter(NamedTuple):
    """A parameter of the query, or a header."""

    name: str
    type: Any = str
    description: str = ""
    required: bool = False
    location: str = "query"


class Operation(NamedTuple):
    """One method of one route.

    Attributes
    ----------
    summary
        What the operation does.
    responses
        Type of each successful response by its status, or a `Media`; all others are problems.
    body
        Type of the request's body, or a `Media`; None without a body.
    """

    summary: str
    responses: dict[int, Any]
    body: Any = None
    parameters: tuple[Parameter, ...] = ()


def _one_of(values: Any) -> Any:
    return Literal[tuple(sorted(values))]


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
_Page = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
_KEY = Parameter(
    "Idempotency-Key",
    Annotated[str, msgspec.Meta(min_length=1, max_length=255)],
    "Makes a retried request count once.",
    location="header",
)
_MODEL = Parameter("model", str, "A configured model.")
_FORMAT = Parameter("format", _one_of(FORMATS), "The format of the file; JSON lines by default.")
_PERIOD = (
    Parameter("since", _Time, "Corrections received at this time or later."),
    Parameter("until", _Time, "Corrections received before this time."),
)
_PAGE = (
    Parameter("limit", _Page, "Entries on a page."),
    Parameter("cursor", str, "From the URL next of the page before."),
)
_VERSIONS = Parameter("var-version", list[str], "The version, as Grafana links have it; repeated for several versions.")
_QUEUE = (
    _MODEL,
    Parameter("version"),
    Parameter("segment"),
    Parameter("status", _one_of(STATUSES)),
    Parameter("label", str, "The label of the review, or of the user without one, as JSON or plain text."),
    Parameter("predicted", str, "The prediction, as JSON or plain text."),
    Parameter("source", _one_of(VERDICTS), "Users' corrections by default."),
    *_PERIOD,
    Parameter("confidence_from", _Share),
    Parameter("confidence_to", _Share),
    Parameter(
        "q",
        Annotated[str, msgspec.Meta(max_length=correction_query.MAX_SEARCH)],
        "Text in the comment, the user, the prediction's identifier or the inputs.",
    ),
    Parameter("order", _one_of(ORDERS), "The newest first by default."),
    *_PAGE,
)
_TASKS = list[dict[str, Any]]
_FILES: Media = {form.content_type.partition(";")[0]: None for form in FORMATS.values()} | {JSON: _TASKS}
_HTML_PAGE: dict[int, Any] = {200: {HTML: None}}
_PROBE: dict[int, Any] = {200: {TEXT: None}}
_REDIRECT: dict[int, Any] = {303: {HTML: None}, 200: {HTML: None}}
_IDS = Parameter("ids", Literal["1"], "Returns the identifiers of the accepted predictions.")
_INFER: tuple[dict[int, Any], Any, tuple[Parameter, ...]] = (
    {202: schemas.AcceptedEvents},
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
        "Record predictions.",
        {202: schemas.AcceptedEvents},
        {JSON: Prediction | list[Prediction], NDJSON: None},
        (_KEY, _IDS),
    ),
    "POST /v1/feedback": Operation(
        "Record users' feedback; it is on disk before the response.",
        {201: schemas.FeedbackResult | schemas.FeedbackResults, 200: schemas.FeedbackResult | schemas.FeedbackResults},
        Feedback | list[Feedback],
        (_KEY,),
    ),
    "POST /v1/events": Operation(
        "Count business events.", {202: schemas.AcceptedEvents}, BusinessEvent | list[BusinessEvent], (_KEY,)
    ),
    "POST /v1/notifications": Operation(
        "Receive Alertmanager's notifications.", {200: dict[str, Any]}, Notification, (_KEY,)
    ),
    "GET /v1/corrections": Operation(
        "List corrections in the review queue.", {200: schemas.Corrections}, parameters=_QUEUE
    ),
    "GET /v1/corrections/users": Operation(
        "Count the corrections of each user.", {200: schemas.Users}, parameters=(_MODEL._replace(required=True),)
    ),
    "GET /v1/corrections/<int:correction_id>": Operation(
        "Return a correction with its history.", {200: schemas.CorrectionWithHistory}
    ),
    "PATCH /v1/corrections": Operation(
        "Decide several corrections.", {200: schemas.DecisionResults}, list[BatchDecision]
    ),
    "PATCH /v1/corrections/<int:correction_id>": Operation(
        "Decide a correction.", {200: schemas.Correction}, ReviewDecision
    ),
    "POST /v1/corrections/samples": Operation(
        "Draw confident predictions without feedback for review.",
        {201: schemas.SampleResult},
        SampleRequest,
        (_KEY,),
    ),
    "GET /v1/dataset": Operation(
        "Download the accepted corrections of a model.",
        {200: _FILES},
        parameters=(
            _MODEL._replace(required=True),
            _FORMAT,
            Parameter("version"),
            Parameter("label", str, "The label of the review, or of the user without one."),
            *_PERIOD,
        ),
    ),
    "POST /v1/dataset/releases": Operation(
        "Freeze the accepted corrections of a model in a release.",
        {201: schemas.Release, 200: schemas.Release},
        ReleaseRequest,
    ),
    "GET /v1/dataset/releases": Operation(
        "List the releases, the newest first.",
        {200: schemas.Releases},
        parameters=(
            _MODEL,
            Parameter("limit", _Page, "Entries on a page."),
            Parameter("cursor", int, "From the URL next of the page before."),
        ),
    ),
    "GET /v1/dataset/releases/<key>": Operation(
        "Download a release, or return its document.",
        {200: _FILES | {JSON: schemas.Release | _TASKS}},
        parameters=(_FORMAT,),
    ),
    "GET /metrics": Operation(
        "Return the metrics.",
        {200: {TEXT: None, OPENMETRICS: None}},
        parameters=(Parameter("name[]", list[str], "Return only these metrics."),),
    ),
    "GET /-/healthy": Operation("Return whether the process runs.", _PROBE),
    "GET /-/ready": Operation("Return whether events are accepted.", _PROBE),
    "POST /-/reload": Operation("Reload the configuration.", _PROBE),
    "PUT /-/reload": Operation("Reload the configuration.", _PROBE),
    "GET /": Operation("The home page.", _HTML_PAGE),
    "GET /drift": Operation(
        "The drift page.",
        _HTML_PAGE,
        parameters=(_MODEL, Parameter("version"), _VERSIONS, Parameter("window"), Parameter("feature")),
    ),
    "GET /review": Operation("The review page.", _HTML_PAGE, parameters=(*_QUEUE, _VERSIONS)),
    "POST /review/decide": Operation(
        "Decide a correction from the review page's form.", _REDIRECT, {FORM: dict[str, str]}
    ),
    "POST /review/samples": Operation("Draw a sample from the review page's form.", _REDIRECT, {FORM: dict[str, str]}),
    "GET /v1/corrections/<int:correction_id>/inputs/<path:name>.png": Operation(
        "Return an image input as PNG.", {200: {PNG: None}}
    ),
    "POST /v1/exchanges": Operation(
        "Record requests and responses that a proxy captured.",
        {202: schemas.AcceptedEvents},
        {JSON: ProxyRecord | list[ProxyRecord], NDJSON: None},
        (_KEY, _IDS),
    ),
    "POST /v1/kserve": Operation(
        "Record requests and responses that KServe's logger sends as CloudEvents.",
        {202: dict[str, Any]},
        {JSON: Any},
        (_KEY,),
    ),
    "POST /v2/models/<model>/infer": Operation("Record requests with their responses.", *_INFER),
    "POST /v2/models/<model>/versions/<version>/infer": Operation("Record requests with their responses.", *_INFER),
    "POST /v1/seldon/feedback": Operation(
        "Record Seldon's feedback messages.", {201: dict[str, Any], 200: dict[str, Any]}, dict[str, Any], (_MODEL, _KEY)
    ),
    "POST /v1/logs": Operation("Record predictions in OpenTelemetry's log records.", *_RECORDS),
    "POST /v1/traces": Operation("Record predictions in OpenTelemetry's spans.", *_RECORDS),
    "GET /runbooks/": Operation("The runbooks of all alerts.", _HTML_PAGE),
    "GET /runbooks/<name>": Operation("The runbook of an alert.", _HTML_PAGE),
    "GET /openapi.json": Operation("Return this document.", {200: dict[str, Any]}),
}
"""By method and Flask's rule. A test compares the table with the routes of the application."""
