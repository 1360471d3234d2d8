"""The table of all routes: the scope, thread pool, body, parameters and responses of each.

It is read by authorization, the dispatch of requests, the OpenAPI document and the tests of the documentation.
"""

from __future__ import annotations

import functools
import pkgutil
import re
from collections.abc import Callable
from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, get_origin

import msgspec

from exporter.datasets import FORMATS
from exporter.server import problem as problems
from exporter.server.access import USER
from exporter.server.alerts import Notification
from exporter.server.api import schemas
from exporter.server.problem import Reply, json_reply
from exporter.slices import MAX_LIMIT as MAX_SLICES
from exporter.slices import QUESTIONS
from exporter.storage import ORDERS, SOURCES, STATUSES
from exporter.version import version
from exporter.wire.events import BusinessEvent, Feedback, LabelEvent, Prediction
from exporter.wire.formats import MAX_BODY
from exporter.wire.mapping import ProxyRecord
from exporter.wire.otlp import PROTOBUF


class Parameter(NamedTuple):
    """A parameter of the query, or a header."""

    name: str
    type: Any = str
    description: str = ""
    required: bool = False
    location: str = "query"


def one_of(values: Any) -> Any:
    """Return the type of a parameter that has one of these values."""
    return Literal[tuple(sorted(values))]


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
PageSize = Annotated[int, msgspec.Meta(ge=1, le=schemas.MAX_LIMIT)]
KEY = Parameter(
    "Idempotency-Key",
    Annotated[str, msgspec.Meta(min_length=1, max_length=255)],
    "Makes a retried request count once.",
    location="header",
)
MODEL = Parameter("model", str, "A configured model.")
ONE_MODEL = MODEL._replace(required=True)
FORMAT = Parameter("format", one_of(FORMATS), "The format of the file; JSON lines by default.")
PERIOD = (
    Parameter("since", _Time, "Corrections received at this time or later."),
    Parameter("until", _Time, "Corrections received before this time."),
)
LIMIT = Parameter("limit", PageSize, "Entries on a page.")
CURSOR = Parameter("cursor", str, "From the URL next of the page before.")
VERSIONS = Parameter("var-version", list[str], "The version, as Grafana links have it; repeated for several versions.")
QUEUE = (
    MODEL,
    Parameter("version"),
    Parameter("segment"),
    Parameter("status", one_of(STATUSES)),
    Parameter("label", str, "The label of the review, or of the user without one, as JSON or plain text."),
    Parameter("predicted", str, "The prediction, as JSON or plain text."),
    Parameter("source", one_of(SOURCES), "Users' corrections by default."),
    Parameter("joined", one_of(("false", "true")), "With false, all feedback whose prediction has not arrived."),
    *PERIOD,
    Parameter("confidence_from", _Share),
    Parameter("confidence_to", _Share),
    Parameter("error_from", float, "The label minus the prediction, where both are numbers."),
    Parameter("error_to", float, "The same; exclusive."),
    Parameter(
        "q",
        Annotated[str, msgspec.Meta(max_length=schemas.MAX_SEARCH)],
        "Text in the comment, the user, the prediction's identifier or the inputs.",
    ),
    Parameter("alike", int, "The corrections equal to this one, which stands for them in the order uncertain."),
    Parameter("where", str, "The bins of a slice, as GET /v1/slices returns them, as a JSON object."),
    Parameter("suspect", one_of(("false", "true")), "Whether they are accepted ones whose label may be wrong."),
    Parameter("order", one_of(ORDERS), "The newest first by default."),
    LIMIT,
    CURSOR,
)
QUESTION = (
    Parameter("model", str, "A configured model; by default the only one."),
    Parameter("version", str, "A version; by default all that have the same profile."),
    Parameter("of", one_of(QUESTIONS), "What the slices contain; corrections by default."),
    Parameter("since", _Time, "Predictions received at this time or later; by default the last day's."),
    Parameter("limit", Annotated[int, msgspec.Meta(ge=1, le=MAX_SLICES)], "Slices at most; 10 by default."),
)
IDS = Parameter("ids", Literal["0", "1"], "With 1, returns the identifiers of the accepted predictions.")


JSON, NDJSON, TEXT, HTML = "application/json", "application/x-ndjson", "text/plain", "text/html"
OPENMETRICS, FORM, PNG = "application/openmetrics-text", "application/x-www-form-urlencoded", "image/png"
Media = dict[str, Any]
"""Types by media type; None for text and files, which no type describes."""


class Route(NamedTuple):
    """One method of one rule.

    Attributes
    ----------
    handler
        The function of the exporter and of the variables in the path that answers: the module below
        ``exporter.server``, a colon, and its name. It is imported at the first request of any page, so that an exporter
        without visitors loads no framework. The first line of its docstring is the summary.
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
    compressed
        Whether the body may be compressed, as collectors send it; its handler refuses unknown encodings.
    rule
        Flask's rule of its path.
    """

    handler: str
    responses: dict[int, Any]
    body: Any = None
    parameters: tuple[Parameter, ...] = ()
    scope: str | None = "read"
    pool: str = "pages"
    max_body: int = MAX_BODY
    compressed: bool = False
    rule: str = "other"


SMALL_BODY = 2**20
"""Bytes of a body that brings neither predictions nor labels."""
_TASKS = list[dict[str, Any]]
_FILES: Media = {form.content_type.partition(";")[0]: None for form in FORMATS.values()} | {JSON: _TASKS}
_HTML_PAGE: dict[int, Any] = {200: {HTML: None}}
_PROBE: dict[int, Any] = {200: {TEXT: None}}
_REDIRECT: dict[int, Any] = {303: {HTML: None}, 200: {HTML: None}}
_RECORDS: tuple[dict[int, Any], Any, tuple[Parameter, ...]] = (
    {200: {JSON: dict[str, Any], PROTOBUF: None}},
    {JSON: dict[str, Any] | list[Any], PROTOBUF: None},
    (KEY,),
)

ROUTES: dict[str, Route] = {
    "POST /v1/predictions": Route(
        "api.operations:predictions",
        {202: schemas.AcceptedEvents},
        {JSON: Prediction | list[Prediction], NDJSON: None},
        (KEY, IDS),
        scope="ingest",
    ),
    "GET /v1/predictions/<path:prediction_id>": Route(
        "api.corrections:prediction", {200: {JSON: schemas.StoredPrediction, HTML: None}}, parameters=(MODEL,)
    ),
    "POST /v1/feedback": Route(
        "api.operations:feedback",
        {201: schemas.FeedbackResult | schemas.FeedbackResults, 200: schemas.FeedbackResult | schemas.FeedbackResults},
        Feedback | list[Feedback],
        (KEY,),
        scope="feedback",
        pool="bodies",
    ),
    "POST /v1/labels": Route(
        "api.operations:labels",
        {201: schemas.LabelsResult, 200: schemas.LabelsResult},
        {JSON: LabelEvent | list[LabelEvent], NDJSON: None},
        (KEY,),
        scope="feedback",
        pool="labels",
    ),
    "POST /v1/events": Route(
        "api.operations:business_events",
        {202: schemas.AcceptedEvents},
        BusinessEvent | list[BusinessEvent],
        (KEY,),
        scope="ingest",
        pool="payloads",
    ),
    "POST /v1/notifications": Route(
        "api.operations:notifications", {200: dict[str, Any]}, Notification, (KEY,), scope="notify"
    ),
    "GET /v1/corrections": Route("api.corrections:list_corrections", {200: schemas.Corrections}, parameters=QUEUE),
    "GET /v1/corrections/<int:correction_id>": Route("api.corrections:show", {200: schemas.CorrectionWithHistory}),
    "PATCH /v1/corrections": Route(
        "api.corrections:decide_several", {200: schemas.DecisionResults}, list[schemas.BatchDecision], scope="review"
    ),
    "PATCH /v1/corrections/<int:correction_id>": Route(
        "api.corrections:decide", {200: schemas.Correction}, schemas.ReviewDecision, scope="review"
    ),
    "POST /v1/corrections/samples": Route(
        "api.corrections:draw_sample", {201: schemas.SampleResult}, schemas.SampleRequest, (KEY,), scope="review"
    ),
    "GET /v1/dataset": Route(
        "api.datasets:stream",
        {200: _FILES},
        parameters=(
            ONE_MODEL,
            FORMAT,
            Parameter("version"),
            Parameter("label", str, "The label of the review, or of the user without one."),
            *PERIOD,
            Parameter("include", str, "Predictions to add, separated by commas: confirmed, labelled."),
        ),
        pool="dataset",
    ),
    "POST /v1/dataset/releases": Route(
        "api.datasets:make_release",
        {201: schemas.Release, 200: schemas.Release},
        schemas.ReleaseRequest,
        scope="review",
        pool="dataset",
    ),
    "GET /v1/dataset/releases": Route(
        "api.datasets:list_releases",
        {200: schemas.Releases},
        parameters=(MODEL, LIMIT, CURSOR._replace(type=int)),
        pool="dataset",
    ),
    "GET /v1/dataset/releases/<key>": Route(
        "api.datasets:download",
        {200: _FILES | {JSON: schemas.Release | _TASKS, HTML: None}},
        parameters=(FORMAT,),
        pool="dataset",
    ),
    "GET /v1/compare": Route(
        "api.operations:compare",
        {200: schemas.Comparison},
        parameters=(
            Parameter("model", str, "A configured model; by default the only one."),
            Parameter("before", str, "The version to compare with; by default the last one before the other."),
            Parameter("after", str, "The version to judge; by default the newest."),
            Parameter("sequential", bool, "Whether verdicts are anytime-valid, if requests are independent."),
        ),
        pool="searches",
    ),
    "GET /v1/retrain-requests": Route(
        "api.operations:list_retrain_requests",
        {200: schemas.RetrainRequests},
        parameters=(MODEL, Parameter("limit", PageSize, "Requests that are listed.")),
    ),
    "POST /v1/retrain-requests": Route(
        "api.operations:request_retraining", {201: schemas.RetrainRequest}, schemas.RetrainBody, scope="review"
    ),
    "GET /v1/slices": Route("api.operations:slices", {200: schemas.Slices}, parameters=QUESTION, pool="searches"),
    "GET /metrics": Route(
        "api.operations:metrics",
        {200: {TEXT: None, OPENMETRICS: None}},
        parameters=(Parameter("name[]", list[str], "Return only these metrics."),),
        pool="scrapes",
    ),
    "GET /-/healthy": Route("application:healthy", _PROBE, scope=None),
    "GET /-/ready": Route("application:ready", _PROBE, scope=None),
    "POST /-/reload": Route("api.operations:reload", _PROBE, scope=USER),
    "PUT /-/reload": Route("api.operations:reload", _PROBE, scope=USER),
    "GET /": Route("pages.home:page", _HTML_PAGE),
    "GET /drift": Route(
        "pages.drift:page",
        _HTML_PAGE,
        parameters=(MODEL, Parameter("version"), VERSIONS, Parameter("window"), Parameter("feature")),
    ),
    "GET /quality": Route("pages.quality:page", _HTML_PAGE, parameters=(MODEL, Parameter("version"), VERSIONS)),
    "GET /slices": Route("pages.slices:page", _HTML_PAGE, parameters=QUESTION, pool="searches"),
    "GET /review": Route("pages.review:page", _HTML_PAGE, parameters=(*QUEUE, VERSIONS)),
    "POST /review/decide": Route("pages.review:decide", _REDIRECT, {FORM: dict[str, str]}, scope="review"),
    "POST /review/samples": Route("pages.review:draw_sample", _REDIRECT, {FORM: dict[str, str]}, scope="review"),
    "GET /v1/corrections/<int:correction_id>/inputs/<path:name>.png": Route("pages.review:image", {200: {PNG: None}}),
    "POST /v1/exchanges": Route(
        "api.operations:exchanges",
        {202: schemas.AcceptedEvents},
        {JSON: ProxyRecord | list[ProxyRecord], NDJSON: None},
        (KEY, IDS),
        scope="ingest",
        pool="payloads",
    ),
    "POST /v1/kserve": Route(
        "api.operations:kserve", {202: dict[str, Any]}, {JSON: Any}, (KEY,), scope="ingest", pool="payloads"
    ),
    "POST /v1/logs": Route("api.operations:logs", *_RECORDS, scope="ingest", pool="payloads", compressed=True),
    "POST /v1/traces": Route("api.operations:traces", *_RECORDS, scope="ingest", pool="payloads", compressed=True),
    "GET /docs/": Route("pages.documents:contents", _HTML_PAGE),
    "GET /docs/<path:name>": Route("pages.documents:page", _HTML_PAGE),
    "GET /runbooks/": Route("pages.documents:runbooks", _HTML_PAGE),
    "GET /runbooks/<name>": Route("pages.documents:runbook", _HTML_PAGE),
    "GET /d/<uid>": Route("pages.home:dashboard", _REDIRECT),
    "GET /openapi.json": Route("routes:openapi", {200: dict[str, Any]}),
}
"""By method and Flask's rule. A test compares the table with the routes of the application."""
ROUTES = {
    key: route._replace(
        rule=key.partition(" ")[2], max_body=MAX_BODY if route.scope in {"ingest", "feedback"} else SMALL_BODY
    )
    for key, route in ROUTES.items()
}
OTHER = Route("", {}, scope=None)
"""The route of requests that have none, or were refused before it was looked for."""
STATIC = Route("", {})
"""The route of scripts, styles and pictures, which Flask serves."""


def find(method: str, path: str) -> Route:
    """Return the route of a request; `OTHER` if there is none: then Flask returns the error.

    >>> find("HEAD", "/metrics").rule, find("GET", "/v1/predictions/r-1").rule, find("GET", "/nothing").rule
    ('/metrics', '/v1/predictions/<path:prediction_id>', 'other')
    """
    method = "GET" if method == "HEAD" else method
    if route := ROUTES.get(f"{method} {path}"):
        return route
    from werkzeug.exceptions import HTTPException  # imported with the first request of a rule with variables

    try:
        return ROUTES[_variable_rules().match(path, method)[0]]
    except HTTPException:
        return STATIC if path.startswith("/static/") else OTHER


@functools.cache
def _variable_rules() -> Any:
    from werkzeug.routing import Map, Rule

    rules = [route.split(" ") for route in ROUTES if "<" in route]
    return Map([Rule(rule, methods=[method], endpoint=f"{method} {rule}") for method, rule in rules]).bind("")


def find_handlers() -> dict[str, Callable[..., Any]]:
    """Import the handlers of all routes, and return them by their names in the table."""
    names = {route.handler for route in ROUTES.values()}
    return {name: pkgutil.resolve_name(f"exporter.server.{name}") for name in names}


_CONVERTER = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")
_OBJECT = dict[str, Any] | None
_ABOUT = (
    "Monitors deployed models and manages users' corrections. "
    "Without configured users and tokens no authentication is required. With them, each operation requires a token "
    "with the scope listed at bearer, or a user with a password."
)


def openapi(_exporter: object) -> Reply:
    """``GET /openapi.json``: return the OpenAPI document."""
    return json_reply(200, document())


@functools.cache
def document() -> dict[str, Any]:
    """Build the OpenAPI document of all `ROUTES`."""
    components: dict[str, Any] = {}

    def schema(type_: Any) -> dict[str, Any]:
        """Return the JSON schema of a type, and add those of its structs to the components."""
        if isinstance(type_, UnionType) and any(map(_is_struct, type_.__args__)):
            return {"anyOf": list(map(schema, type_.__args__))}
        if get_origin(type_) is list and _is_struct(type_.__args__[0]):
            return {"type": "array", "items": schema(type_.__args__[0])}
        (result,), structs = msgspec.json.schema_components(
            [_describable(type_)], ref_template="#/components/schemas/{name}"
        )
        components.update(structs)
        return dict(result)

    problem = {"description": "The error.", "content": {problems.CONTENT_TYPE: {"schema": schema(schemas.Problem)}}}
    paths: dict[str, dict[str, Any]] = {}
    handlers = find_handlers()
    for route, operation in ROUTES.items():
        method, _, rule = route.partition(" ")
        path = paths.setdefault(_CONVERTER.sub(r"{\2}", rule), {})
        path[method.lower()] = _operation(operation, rule, _summary(handlers[operation.handler]), schema)
    for component in components.values():
        if "description" in component:  # without the attributes, which are for readers of the code
            component["description"] = component["description"].partition("\n")[0].replace("``", "`")
    return {
        "openapi": "3.1.0",
        "info": {"title": "model-exporter", "version": version(), "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "responses": {"Problem": problem},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


_Schema = Callable[[Any], dict[str, Any]]


def _operation(operation: Route, rule: str, summary: str, schema: _Schema) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if converter == "int" else {"type": "string"},
        }
        for converter, name in _CONVERTER.findall(rule)
    ]
    for parameter in operation.parameters:
        entry = {
            "name": parameter.name,
            "in": parameter.location,
            "required": parameter.required,
            "schema": schema(parameter.type),
        }
        parameters.append(entry | ({"description": parameter.description} if parameter.description else {}))
    responses: dict[str, Any] = {
        str(status): {"description": summary, "content": _content(type_, schema)}
        for status, type_ in operation.responses.items()
    }
    result: dict[str, Any] = {"summary": summary, "security": _security(operation.scope)}
    if parameters:
        result["parameters"] = parameters
    if operation.body is not None:
        result["requestBody"] = {"required": True, "content": _content(operation.body, schema)}
    return {**result, "responses": {**responses, "default": {"$ref": "#/components/responses/Problem"}}}


def _summary(handler: Callable[..., Any]) -> str:
    """Return the first sentence of a handler's docstring, without the route before it."""
    text = re.split(r"; |\n\n|\.$", (handler.__doc__ or "").partition("``: ")[2])[0].strip()
    return f"{text[:1].upper()}{text[1:]}."


def _security(scope: str | None) -> list[dict[str, list[str]]]:
    basic: list[dict[str, list[str]]] = [{"basic": []}]
    return basic if scope == USER else [*basic, {"bearer": [] if scope is None else [scope]}]


def _content(type_: Any, schema: _Schema) -> dict[str, Any]:
    """Return the schemas by media type; a type that is not a `Media` is JSON."""
    media = type_ if isinstance(type_, dict) else {JSON: type_}
    return {name: {} if item is None else {"schema": schema(item)} for name, item in media.items()}


def _is_struct(type_: Any) -> bool:
    return isinstance(get_origin(type_) or type_, type) and (
        issubclass(type_, msgspec.Struct) if get_origin(type_) is None else _is_struct(type_.__args__[0])
    )


def _describable(type_: Any) -> Any:
    """Return a type whose raw JSON members are objects, because a schema cannot describe raw JSON."""
    if not _is_struct(type_) or all(field.type is not msgspec.Raw for field in msgspec.structs.fields(type_)):
        return type_
    members = [
        (field.encode_name, _OBJECT, None)
        if field.type is msgspec.Raw
        else (field.encode_name, field.type, *(() if field.required else (field.default,)))
        for field in msgspec.structs.fields(type_)
    ]
    return msgspec.defstruct(type_.__name__, members, namespace={"__doc__": type_.__doc__}, kw_only=True)
