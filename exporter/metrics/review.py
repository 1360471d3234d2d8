"""The metrics of feedback, labels and reviews, from the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.metrics import families as f
from exporter.metrics.lines import FamilyLines, sample_line
from exporter.monitoring.registry import MonitorRegistry

if TYPE_CHECKING:
    from exporter.storage import Store


def review_lines(monitors: MonitorRegistry, store: Store) -> Iterator[FamilyLines]:
    """Return the lines about review: pending corrections, what waits for predictions, released examples, accuracy.

    Raises
    ------
    StoreError
        When the database cannot be read.
    """
    state = store.review_state()
    now = time.time()
    for model in monitors.models:
        yield sample_line(f.PENDING, state.pending.get(model, 0), model=model)
        if model in state.oldest:
            yield sample_line(f.OLDEST, max(now - state.oldest[model], 0.0), model=model)
        yield sample_line(f.EXAMPLES, state.examples.get(model, 0), model=model)
    for model in dict.fromkeys((*monitors.models, "", *state.unjoined)):
        yield sample_line(f.UNJOINED, state.unjoined.get(model, 0), model=model)
        if model in state.oldest_unjoined:
            yield sample_line(f.UNJOINED_OLDEST, max(now - state.oldest_unjoined[model], 0.0), model=model)
    yield sample_line(f.LABELS_UNJOINED, state.unjoined_labels)
    if state.oldest_unjoined_label is not None:
        yield sample_line(f.LABELS_UNJOINED_OLDEST, max(now - state.oldest_unjoined_label, 0.0))
    for (model, version), counts in state.accuracy_counts.items():
        if model not in monitors.models:
            continue
        labels = {"model": model, "version": version}
        for family, value in zip(f.REVIEWED_ACCURACY, counts.estimate(), strict=True):
            yield sample_line(family, value, **labels)
        yield sample_line(f.REVIEWED, counts.reviewed, **labels)
