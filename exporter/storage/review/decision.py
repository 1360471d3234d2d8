"""A reviewer's decision on a correction."""

from __future__ import annotations

from typing import NamedTuple


class Decision(NamedTuple):
    """A reviewer's decision.

    Attributes
    ----------
    status
        One of `exporter.storage.review.corrections.STATUSES`.
    label
        The reviewer's label as stored JSON; None keeps the label. The label of a correction that becomes pending again
        is the user's.
    revision
        The revision that the reviewer saw.
    """

    status: str
    label: str | None
    revision: int
    reviewer: str | None
