"""Sample the rows of a table by a hash of their values, which gives the same sample each time."""

from __future__ import annotations

from exporter.profiles.correlation_builder import GROUPS
from exporter.profiles.engines.connection import EngineTable
from exporter.profiles.engines.expressions import Expression

_STEPS = 1_000_000
_MIN_DISTINCT = 0.5  # hashes for each row; with fewer they would choose values, not rows


def sample_rows(table: EngineTable, rows: Expression, number: int, most: int) -> tuple[Expression, bool]:
    """Return about ``most`` of the rows, and whether most rows differ; all rows where they do not.

    Parameters
    ----------
    table
        The table.
    rows
        Rows with their ``hash``, see `exporter.profiles.engines.expressions.row_hash`.
    number
        Number of the rows.
    most
        About how many are returned. They are spread evenly over the hashes modulo `GROUPS`.
    """
    found = table.row(rows.aggregate(distinct=rows.hash.approx_nunique()))
    if found["distinct"] < _MIN_DISTINCT * number:
        return rows, False
    kept = max(int(min(1.0, most / number) * _STEPS), 1) * GROUPS
    return rows.filter(rows.hash % (GROUPS * _STEPS) < kept), True
