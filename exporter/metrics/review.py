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
    from exporter.storage.review.backlog import ReviewState


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
        yield from _second_opinion_lines(state, model)
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


def _second_opinion_lines(state: ReviewState, model: str) -> Iterator[FamilyLines]:
    agreement = state.agreement.get(model)
    if agreement or model in state.awaited:
        yield sample_line(f.AWAITING_OPINION, state.awaited.get(model, 0), model=model)
    if agreement is None:
        return
    yield sample_line(f.DISPUTED, state.disputed.get(model, 0), model=model)
    yield sample_line(f.AGREEMENT_CORRECTIONS, agreement.pairs, model=model)
    yield sample_line(f.AGREEMENT_RATIO, agreement.agreed / agreement.pairs, model=model)
    for family, value in zip(f.AGREEMENT_KAPPA, agreement[2:], strict=True):
        if value is not None:
            yield sample_line(family, value, model=model)
