"""Parameters and bodies: checks, with errors that say what would be right, and the types of requests and responses.

The types of responses are for the OpenAPI document; a test compares them with real responses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from exporter.errors import EventError
from exporter.storage import STATUSES
from exporter.validation import any_of, explain, json_pointer, preview, suggestion
from exporter.wire.events import Label, Verdict, check_model

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
"""Corrections on a page: unless the client asks for another number, and at most."""
MAX_SEARCH = 256
"""Characters of a search text."""
MAX_ID = 2**31 - 1
"""The greatest identifier or revision that every database can store."""

_Body = TypeVar("_Body", bound=msgspec.Struct)


def malformed(detail: str) -> EventError:
    """Return the error for a parameter."""
    return EventError("", detail, "malformed")


def check_parameters(arguments: Mapping[str, str], names: Collection[str]) -> None:
    """Check that all parameters are known and hold text that can be stored."""
    for name, text in arguments.items():
        if name not in names:
            raise malformed(f"the parameter {preview(name)} is not known; {suggestion(name, names)}")
        if "\0" in text:
            raise malformed(f"{name}: expected text without the character NUL")


def parse_model(models: Collection[str], name: str | None) -> str:
    """Return the name of a configured model; the only one where none is named."""
    if name:
        check_model(models, name)
        return name
    if not models:
        raise EventError("", "model: is required, and no model is configured", "missing_field")
    if len(models) != 1:
        raise EventError("", f"model: is required, one of {any_of(map(preview, models))}", "missing_field")
    return next(iter(models))


def parse_whole_number(name: str, text: str | None, most: int) -> int | None:
    """Return a parameter from 1 to ``most``."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise malformed(f"{name}: expected a whole number from 1 to {most}, got {preview(text)}")
    return int(text)


def parse_truth(name: str, text: str | None) -> bool:
    """Return whether a parameter is ``true``; False without one."""
    if text not in (None, "true", "false"):
        raise malformed(f"{name}: expected true or false, got {preview(text)}")
    return text == "true"


def parse_ids(text: str | None) -> bool:
    """Return whether the parameter ``ids`` asks for the identifiers of the accepted events."""
    if text not in (None, "0", "1"):
        raise malformed(f"ids: expected 1 or 0, got {preview(text)}")
    return text == "1"


def parse_time(name: str, text: str | None) -> float | None:
    """Return a time in Unix seconds; other forms of ISO 8601 than those of RFC 3339 are read as well."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        expected = 'an RFC 3339 time with a zone such as "2026-11-24T10:00:00Z"'
        raise malformed(f"{name}: expected {expected}, got {preview(text)}")
    return time.timestamp()


def parse_json(body: bytes) -> object:
    """Return the document of a body."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed("the body is not JSON") from None


def convert_body(struct: type[_Body], document: object) -> _Body:
    """Return a document as a struct."""
    try:
        return msgspec.convert(document, struct)
    except msgspec.ValidationError as error:
        path, detail, reason = explain(error, document, struct.__struct_fields__, {"status": STATUSES})
        raise EventError(json_pointer(path), detail, reason) from None


class RejectedEvent(msgspec.Struct):
    """An event that was rejected; `index` is its position in the request."""

    index: int
    pointer: str
    detail: str


class AcceptedEvents(msgspec.Struct):
    """How many events were accepted; at most 1,000 rejected ones are listed.

    ``warnings`` name a member that is not known and was probably meant to be another one, and inputs of the first event
    that are not in the profile.
    """

    accepted: int
    rejected: list[RejectedEvent]
    ids: list[str] | UnsetType = UNSET
    warnings: list[FieldError] | UnsetType = UNSET


class FeedbackResult(msgspec.Struct):
    """Feedback that is on disk."""

    id: str
    prediction_id: str | None
    verdict: Verdict
    joined: bool


class FeedbackResults(msgspec.Struct):
    """Several items of feedback that are on disk."""

    accepted: int
    rejected: list[RejectedEvent]
    feedback: list[FeedbackResult]


class LabelsResult(msgspec.Struct):
    """The results of recorded labels.

    ``accepted`` ones are on disk: ``joined`` with their predictions, or ``waiting`` for them. ``repeated`` ones equal
    the label before, ``changed`` ones replace another.
    """

    accepted: int
    joined: int
    waiting: int
    repeated: int
    changed: int
    rejected: list[RejectedEvent]


class ReleasedSuspects(msgspec.Struct):
    """Accepted corrections whose label may be wrong; ``checked`` is when labels were checked last."""

    found: int
    excluded: bool
    checked: str | None


class ReleaseSampling(msgspec.Struct):
    """What weights the samples of a version: the number of confident predictions, and of the ones with feedback."""

    confident: int
    with_feedback: int


class Lineage(msgspec.Struct, rename={"since": "from", "until": "to"}):
    """The origin of the examples in a release, and what is in them; releases of older exporters have less."""

    versions: dict[str, int]
    labels: dict[str, int]
    reviewers: dict[str, int]
    since: str | None
    until: str | None
    predictions: dict[str, int] | UnsetType = UNSET
    outcomes: dict[str, dict[str, int]] | UnsetType = UNSET
    sources: dict[str, int] | UnsetType = UNSET
    weights: dict[str, float] | UnsetType = UNSET
    traffic: int | UnsetType | None = UNSET
    use: str | UnsetType = UNSET
    without_inputs: int | UnsetType = UNSET
    suspects: ReleasedSuspects | UnsetType = UNSET
    sampling: dict[str, ReleaseSampling] | UnsetType = UNSET
    profile: str | UnsetType | None = UNSET
    parent: str | UnsetType | None = UNSET
    exporter_version: str | UnsetType = UNSET
    redacted_from: str | UnsetType = UNSET
    forgotten: int | UnsetType = UNSET


class Release(msgspec.Struct):
    """A frozen dataset."""

    id: str
    name: str
    model: str
    sha256: str
    examples: int
    bytes: int
    created: str
    by: str | None
    lineage: Lineage


class Releases(msgspec.Struct):
    """A page of the releases."""

    releases: list[Release]
    next: str | None


class ComparedSide(msgspec.Struct, rename={"since": "from", "until": "to"}):
    """A version, the first and the last moment of the shared time, and what the version counted in it."""

    version: str
    since: str
    until: str
    requests: float
    errors: float
    attempts: float
    confident: float
    corrections: float
    feedback: float


class MeasuredInterval(msgspec.Struct):
    """A number with its 95% confidence interval, and what it is computed from; null for infinity."""

    value: float | None
    low: float | None
    high: float | None
    n: float | UnsetType = UNSET


class ComparedMeasure(msgspec.Struct):
    """A measure of both versions, and their difference; null where it is not known.

    ``decision``, ``needed`` and ``margin`` are there with `sequential=true`.
    """

    name: Literal[
        "error_ratio",
        "latency_p95_seconds",
        "confident_ratio",
        "correction_ratio",
        "worst_drift_nats",
        "accuracy",
        "mean_absolute_error",
    ]
    basis: Literal["measured", "estimated"] | None
    before: MeasuredInterval | None
    after: MeasuredInterval | None
    difference: MeasuredInterval | None
    p_value: float | None
    chance: float | None
    features: list[str] | None
    verdict: Literal["better", "worse", "not proven", "unknown"]
    sentence: str
    decision: Literal["promote", "rollback", "wait"] | UnsetType = UNSET
    needed: bool | UnsetType = UNSET
    margin: float | UnsetType = UNSET


class SameRequests(msgspec.Struct, rename={"since": "from", "until": "to"}):
    """Requests that both versions answered: users saw the version before, and nobody the version after."""

    pairs: float
    disagreements: float
    since: str
    until: str
    disagreement_ratio: MeasuredInterval
    mean_absolute_difference: MeasuredInterval | None
    sentence: str


class Comparison(msgspec.Struct):
    """Two versions of a model over the time in which both served; a decision with `sequential=true`."""

    model: str
    summary: str
    before: ComparedSide
    after: ComparedSide
    shared_seconds: float | None
    confidence: float
    sequential: bool
    same_requests: SameRequests | None
    measures: list[ComparedMeasure]
    decision: Literal["promote", "rollback", "wait"] | UnsetType = UNSET
    reasons: list[str] | UnsetType = UNSET


class RetrainRequest(msgspec.Struct):
    """A request for a new version of a model."""

    id: str
    model: str
    reason: Literal["accuracy", "corrections", "manual"]
    detail: str
    status: Literal["waiting", "delivered", "abandoned"]
    created: str
    delivered: str | None
    attempts: int
    error: str | None


class RetrainRequests(msgspec.Struct):
    """The newest requests."""

    requests: list[RetrainRequest]


class FoundSlice(msgspec.Struct):
    """Predictions in one bin of the profile, or in a bin of each of two features.

    ``where`` names the bins by feature. ``size`` is the number of predictions in the slice, and ``held`` what it holds
    of the total. ``share`` is the share that it holds, ``traffic_share`` its share of the traffic, and ``ratio`` the
    former divided by the latter. ``q_value`` is the p-value times the number of tests. ``segment_by`` is the input by
    which the configuration can watch it.
    """

    where: dict[str, str]
    size: int
    share: float
    ratio: float
    q_value: float
    held: float
    traffic_share: float
    segment_by: str | None
    sentence: str


class Slices(msgspec.Struct):
    """The slices that hold the most of something.

    ``predictions`` is the number of those that were looked at, and ``total`` what all of them hold. ``truncated`` tells
    whether older predictions were left out. ``users`` is the number of users who gave the corrections.
    ``compared_with`` tells what ``traffic_share`` is a share of: the predictions that were looked at, those before, or
    the training data.
    """

    model: str
    version: str | None
    of: Literal["corrections", "drift", "errors", "estimated_loss"]
    since: str
    until: str
    predictions: int
    total: float
    tests: int
    truncated: bool
    users: int | None
    largest_user_share: float | None
    remarks: list[str]
    compared_with: Literal["before", "traffic", "training"]
    slices: list[FoundSlice]


class FieldError(msgspec.Struct):
    """A field of the body that is not valid."""

    pointer: str
    detail: str


class Problem(msgspec.Struct):
    """An error (RFC 9457); some have further members, such as the current correction."""

    title: str
    status: int
    detail: str
    errors: list[FieldError] | UnsetType = UNSET


_Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]


class ReviewDecision(msgspec.Struct, forbid_unknown_fields=True):
    """A reviewer's decision; without a label, or with null, the label stays the same.

    ``reviewer`` names an annotator of Label Studio; a user of the web configuration cannot have such a name.
    """

    status: Literal["accepted", "pending", "rejected"]
    revision: _Id
    label: Label = None
    reviewer: Annotated[str, msgspec.Meta(pattern="^label-studio:", max_length=200)] | None = None


_CorrectionId = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")] | _Id


class BatchDecision(ReviewDecision, forbid_unknown_fields=True, kw_only=True):
    """A reviewer's decision on one of several corrections."""

    id: _CorrectionId


class SampleRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How many predictions of a model to draw for review."""

    model: str
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
    version: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class RetrainBody(msgspec.Struct, forbid_unknown_fields=True):
    """The model to retrain."""

    model: Annotated[str, msgspec.Meta(max_length=128)]


class ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The release to make."""

    model: Annotated[str, msgspec.Meta(max_length=128)]
    name: str | None = None
    exclude_suspects: bool = False
    include: list[str] = []


class Suspect(msgspec.Struct):
    """Why the label of an accepted correction may be wrong.

    ``compared`` is the number of similar inputs that it was compared with. Of these, ``with_likely`` have the label
    ``likely``, and ``with_label`` that of the correction.
    """

    likely: Label
    compared: int
    with_likely: int
    with_label: int
    reason: str


class GivenFeedback(msgspec.Struct):
    """Feedback on a prediction, and its review."""

    id: str
    verdict: Verdict | Literal["sampled"]
    label: Label
    user_label: Label
    user: str | None
    comment: str | None
    created: str | None
    status: Literal["accepted", "pending", "rejected"]
    reviewer: str | None
    reviewed: str | None
    revision: int


class StoredPrediction(msgspec.Struct):
    """A prediction, its true label with the time at which that became known, and the feedback on it."""

    id: str
    alias: str | None
    model: str
    version: str
    segment: str | None
    time: str | None
    inputs: dict[str, Any] | None
    prediction: Label
    confidence: float | None
    code: int
    duration_seconds: float | None
    label: Label
    labelled: str | None
    feedback: GivenFeedback | None


class Correction(GivenFeedback, kw_only=True):
    """A correction, a prediction drawn for review, or feedback that waits for its prediction."""

    prediction_id: str | None
    model: str | None
    version: str | None
    segment: str | None
    joined: bool
    source: Literal["user", "sample"]
    inputs: dict[str, Any] | None
    prediction: Label
    confidence: float | None
    predicted: str | None
    new_label: bool
    alike: int | UnsetType = UNSET
    suspect: Suspect | UnsetType = UNSET
    unreadable: list[str] | UnsetType = UNSET


class HistoryEntry(msgspec.Struct):
    """An entry in the history of a correction: a user's feedback, or a reviewer's decision."""

    time: str | None
    label: Label
    verdict: Verdict | Literal["sampled"] | UnsetType = UNSET
    user: str | UnsetType | None = UNSET
    comment: str | UnsetType | None = UNSET
    status: Literal["accepted", "pending", "rejected"] | UnsetType = UNSET
    reviewer: str | UnsetType | None = UNSET
    revision: int | UnsetType = UNSET


class CorrectionWithHistory(Correction, kw_only=True):
    """A correction with its history, the earliest entry first."""

    history: list[HistoryEntry]


class Corrections(msgspec.Struct):
    """A page of the review queue.

    With ``where``, ``truncated`` tells whether there are older corrections that were not looked at.
    """

    corrections: list[Correction]
    next: str | None
    truncated: bool | UnsetType = UNSET


class DecisionResult(msgspec.Struct):
    """The result of one of several decisions."""

    id: str
    taken: bool
    status: Literal[200, 404, 409]
    detail: str | UnsetType = UNSET
    correction: Correction | UnsetType = UNSET


class DecisionResults(msgspec.Struct):
    """The results of several decisions, in their order."""

    results: list[DecisionResult]


class SampleResult(msgspec.Struct):
    """How many predictions were drawn for review."""

    drawn: int
