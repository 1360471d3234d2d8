"""What the routes answer, as types: for the OpenAPI document, which tests compare with what is really answered."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from exporter.events import Label


class Refused(msgspec.Struct):
    """An event that was not taken, by its place in the request."""

    index: int
    pointer: str
    detail: str


class Accepted(msgspec.Struct):
    """How many events were taken; at most 1,000 of the others are explained."""

    accepted: int
    rejected: list[Refused]
    ids: list[str] | UnsetType = UNSET


class Word(msgspec.Struct):
    """A word of feedback that is on disk."""

    id: str
    prediction_id: str | None
    verdict: Literal["accepted", "corrected"]
    joined: bool


class Words(msgspec.Struct):
    """Several words of feedback that are on disk."""

    accepted: int
    rejected: list[Refused]
    feedback: list[Word]


class Correction(msgspec.Struct):
    """A correction, or a prediction drawn for review."""

    id: str
    prediction_id: str | None
    model: str
    version: str
    segment: str | None
    source: Literal["user", "sample"]
    inputs: dict[str, Any] | None
    prediction: Label
    confidence: float | None
    predicted: str | None
    label: Label
    user_label: Label
    user: str | None
    comment: str | None
    created: str
    status: Literal["accepted", "pending", "rejected"]
    reviewer: str | None
    reviewed: str | None
    revision: int
    new_label: bool


class Told(msgspec.Struct):
    """Something that happened to a correction: a user's word, or a reviewer's decision."""

    time: str
    label: Label
    verdict: Literal["accepted", "corrected", "sampled"] | UnsetType = UNSET
    user: str | UnsetType | None = UNSET
    comment: str | UnsetType | None = UNSET
    status: Literal["accepted", "pending", "rejected"] | UnsetType = UNSET
    reviewer: str | UnsetType | None = UNSET
    revision: int | UnsetType = UNSET


class CorrectionWithHistory(Correction):
    """A correction and what happened to it, the earliest first."""

    history: list[Told]


class Corrections(msgspec.Struct):
    """A page of the review queue."""

    corrections: list[Correction]
    next: str | None


class User(msgspec.Struct):
    """How much one user corrected, and what became of it."""

    user: str | None
    corrections: int
    share: float
    accepted: int
    pending: int
    rejected: int
    suspicious: bool


class Users(msgspec.Struct):
    """Who corrected a model, the busiest first, and the median user's corrections."""

    users: list[User]
    total: int
    median: int


class Result(msgspec.Struct):
    """What became of one of several decisions."""

    id: str
    taken: bool
    status: Literal[200, 404, 409]
    detail: str | UnsetType = UNSET
    correction: Correction | UnsetType = UNSET


class Results(msgspec.Struct):
    """What became of several decisions, in their order."""

    results: list[Result]


class Drawn(msgspec.Struct):
    """How many predictions were drawn for review."""

    drawn: int


class Lineage(msgspec.Struct, rename={"since": "from", "until": "to"}):
    """Where a release's examples come from."""

    versions: dict[str, int]
    labels: dict[str, int]
    reviewers: dict[str, int]
    since: str | None
    until: str | None
    held_back: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


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


class Wrong(msgspec.Struct):
    """A field of a body that is wrong."""

    pointer: str
    detail: str


class Problem(msgspec.Struct):
    """An error (RFC 9457); some have further members, such as the correction as it stands."""

    title: str
    status: int
    detail: str
    errors: list[Wrong] | UnsetType = UNSET
