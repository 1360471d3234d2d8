"""Accepted corrections, in the order of their identifiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.features.png_codec import unpack_json
from exporter.storage.schema import accepted as is_accepted
from exporter.storage.schema import feedback

ROWS = 16
"""Rows that the driver fetches at a time: the inputs of one may have 16 MiB."""
COLUMNS = tuple(
    feedback.c[name]
    for name in (
        "id", "revision", "prediction_id", "model", "version", "inputs", "label", "reviewed_label", "prediction",
        "confidence", "verdict", "user", "reviewer", "reviewed", "predicted",
    )
)  # fmt: skip


class Selection(NamedTuple):
    """Which accepted corrections; None does not filter.

    Attributes
    ----------
    labels
        Spellings, of which the label that counts is one.
    since, until
        Unix time in seconds at which the user, or the sample, came.
    reviewed_until
        Unix time in seconds up to which they were decided: what is decided later is not among them,
        however often they are read.
    """

    model: str
    version: str | None = None
    labels: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    reviewed_until: float | None = None


def accepted(connection: sa.Connection, chosen: Selection, after: int = 0) -> Iterator[Mapping[Any, Any]]:
    """Rows of `COLUMNS`, fetched as they are taken; one query, so of one state of the database.

    Parameters
    ----------
    connection
        To read with.
    chosen
        Which.
    after
        The identifier after which to begin.
    """
    table = feedback.c
    found = [table.model == chosen.model, is_accepted, table.joined, table.id > after]
    if chosen.version is not None:
        found.append(table.version == chosen.version)
    if chosen.labels is not None:
        found.append(sa.func.coalesce(table.reviewed_label, table.label).in_(chosen.labels))
    if chosen.since is not None:
        found.append(table.created >= chosen.since)
    if chosen.until is not None:
        found.append(table.created < chosen.until)
    if chosen.reviewed_until is not None:
        found.append(table.reviewed <= chosen.reviewed_until)
    query = sa.select(*COLUMNS).where(*found).order_by(table.id).execution_options(yield_per=ROWS)
    with connection.execute(query) as result:
        for row in result.mappings():
            yield {**row, "inputs": row["inputs"] and unpack_json(row["inputs"])}
