"""Bodies of requests of the JSON API, apart from events."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from exporter.server.api.correction_query import MAX_ID, MAX_LIMIT
from exporter.wire.events import Label

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
    hold_back: bool = False
    exclude_suspects: bool = False
