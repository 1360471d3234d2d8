"""The strata of samples for review: confident predictions of a version by confidence, as a draw stores them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.storage._schema import feedback


class Strata(msgspec.Struct, frozen=True):
    """The strata of one version at its last draw.

    Attributes
    ----------
    edges
        Ascending confidences at which a stratum begins; predictions without a confidence are the last stratum. None
        where an older version of the exporter drew: all predictions are one stratum.
    confident
        Estimated number of confident predictions by stratum.
    seen
        How many of them were read for the estimate; 0 if an older version of the exporter drew.
    """

    edges: tuple[float, ...] | None
    confident: tuple[int, ...]
    seen: int

    def __post_init__(self) -> None:
        if self.edges is not None and (
            len(self.confident) != len(self.edges) + 2 or list(self.edges) != sorted(set(self.edges))
        ):
            raise ValueError("expected ascending edges, and two more strata than edges")


def stored_strata(draw: Any) -> Strata:
    """Return the strata of a row of draws; those of an older version, or that cannot be read, are one stratum."""
    if draw.strata is not None:
        try:
            return msgspec.json.decode(draw.strata, type=Strata)
        except msgspec.MsgspecError:  # another program wrote it
            pass
    return Strata(None, (draw.confident,), 0)


def count_columns(edges: Sequence[float] | None) -> list[sa.ColumnElement[int]]:
    """Return cumulated counts of feedback by stratum; `counts_by_stratum` takes their differences.

    To group by stratum, a database would sort all of a version's feedback.
    """
    if edges is None:
        return [sa.func.count()]
    below = [sa.func.count().filter(feedback.c.confidence < edge) for edge in edges]
    return [*below, sa.func.count(feedback.c.confidence), sa.func.count()]


def counts_by_stratum(cumulated: Sequence[int]) -> list[int]:
    """Return the counts by stratum, as `exporter.stats.strata.stratum_of` numbers them.

    >>> counts_by_stratum([2, 5, 6])
    [2, 3, 1]
    """
    return [after - before for before, after in itertools.pairwise([0, *cumulated])]
