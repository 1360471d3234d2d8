"""Rank pending corrections in the background, and check the labels of accepted ones.

See `exporter.stats.review_order` and `exporter.storage.review.rankings`, and `exporter.server.tasks.label_checks`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from exporter.errors import ExporterError
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.scheduler import Task
from exporter.server.tasks.input_vectors import InputVectors, input_types
from exporter.server.tasks.label_checks import LabelCheck
from exporter.stats.divergence import Floats
from exporter.stats.review_order import informative_order
from exporter.storage import Store
from exporter.storage.review.rankings import (
    SOURCES,
    is_outdated,
    pending_state,
    read_pending,
    store_ranking,
)

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""Time from a commit to a look at the queues, and between two looks. It is longer than the `FILE_SECONDS` of
`exporter.storage._writer`: what is wrong with the file of the database is found by its check, which can name it."""
IDLE_SECONDS = 60.0
"""Time between two looks without a commit: feedback that waits for its prediction becomes ready by itself."""
PAUSE_SECONDS = 60.0
"""Least time between two rankings of the same queue."""
BUSY_SHARE = 0.05
"""Share of the time in which queues are looked at and ranked, at most."""
CHOSEN = 1000
"""Corrections that are chosen; those like them and all others come after them."""


class ReviewRanker(Task):
    """Ranks the pending corrections of each model, whenever there are new ones or few are left, and checks labels.

    Parameters
    ----------
    store
        The corrections.
    monitors
        Returns the current monitors.
    """

    def __init__(self, store: Store, monitors: Callable[[], MonitorRegistry]) -> None:
        super().__init__("ranking", "corrections are not ranked", LOOK_SECONDS, busy_share=BUSY_SHARE, at_once=True)
        self._store = store
        self._monitors = monitors
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._checks: dict[str, LabelCheck] = {}
        self._committed = threading.Event()
        self._idle_until = 0.0
        store.on_commit = self._committed.set

    def run(self) -> float:
        """Look after a commit, or after a while where others commit, too."""
        now = time.monotonic()
        if not (self._store.is_shared or self._committed.is_set() or now >= self._idle_until):
            return self.seconds
        self._committed.clear()
        self._idle_until = now + IDLE_SECONDS
        return super().run()

    def refresh(self) -> None:
        """Rank each queue that is due, and check the labels of each model that is."""
        monitors = self._monitors()
        for key in [key for key in self._queues if key[0] not in monitors.models]:
            del self._queues[key]
        for model in self._checks.keys() - monitors.models.keys():
            del self._checks[model]
        for model in monitors.models:
            for source in SOURCES:
                queue = self._queues.setdefault((model, source), _Queue(self._store, model, source))
                if time.monotonic() >= queue.due_at and not self.closing.is_set():
                    queue.rank(monitors, self.closing.is_set)
            check = self._checks.setdefault(model, LabelCheck(self._store, model))
            if time.monotonic() >= check.due_at and not self.closing.is_set():
                check.check(monitors, self.closing.is_set)

    def on_error(self, error: Exception) -> None:
        """Log an error; the store logs its own itself."""
        if isinstance(error, ExporterError):
            log.debug("corrections are not ranked", exc_info=True)
        else:
            super().on_error(error)


class _Queue:
    """The pending corrections of a model and source, with the vectors of their inputs."""

    def __init__(self, store: Store, model: str, source: str) -> None:
        self._store, self._model, self._source = store, model, source
        self._vectors = InputVectors(store)
        self.due_at = 0.0

    def rank(self, monitors: MonitorRegistry, is_closing: Callable[[], bool]) -> None:
        """Rank the corrections, unless the last ranking still fits."""
        with self._store.reading() as connection:
            state = pending_state(connection, self._model, self._source)
            if not is_outdated(connection, self._model, self._source, state):
                return
            pending = read_pending(connection, self._model, self._source)
        wanted = np.array([*pending.ids, *pending.decided], np.int64)
        self._vectors.update(wanted, input_types(monitors, self._model), is_closing)
        known = self._vectors.known(wanted)
        is_pending = known[: len(pending.ids)]
        ids = wanted[: len(is_pending)][is_pending]
        chosen = informative_order(
            self._vectors.rows(ids),
            _uncertainty(pending.confidences)[is_pending],
            np.array(pending.kinds, np.intp)[is_pending],
            self._vectors.rows(wanted[len(is_pending) :][known[len(is_pending) :]]),
            CHOSEN,
        )
        if is_closing():
            return
        order = [(int(ids[row]), ids[alike].tolist()) for row, alike in chosen]
        state = state if known.all() else (state[0], 0)  # the next ranking adds the others
        self._store.execute(lambda connection, _: store_ranking(connection, self._model, self._source, state, order))
        self.due_at = time.monotonic() + PAUSE_SECONDS


def _uncertainty(confidences: Sequence[float | None]) -> Floats:
    """Return how unsure the model was: 1 minus the confidence, and its median where there is none."""
    uncertainty = 1.01 - np.array(confidences, dtype=np.float64)
    known = uncertainty[~np.isnan(uncertainty)]
    return np.where(np.isnan(uncertainty), np.median(known) if len(known) else 1.0, uncertainty)
