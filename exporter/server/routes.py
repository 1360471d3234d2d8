"""The table of all routes: the scope, thread pool, body, parameters and responses of each.

It is read by authorization, the dispatch of requests, the OpenAPI document and the tests of the documentation.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from exporter.datasets import FORMATS
from exporter.server.access import USER
from exporter.server.alerts import Notification
from exporter.server.api import correction_schemas, schemas
from exporter.server.api.request_bodies import (
    BatchDecision,
    ReleaseRequest,
    RetrainBody,
    ReviewDecision,
    SampleRequest,
)
from exporter.server.route_parameters import (
    FORMAT,
    IDS,
    KEY,
    MODEL,
    PERIOD,
    QUESTION,
    QUEUE,
    VERSIONS,
    PageSize,
    Parameter,
)
from exporter.wire.events import BusinessEvent, Feedback, LabelEvent, Prediction
from exporter.wire.otlp import PROTOBUF
from exporter.wire.payload import MAX_BODY
from exporter.wire.proxy_records import ProxyRecord

JSON, NDJSON, TEXT, HTML = "application/json", "application/x-ndjson", "text/plain", "text/html"
OPENMETRICS, FORM, PNG = "application/openmetrics-text", "application/x-www-form-urlencoded", "image/png"
Media = dict[str, Any]
"""Types by media type; None for text and files, which no type describes."""


class Route(NamedTuple):
    """One method of one rule.

    Attributes
    ----------
    summary
        What the operation does.
    responses
        Type of each successful response by its status, or a `Media`; all others are problems.
    body
        Type of the request's body, or a `Media`; None without a body.
    parameters
        Parameters of the query, and headers.
    scope
        The scope that a caller needs: one of `SCOPES`, `USER`, or None if any caller may use it.
    pool
        The thread pool that runs it.
    max_body
        Maximum size of the request's body in bytes.
    gzip
        Whether the body may be compressed, as collectors send it.
    """

    summary: str
    responses: dict[int, Any]
    body: Any = None
    parameters: tuple[Parameter, ...] = ()
    scope: str | None = "read"
    pool: str = "pages"
    max_body: int = MAX_BODY
    gzip: bool = False


_TASKS = list[dict[str, Any]]
_FILES: Media = {form.content_type.partition(";")[0]: None for form in FORMATS.values()} | {JSON: _TASKS}
_HTML_PAGE: dict[int, Any] = {200: {HTML: None}}
_PROBE: dict[int, Any] = {200: {TEXT: None}}
_REDIRECT: dict[int, Any] = {303: {HTML: None}, 200: {HTML: None}}
_INFER: tuple[dict[int, Any], Any, tuple[Parameter, ...]] = (
    {202: schemas.AcceptedEvents},
    {JSON: dict[str, Any] | list[dict[str, Any]], NDJSON: None},
    (KEY, IDS),
)
_RECORDS: tuple[dict[int, Any], Any, tuple[Parameter, ...]] = (
    {200: {JSON: dict[str, Any], PROTOBUF: None}},
    {JSON: dict[str, Any], PROTOBUF: None},
    (KEY,),
)

ROUTES: dict[str, Route] = {
    "POST /v1/predictions": Route(
        "Record predictions.",
        {202: schemas.AcceptedEvents},
        {JSON: Prediction | list[Prediction], NDJSON: None},
        (KEY, IDS),
        scope="ingest",
    ),
    "POST /v1/feedback": Route(
        "Record users' feedback; it is on disk before the response.",
        {201: schemas.FeedbackResult | schemas.FeedbackResults, 200: schemas.FeedbackResult | schemas.FeedbackResults},
        Feedback | list[Feedback],
        (KEY,),
        scope="feedback",
        pool="feedback",
    ),
    "POST /v1/labels": Route(
        "Record true labels of predictions; they are on disk before the response.",
        {201: schemas.LabelsResult, 200: schemas.LabelsResult},
        {JSON: LabelEvent | list[LabelEvent], NDJSON: None},
        (KEY,),
        scope="feedback",
        pool="labels",
    ),
    "POST /v1/events": Route(
        "Count business events.",
        {202: schemas.AcceptedEvents},
        BusinessEvent | list[BusinessEvent],
        (KEY,),
        scope="ingest",
    ),
    "POST /v1/notifications": Route(
        "Receive Alertmanager's notifications.", {200: dict[str, Any]}, Notification, (KEY,), scope="ingest"
    ),
    "GET /v1/corrections": Route(
        "List corrections in the review queue.", {200: correction_schemas.Corrections}, parameters=QUEUE
    ),
    "GET /v1/corrections/users": Route(
        "Count the corrections of each user.",
        {200: correction_schemas.Users},
        parameters=(MODEL._replace(required=True),),
    ),
    "GET /v1/corrections/<int:correction_id>": Route(
        "Return a correction with its history.",
        {200: correction_schemas.CorrectionWithHistory},
        parameters=(
            Parameter("limit", PageSize, "Entries of the history on a page."),
            Parameter("cursor", str, "From the URL history_next of the page before."),
        ),
    ),
    "PATCH /v1/corrections": Route(
        "Decide several corrections.", {200: correction_schemas.DecisionResults}, list[BatchDecision], scope="review"
    ),
    "PATCH /v1/corrections/<int:correction_id>": Route(
        "Decide a correction.", {200: correction_schemas.Correction}, ReviewDecision, scope="review"
    ),
    "POST /v1/corrections/samples": Route(
        "Draw confident predictions without feedback for review.",
        {201: correction_schemas.SampleResult},
        SampleRequest,
        (KEY,),
        scope="review",
    ),
    "GET /v1/dataset": Route(
        "Download the accepted corrections of a model.",
        {200: _FILES},
        parameters=(
            MODEL._replace(required=True),
            FORMAT,
            Parameter("version"),
            Parameter("label", str, "The label of the review, or of the user without one."),
            *PERIOD,
        ),
        pool="dataset",
    ),
    "POST /v1/dataset/releases": Route(
        "Freeze the accepted corrections of a model in a release.",
        {201: schemas.Release, 200: schemas.Release},
        ReleaseRequest,
        scope="review",
        pool="dataset",
    ),
    "GET /v1/dataset/releases": Route(
        "List the releases, the newest first.",
        {200: schemas.Releases},
        parameters=(
            MODEL,
            Parameter("limit", PageSize, "Entries on a page."),
            Parameter("cursor", int, "From the URL next of the page before."),
        ),
        pool="dataset",
    ),
    "GET /v1/dataset/releases/<key>": Route(
        "Download a release, or return its document.",
        {200: _FILES | {JSON: schemas.Release | _TASKS}},
        parameters=(FORMAT,),
        pool="dataset",
    ),
    "GET /v1/compare": Route(
        "Compare two versions over the time in which both served.",
        {200: schemas.Comparison},
        parameters=(
            Parameter("model", str, "A configured model; by default the only one."),
            Parameter("before", str, "The version to compare with; by default the last one before the other."),
            Parameter("after", str, "The version to judge; by default the one that appeared last."),
            Parameter("sequential", bool, "Whether intervals and verdicts hold at every look, with a decision."),
        ),
        pool="comparisons",
    ),
    "GET /v1/retrain-requests": Route(
        "List the requests for retraining, the newest first.",
        {200: schemas.RetrainRequests},
        parameters=(MODEL, Parameter("limit", PageSize, "Requests that are listed.")),
    ),
    "POST /v1/retrain-requests": Route(
        "Ask the trainer for a new version of a model.", {201: schemas.RetrainRequest}, RetrainBody, scope="review"
    ),
    "GET /v1/slices": Route(
        "Find the combinations of bins that hold the most of a model's corrections, errors, estimated loss or drift.",
        {200: schemas.Slices},
        parameters=QUESTION,
        pool="slices",
    ),
    "GET /metrics": Route(
        "Return the metrics.",
        {200: {TEXT: None, OPENMETRICS: None}},
        parameters=(Parameter("name[]", list[str], "Return only these metrics."),),
        pool="scrapes",
    ),
    "GET /-/healthy": Route("Return whether the process runs.", _PROBE, scope=None),
    "GET /-/ready": Route("Return whether events are accepted.", _PROBE, scope=None),
    "POST /-/reload": Route("Reload the configuration.", _PROBE, scope=USER, pool="reload"),
    "PUT /-/reload": Route("Reload the configuration.", _PROBE, scope=USER, pool="reload"),
    "GET /": Route("The home page.", _HTML_PAGE),
    "GET /drift": Route(
        "The drift page.",
        _HTML_PAGE,
        parameters=(MODEL, Parameter("version"), VERSIONS, Parameter("window"), Parameter("feature")),
    ),
    "GET /quality": Route("The quality page.", _HTML_PAGE, parameters=(MODEL, Parameter("version"), VERSIONS)),
    "GET /slices": Route("The page of slices.", _HTML_PAGE, parameters=QUESTION, pool="slices"),
    "GET /review": Route("The review page.", _HTML_PAGE, parameters=(*QUEUE, VERSIONS)),
    "POST /review/decide": Route(
        "Decide a correction from the review page's form.", _REDIRECT, {FORM: dict[str, str]}, scope="review"
    ),
    "POST /review/samples": Route(
        "Draw a sample from the review page's form.", _REDIRECT, {FORM: dict[str, str]}, scope="review"
    ),
    "GET /v1/corrections/<int:correction_id>/inputs/<path:name>.png": Route(
        "Return an image input as PNG.", {200: {PNG: None}}
    ),
    "POST /v1/exchanges": Route(
        "Record requests and responses that a proxy captured.",
        {202: schemas.AcceptedEvents},
        {JSON: ProxyRecord | list[ProxyRecord], NDJSON: None},
        (KEY, IDS),
        scope="ingest",
        pool="payloads",
    ),
    "POST /v1/kserve": Route(
        "Record requests and responses that KServe's logger sends as CloudEvents.",
        {202: dict[str, Any]},
        {JSON: Any},
        (KEY,),
        scope="ingest",
        pool="payloads",
    ),
    "POST /v2/models/<model>/infer": Route(
        "Record requests with their responses.", *_INFER, scope="ingest", pool="payloads"
    ),
    "POST /v2/models/<model>/versions/<version>/infer": Route(
        "Record requests with their responses.", *_INFER, scope="ingest", pool="payloads"
    ),
    "POST /v1/logs": Route(
        "Record predictions in OpenTelemetry's log records.", *_RECORDS, scope="ingest", pool="payloads", gzip=True
    ),
    "POST /v1/traces": Route(
        "Record predictions in OpenTelemetry's spans.", *_RECORDS, scope="ingest", pool="payloads", gzip=True
    ),
    "GET /runbooks/": Route("The runbooks of all alerts.", _HTML_PAGE),
    "GET /runbooks/<name>": Route("The runbook of an alert.", _HTML_PAGE),
    "GET /d/<uid>": Route("Redirect a link to a dashboard to Grafana, or to the page that replaces it.", _REDIRECT),
    "GET /openapi.json": Route("Return this document.", {200: dict[str, Any]}),
}
"""By method and Flask's rule. A test compares the table with the routes of the application."""
_STATIC = {route: entry for route, entry in ROUTES.items() if "<" not in route}
_PATTERNS = [
    (re.compile(re.sub(r"<path:\w+>", ".+", re.sub(r"<(?:int:)?\w+>", "[^/]+", re.escape(route)))), entry)
    for route, entry in ROUTES.items()
    if "<" in route
]


def find(method: str, path: str) -> Route | None:
    """Return the route of a request; None if there is none: then Flask returns the error.

    >>> find("HEAD", "/metrics").pool, find("POST", "/v2/models/m/infer").scope, find("GET", "/nothing")
    ('scrapes', 'ingest', None)
    """
    text = f"{'GET' if method == 'HEAD' else method} {path}"
    if entry := _STATIC.get(text):
        return entry
    return next((entry for pattern, entry in _PATTERNS if pattern.fullmatch(text)), None)
