"""Check the labels of accepted corrections in the background; see `exporter.stats.neighbours`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from exporter.features.extract import scalar_text
from exporter.monitoring.outcome import Scorer
from exporter.monitoring.registry import MonitorRegistry
from exporter.server.tasks.input_vectors import InputVectors, input_types
from exporter.stats.neighbours import unlike_neighbours
from exporter.storage import Store, decode_label
from exporter.storage.review.suspects import (
    LabelledRow,
    Suspect,
    current_state,
    is_outdated,
    read_labelled,
    store_check,
)

PAUSE_SECONDS = 60.0
"""Least time between two checks of the same model."""
MAX_CLASSES = 1000
"""The most frequent labels, which are compared; corrections with other labels are not checked."""


class LabelCheck:
    """Checks the accepted corrections of a model whenever some were decided since the last check.

    Parameters
    ----------
    store
        The corrections.
    model
        The model, which predicts classes: the labels of numbers are not checked.
    """

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model = store, model
        self._vectors = InputVectors(store)
        self._seen = 0
        self.due_at = 0.0

    def check(self, monitors: MonitorRegistry, is_closing: Callable[[], bool]) -> None:
        """Find and store the suspects, unless those that are stored still fit."""
        with self._store.reading() as connection:
            state = current_state(connection)
            if not is_outdated(connection, self._model, state, self._seen):
                self._seen = state.decision
                return
            rows = read_labelled(connection, self._model)
        binner = monitors.nearest_binner(self._model)
        scorer = Scorer.of_model(monitors.models[self._model], binner.profile if binner else None)
        rows = _of_classes(rows, scorer)
        wanted = np.array([row.id for row in rows], np.int64)
        self._vectors.update(wanted, input_types(monitors, self._model), is_closing)
        known = self._vectors.known(wanted)
        rows = [row for row, is_known in zip(rows, known, strict=True) if is_known]
        found = self._suspects(rows)
        if is_closing():
            return
        if not known.all():
            state, self._seen = state._replace(decision=0), 0  # the next check adds the others
        self._store.execute(lambda connection, _: store_check(connection, self._model, state, rows, found))
        self.due_at = time.monotonic() + PAUSE_SECONDS

    def _suspects(self, rows: list[LabelledRow]) -> list[Suspect]:
        texts = [scalar_text(decode_label(row.label)) for row in rows]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        stored = [Counter[str]() for _ in numbers]
        for row, text in zip(rows, texts, strict=True):
            stored[numbers[text]][row.label] += 1
        labels = np.array([numbers[text] for text in texts], np.intp)
        ids = np.array([row.id for row in rows], np.int64)
        found = unlike_neighbours(self._vectors.rows(ids), labels, len(numbers))
        return [
            Suspect(rows[row], stored[class_].most_common(1)[0][0], found.compared, other, own)
            for row, class_, other, own in zip(*(array.tolist() for array in found[:4]), strict=True)
            if rows[row].revision is not None
        ]


def _of_classes(rows: list[LabelledRow], scorer: Scorer) -> list[LabelledRow]:
    """Return the rows whose label is one of the `MAX_CLASSES` most frequent ones; none of a model of numbers."""
    labels = [decode_label(row.label) for row in rows]
    if 2 * sum(map(scorer.is_number, labels)) > len(labels):
        return []
    texts = [scalar_text(label) for label in labels]
    classes = {text for text, _ in Counter(filter(None, texts)).most_common(MAX_CLASSES)}
    return [row for row, text in zip(rows, texts, strict=True) if text in classes]
