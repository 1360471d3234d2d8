"""Read which predictions users corrected, and how wrong predictions with labels are."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from exporter.storage.schema import feedback, labels

MAX_MARKED = 500_000
"""Corrections, or labels, that are read at most, the newest first."""


class Corrections(NamedTuple):
    """Identifiers of corrected predictions, and the user of each one; None where nobody was named."""

    ids: list[str]
    users: list[str | None]

    @property
    def truncated(self) -> bool:
        """Whether there are more."""
        return len(self.ids) > MAX_MARKED


class Losses(NamedTuple):
    """Identifiers of predictions with a label, and the loss of each one, see `exporter.storage.labels.Loss`."""

    ids: list[str]
    losses: list[float]

    @property
    def truncated(self) -> bool:
        """Whether there are more."""
        return len(self.ids) > MAX_MARKED


def read_corrections(connection: sa.Connection, model: str, version: str | None, since: float) -> Corrections:
    """Return the confident predictions that users corrected since a time, without corrections that a reviewer rejected.

    Parameters
    ----------
    connection
        To read with.
    model, version
        Of the predictions; all versions when None.
    since
        Unix time in seconds of the first feedback on the prediction.
    """
    table = feedback.c
    query = sa.select(table.prediction_id, table.user).where(
        table.model == model,
        table.verdict == "corrected",
        table.confident == sa.true(),
        table.status.in_(map(sa.literal, ("accepted", "pending"))),
        table.joined == sa.true(),
        table.created >= since,
        table.prediction_id.is_not(None),
    )
    if version is not None:
        query = query.where(table.version == version)
    rows = connection.execute(query.order_by(table.created.desc()).limit(MAX_MARKED + 1)).all()
    return Corrections([row[0] for row in rows], [row[1] for row in rows])


def read_losses(connection: sa.Connection, model: str, version: str | None, since: float) -> Losses:
    """Return the losses of predictions with a label that were made since a Unix time in seconds.

    Parameters
    ----------
    connection
        To read with.
    model, version
        Of the predictions; all versions when None.
    since
        Unix time in seconds of the prediction.
    """
    table = labels.c
    query = sa.select(table.prediction_id, table.loss).where(
        table.model == model, table.predicted >= since, table.loss.is_not(None)
    )
    if version is not None:
        query = query.where(table.version == version)
    rows = connection.execute(query.order_by(table.predicted.desc()).limit(MAX_MARKED + 1)).all()
    return Losses([row[0] for row in rows], [row[1] for row in rows])
