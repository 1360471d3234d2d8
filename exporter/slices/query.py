"""What can be asked of the slices of a model."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Of = Literal["corrections", "disagreement", "drift", "errors", "estimated_loss"]
QUESTIONS: tuple[Of, ...] = get_args(Of)
"""What the slices may be searched for."""
DAY = 86400.0
"""How far the search looks back by default, in seconds."""
DEFAULT_LIMIT, MAX_LIMIT = 10, 50
"""Slices of an answer: unless the client asks for another number, and at most."""


class SliceQuery(NamedTuple):
    """What a client asks.

    Attributes
    ----------
    model, version
        The model, and its version; all versions in the same bins when None.
    of
        What the slices should hold more than their share of.
    since
        Predictions since this Unix time in seconds; of drift, those of the equal time before as well.
    limit
        Slices at most.
    """

    model: str
    version: str | None
    of: Of
    since: float
    limit: int = DEFAULT_LIMIT
