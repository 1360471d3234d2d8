"""Sums that do not depend on the order in which an engine adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression, literal

_STEPS = 2.0**22
"""Parts of a number, twice over: its sums are those of whole numbers of 64 bits, of up to 10¹² rows."""


def exact_sums(
    table: EngineTable, rows: Expression, keys: Sequence[str], largest: float
) -> dict[str, npt.NDArray[Any]]:
    """Return the keys of each group, its number of rows ``n``, and the ``sum`` of their numbers.

    Parameters
    ----------
    table
        The table.
    rows
        Its rows, with the keys and a ``number``; null counts as 0.
    keys
        Columns of whole numbers.
    largest
        A number that no absolute value exceeds; each value is exact to 2⁻⁴⁴ of it.
    """
    bound = math.ldexp(1.0, max(math.frexp(largest)[1], -1000))
    scaled = rows.select(*keys, scaled=rows.number.fill_null(0.0) * literal(_STEPS / bound))
    whole = scaled.scaled.floor()
    rest = ((scaled.scaled - whole) * literal(_STEPS)).floor()
    parts = scaled.select(*keys, whole=whole.cast("int64"), rest=rest.cast("int64"))
    groups = parts.group_by([*keys])
    found = table.columns(groups.aggregate(n=parts.count(), whole=parts.whole.sum(), rest=parts.rest.sum()))
    found["sum"] = (found.pop("whole") + found.pop("rest") / _STEPS) * (bound / _STEPS)
    return found
