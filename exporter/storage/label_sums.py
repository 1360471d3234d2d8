"""Sum up how right the labelled predictions of a version were."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from exporter.storage.schema import labels
from exporter.storage.store import Store


class LabelSums(NamedTuple):
    """Labelled predictions, those without an error, and the sums of the losses and of their squares.

    The loss of a class is 0 if it is right, else 1; that of a number is the absolute error.
    """

    labelled: float
    correct: float
    loss: float
    squared_loss: float


def sum_labels(store: Store, model: str, version: str, start: float, end: float) -> LabelSums:
    """Return the sums over a version's predictions between two Unix times in seconds, both included.

    Raises
    ------
    StoreError
        When the database cannot be read.
    """
    loss = labels.c.loss
    sums = sa.func.count(loss), *(sa.func.sum(value) for value in (sa.case((loss == 0, 1), else_=0), loss, loss * loss))
    is_chosen = (labels.c.model == model) & (labels.c.version == version) & labels.c.predicted.between(start, end)
    with store.reading() as connection:
        row = connection.execute(sa.select(*sums).where(is_chosen, loss.is_not(None))).one()
    return LabelSums(*(float(value or 0) for value in row))
