"""Check the labels of accepted corrections in the background; see `exporter.features.similarity`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.errors import ExporterError
from exporter.features.base import decode_label, scalar_text
from exporter.features.json_inputs import decode_inputs
from exporter.features.similarity import DIMENSIONS, InputEncoder, Vectors, unlike_neighbours
from exporter.monitoring.quality import Scorer
from exporter.monitoring.registry import MonitorRegistry
from exporter.scheduler import Task
from exporter.storage import LabelledRow, Store, Suspect

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""Time between two looks for new decisions. It is longer than the `FILE_SECONDS` of the store's writer: what is wrong
with the file of the database is found by its check, which can name it."""
BUSY_SHARE = 0.05
"""Share of the time in which labels are checked, at most."""
PAUSE_SECONDS = 60.0
"""Least time between two checks of the same model."""
MAX_CLASSES = 1000
"""The most frequent labels, which are compared; corrections with other labels are not checked."""
SAMPLE = 1000
"""Corrections from whose inputs the encoder learns."""
CHARACTERS = 16 * 2**20
"""Characters of inputs that are read at a time. Longer inputs are not compared."""
ENCODING_SECONDS = 60.0
"""Time for the inputs of a check, the newest first. Corrections whose inputs would take longer are not compared."""
_STEP = 500


class LabelChecker(Task):
    """Checks the labels of each model.

    Parameters
    ----------
    store
        The corrections.
    monitors
        Returns the current monitors.
    """

    def __init__(self, store: Store, monitors: Callable[[], MonitorRegistry]) -> None:
        super().__init__("label-checks", "labels are not checked", LOOK_SECONDS, busy_share=BUSY_SHARE, at_once=True)
        self._store = store
        self._monitors = monitors
        self._checks: dict[str, LabelCheck] = {}

    def refresh(self) -> None:
        """Check the labels of each model that is due."""
        monitors = self._monitors()
        self._checks = {model: self._checks.get(model) or LabelCheck(self._store, model) for model in monitors.models}
        for check in self._checks.values():
            if time.monotonic() >= check.due_at and not self.closing.is_set():
                check.check(monitors, self.closing.is_set)

    def on_error(self, error: Exception) -> None:
        """Log an error; the store logs its own itself."""
        if isinstance(error, ExporterError):
            log.debug("labels are not checked", exc_info=True)
        else:
            super().on_error(error)


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
        self._seen = 0
        self.due_at = 0.0

    def check(self, monitors: MonitorRegistry, is_closing: Callable[[], bool]) -> None:
        """Find and store the suspects, unless those that are stored still fit."""
        state, labelled = self._store.review.labels_to_check(self._model, self._seen)
        if labelled is None:
            self._seen = state.decision
            return
        binner = monitors.nearest_binner(self._model)
        scorer = Scorer.of_model(monitors.models[self._model], binner.profile if binner else None)
        rows = _of_classes(labelled, scorer)
        by_id = {row.id: row for row in rows}
        known, vectors = self._encoded([*by_id], input_types(monitors, self._model), is_closing)
        rows = [by_id[id_] for id_ in known]
        found = _suspects(rows, vectors)
        if is_closing():
            return
        self._store.review.store_check(self._model, state, rows, found)
        self.due_at = time.monotonic() + PAUSE_SECONDS

    def _encoded(
        self, ids: list[int], types: tuple[Mapping[str, str], Collection[str]], is_closing: Callable[[], bool]
    ) -> tuple[list[int], Vectors]:
        """Return the identifiers of corrections, and the vectors of their inputs, shape ``(n, DIMENSIONS)``."""
        sample = self._decode(ids[:: max(len(ids) // SAMPLE, 1)][:SAMPLE])
        encoder = InputEncoder(list(sample.values()), *types)
        known: list[int] = []
        vectors = [np.empty((0, DIMENSIONS), np.int8)]
        end = time.monotonic() + ENCODING_SECONDS
        while ids and time.monotonic() < end and not is_closing():
            decoded = self._decode(ids[:_STEP])
            known += decoded
            vectors.append(encoder.encode(list(decoded.values())))
            ids = [id_ for id_ in ids[:_STEP] if id_ not in decoded] + ids[_STEP:]
        return known, np.concatenate(vectors)

    def _decode(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return decoded inputs by their correction, of as many as `CHARACTERS` allows."""
        stored = self._store.review.inputs(ids, CHARACTERS)
        decoded = decode_inputs([text.encode("utf-8", "replace") for text in stored.values()])
        return {id_: decoded.get(index, {}) for index, id_ in enumerate(stored)}


def _suspects(rows: list[LabelledRow], vectors: Vectors) -> list[Suspect]:
    texts = [scalar_text(decode_label(row.label)) for row in rows]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    stored = [Counter[str]() for _ in numbers]
    for row, text in zip(rows, texts, strict=True):
        stored[numbers[text]][row.label] += 1
    labels = np.array([numbers[text] for text in texts], np.intp)
    found = unlike_neighbours(vectors, labels, len(numbers))
    return [
        Suspect(one.id, one.label, one.revision, stored[class_].most_common(1)[0][0], found.compared, other, own)
        for row, class_, other, own in zip(*(array.tolist() for array in found[:4]), strict=True)
        if (one := rows[row]).revision is not None
    ]


def _of_classes(rows: list[LabelledRow], scorer: Scorer) -> list[LabelledRow]:
    """Return the rows whose label is one of the `MAX_CLASSES` most frequent ones; none of a model of numbers."""
    labels = [decode_label(row.label) for row in rows]
    if 2 * sum(map(scorer.is_number, labels)) > len(labels):
        return []
    texts = [scalar_text(label) for label in labels]
    classes = {text for text, _ in Counter(filter(None, texts)).most_common(MAX_CLASSES)}
    return [row for row, text in zip(rows, texts, strict=True) if text in classes]


def input_types(monitors: MonitorRegistry, model: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the types of a model's inputs, and the names of those that are redacted."""
    settings, binner = monitors.models[model], monitors.nearest_binner(model)
    types = dict(binner.profile.inputs) if binner else {}
    types |= {name: feature.type for name, feature in settings.features.items() if feature.type}
    return types, settings.redact
