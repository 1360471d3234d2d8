"""The metrics of feedback, labels, reviews and requests for retraining, from the store."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from exporter.metrics.lines import FamilyLines, Interval, Key, Metrics, Reading
from exporter.monitoring.registry import MonitorRegistry

if TYPE_CHECKING:
    from exporter.storage import AccuracyCounts, ReviewState, Store


class Reviewed(NamedTuple):
    """What the store knows about the configured models at a Unix time."""

    state: ReviewState
    models: Collection[str]
    now: float

    def counts(self, counts: Mapping[str, float], *others: str) -> dict[Key, float]:
        """Return a count for each model, 0 where there is none, and for others."""
        return {model: counts.get(model, 0) for model in dict.fromkeys((*self.models, *others))}

    def ages(self, since: Mapping[str, float]) -> dict[Key, float]:
        """Return the seconds since a Unix time, of those that have one."""
        return {model: max(self.now - start, 0.0) for model, start in since.items()}

    def age(self, start: float | None) -> float | None:
        """Return the seconds since a Unix time, if there is one."""
        return None if start is None else max(self.now - start, 0.0)


def _of_models(reviewed: Reviewed, times: Mapping[str, float]) -> dict[str, float]:
    return {model: start for model, start in times.items() if model in reviewed.models}


REVIEW = Metrics[Reviewed]("Review and retraining")


@REVIEW.gauge("model")
def model_corrections_pending(one: Reviewed) -> Reading:
    """Corrections waiting for review."""
    return one.counts(one.state.pending)


@REVIEW.gauge("model")
def model_corrections_oldest_pending_seconds(one: Reviewed) -> Reading:
    """Age of the oldest correction waiting for review."""
    return one.ages(_of_models(one, one.state.oldest))


@REVIEW.counter("model")
def model_dataset_examples_total(one: Reviewed) -> Reading:
    """Corrections released in datasets."""
    return one.counts(one.state.examples)


@REVIEW.gauge("model")
def model_exporter_feedback_unjoined(one: Reviewed) -> Reading:
    """Feedback whose prediction has not arrived; the model is empty for feedback that names none."""
    return one.counts(one.state.unjoined, "", *one.state.unjoined)


@REVIEW.gauge("model")
def model_exporter_feedback_unjoined_oldest_seconds(one: Reviewed) -> Reading:
    """Age of the oldest feedback whose prediction has not arrived."""
    return one.ages(one.state.oldest_unjoined)


@REVIEW.gauge()
def model_exporter_labels_unjoined(one: Reviewed) -> Reading:
    """Labels whose prediction has not arrived."""
    return one.state.unjoined_labels


@REVIEW.gauge()
def model_exporter_labels_unjoined_oldest_seconds(one: Reviewed) -> Reading:
    """Age of the oldest label whose prediction has not arrived."""
    return one.age(one.state.oldest_unjoined_label)


ACCURACY: Metrics[AccuracyCounts] = Metrics("Review and retraining", "model", "version")


@ACCURACY.interval()
def model_reviewed_accuracy(counts: AccuracyCounts) -> Interval:
    """Share of confident predictions that were right, estimated from a reviewed sample."""
    return counts.estimate()


@ACCURACY.gauge()
def model_reviewed_predictions(counts: AccuracyCounts) -> Reading:
    """Sampled confident predictions decided by a reviewer."""
    return counts.decided


RETRAINING = Metrics[dict[Key, float]]("Review and retraining")


@RETRAINING.gauge("model")
def model_exporter_retrain_request_undelivered_seconds(ages: dict[Key, float]) -> Reading:
    """Age of the oldest request for retraining since the last one that the trainer accepted."""
    return ages


def review_lines(monitors: MonitorRegistry, store: Store) -> Iterator[FamilyLines]:
    """Return the lines about review: pending corrections, what waits for predictions, released examples, accuracy.

    Raises
    ------
    StoreError
        When the database cannot be read.
    """
    state = store.review.state()
    yield from REVIEW.lines(Reviewed(state, monitors.models, time.time()))
    for (model, version), counts in state.accuracy_counts.items():
        if model in monitors.models:
            yield from ACCURACY.lines(counts, model=model, version=version)
