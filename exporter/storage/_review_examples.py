"""Read accepted corrections, ordered by identifier."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.features.json_inputs import unpack_json
from exporter.storage._schema import feedback, is_accepted

Example = Mapping[Any, Any]
"""The `COLUMNS` of an accepted correction."""
ROWS = 16
"""Rows that the driver fetches at a time: the inputs of a row may have 16 MiB."""
COLUMNS = tuple(
    feedback.c[name]
    for name in (
        "id", "revision", "prediction_id", "model", "version", "inputs", "label", "reviewed_label", "prediction",
        "confidence", "verdict", "user", "reviewer", "reviewed", "predicted",
    )
)  # fmt: skip


class Selection(NamedTuple):
    """Selects accepted corrections; None does not filter.

    Attributes
    ----------
    labels
        JSON texts; the effective label is one of them.
    since, until
        Unix time in seconds of the user's feedback, or of the sample; ``until`` is exclusive.
    reviewed_until
        Unix time in seconds; corrections that were reviewed later are left out, so that all readers see the same.
    """

    model: str
    version: str | None = None
    labels: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    reviewed_until: float | None = None


def accepted_examples(connection: sa.Connection, selection: Selection, after: int = 0) -> Iterator[Example]:
    """Yield rows of `COLUMNS`, from one query and so from one state of the database.

    Parameters
    ----------
    connection
        To read with.
    selection
        Which corrections.
    after
        The identifier after which to start.
    """
    table = feedback.c
    effective_label = sa.func.coalesce(table.reviewed_label, table.label)
    # Earlier versions took corrections without a label.
    has_label = effective_label.is_not(None)
    conditions = [table.model == selection.model, is_accepted, table.id > after, has_label]
    filters: tuple[tuple[Any, Callable[[Any, Any], Any], Any], ...] = (
        (table.version, operator.eq, selection.version),
        (effective_label, sa.ColumnElement.in_, selection.labels),
        (table.created, operator.ge, selection.since),
        (table.created, operator.lt, selection.until),
        (table.reviewed, operator.le, selection.reviewed_until),
    )
    conditions += [compare(column, value) for column, compare, value in filters if value is not None]
    query = sa.select(*COLUMNS).where(*conditions).order_by(table.id).execution_options(yield_per=ROWS)
    with connection.execute(query) as result:
        for row in result.mappings():
            yield {**row, "inputs": row["inputs"] and unpack_json(row["inputs"])}
