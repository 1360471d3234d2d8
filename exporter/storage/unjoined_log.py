"""Name feedback in the log whose prediction does not come: probably its identifier is wrong, or nobody logs it."""

from __future__ import annotations

import logging
import math
import time

import sqlalchemy as sa

from exporter.storage.schema import feedback, is_unjoined
from exporter.validation import preview

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""How long feedback waits before it is named."""
PAUSE_SECONDS = 60.0
"""Time between two lines."""
NAMED, COUNTED = 5, 1000
"""Identifiers in a line, and feedback that it counts, at most."""


class UnjoinedLog:
    """Writes at most one line in `PAUSE_SECONDS`."""

    def __init__(self) -> None:
        self._since = time.time() - PATIENCE_SECONDS
        self._next = -math.inf

    def write(self, connection: sa.Connection) -> None:
        """Name feedback that waits for longer than `PATIENCE_SECONDS` now, and did not at the previous call.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            When the database cannot be read.
        """
        if time.monotonic() < self._next:
            return
        until = time.time() - PATIENCE_SECONDS
        waits = is_unjoined & (feedback.c.updated >= self._since) & (feedback.c.updated < until)
        query = sa.select(feedback.c.prediction_id).where(waits).order_by(feedback.c.updated).limit(COUNTED + 1)
        ids = connection.execute(query).scalars().all()
        self._since, self._next = until, time.monotonic() + PAUSE_SECONDS
        if ids:
            names = ", ".join(preview(name, 130) for name in ids[:NAMED])
            others = len(ids) - NAMED
            more = "" if others <= 0 else f" and {others} more" if len(ids) <= COUNTED else " and many more"
            log.warning(
                "feedback waits for predictions that were not logged: %s%s; GET /v1/corrections?joined=false lists it",
                names,
                more,
            )
