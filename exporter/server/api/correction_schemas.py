"""Types of the responses about corrections and their review; see `exporter.server.api.schemas`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from exporter.wire.events import Label


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


class Correction(msgspec.Struct):
    """A correction, a prediction drawn for review, or feedback that waits for its prediction."""

    id: str
    prediction_id: str | None
    model: str | None
    version: str | None
    segment: str | None
    joined: bool
    verdict: Literal["accepted", "corrected", "sampled"]
    source: Literal["user", "sample"]
    inputs: dict[str, Any] | None
    prediction: Label
    confidence: float | None
    predicted: str | None
    label: Label
    user_label: Label
    user: str | None
    comment: str | None
    created: str | None
    status: Literal["accepted", "pending", "rejected"]
    reviewer: str | None
    reviewed: str | None
    revision: int
    new_label: bool
    alike: int | UnsetType = UNSET
    suspect: Suspect | UnsetType = UNSET
    unreadable: list[str] | UnsetType = UNSET


class HistoryEntry(msgspec.Struct):
    """An entry in the history of a correction: a user's feedback, or a reviewer's decision."""

    time: str | None
    label: Label
    verdict: Literal["accepted", "corrected", "sampled"] | UnsetType = UNSET
    user: str | UnsetType | None = UNSET
    comment: str | UnsetType | None = UNSET
    status: Literal["accepted", "pending", "rejected"] | UnsetType = UNSET
    reviewer: str | UnsetType | None = UNSET
    revision: int | UnsetType = UNSET


class CorrectionWithHistory(Correction, kw_only=True):
    """A correction with a page of its history, the earliest entry first, and the URL of the next page."""

    history: list[HistoryEntry]
    history_next: str | None


class Corrections(msgspec.Struct):
    """A page of the review queue.

    With ``where``, ``truncated`` tells whether there are older corrections that were not looked at.
    """

    corrections: list[Correction]
    next: str | None
    truncated: bool | UnsetType = UNSET


class UserCorrections(msgspec.Struct):
    """The corrections of one user by their status."""

    user: str | None
    corrections: int
    share: float
    accepted: int
    pending: int
    rejected: int
    suspicious: bool


class Users(msgspec.Struct):
    """The users who corrected a model, the most active first, and the median of their corrections."""

    users: list[UserCorrections]
    total: int
    median: int


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
