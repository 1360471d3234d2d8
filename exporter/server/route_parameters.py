"""The parameters of the routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from exporter.datasets import FORMATS
from exporter.server.api.correction_query import MAX_LIMIT, MAX_SEARCH
from exporter.slices.explain import MAX_LIMIT as MAX_SLICES
from exporter.slices.explain import QUESTIONS
from exporter.storage.review.correction_pages import ORDERS
from exporter.storage.review.corrections import STATUSES, VERDICTS


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
PageSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
KEY = Parameter(
    "Idempotency-Key",
    Annotated[str, msgspec.Meta(min_length=1, max_length=255)],
    "Makes a retried request count once.",
    location="header",
)
MODEL = Parameter("model", str, "A configured model.")
FORMAT = Parameter("format", one_of(FORMATS), "The format of the file; JSON lines by default.")
PERIOD = (
    Parameter("since", _Time, "Corrections received at this time or later."),
    Parameter("until", _Time, "Corrections received before this time."),
)
_PAGE = (
    Parameter("limit", PageSize, "Entries on a page."),
    Parameter("cursor", str, "From the URL next of the page before."),
)
VERSIONS = Parameter("var-version", list[str], "The version, as Grafana links have it; repeated for several versions.")
QUEUE = (
    MODEL,
    Parameter("version"),
    Parameter("segment"),
    Parameter("status", one_of(STATUSES)),
    Parameter("label", str, "The label of the review, or of the user without one, as JSON or plain text."),
    Parameter("predicted", str, "The prediction, as JSON or plain text."),
    Parameter("source", one_of(VERDICTS), "Users' corrections by default."),
    Parameter("joined", one_of(("false", "true")), "With false, all feedback whose prediction has not arrived."),
    *PERIOD,
    Parameter("confidence_from", _Share),
    Parameter("confidence_to", _Share),
    Parameter("error_from", float, "The label minus the prediction, where both are numbers."),
    Parameter("error_to", float, "The same; exclusive."),
    Parameter(
        "q",
        Annotated[str, msgspec.Meta(max_length=MAX_SEARCH)],
        "Text in the comment, the user, the prediction's identifier or the inputs.",
    ),
    Parameter("alike", int, "The corrections that are like this one, which stands for them in the order informative."),
    Parameter("where", str, "The bins of a slice, as GET /v1/slices returns them, as a JSON object."),
    Parameter("suspect", one_of(("false", "true")), "Whether they are accepted ones whose label may be wrong."),
    Parameter("order", one_of(ORDERS), "The newest first by default."),
    *_PAGE,
)
QUESTION = (
    Parameter("model", str, "A configured model; by default the only one."),
    Parameter("version", str, "A version; by default all that have the same profile."),
    Parameter("of", one_of(QUESTIONS), "What the slices hold; corrections by default."),
    Parameter("since", _Time, "Predictions received at this time or later; by default those of the last day."),
    Parameter("limit", Annotated[int, msgspec.Meta(ge=1, le=MAX_SLICES)], "Slices at most; 10 by default."),
)
IDS = Parameter("ids", Literal["0", "1"], "With 1, returns the identifiers of the accepted predictions.")
