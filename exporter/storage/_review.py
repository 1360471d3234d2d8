"""The verbs of the review queue: what pages, the API, metrics, releases and background tasks ask of it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from exporter.errors import StoreError
from exporter.stats.divergence import Floats
from exporter.storage import _review_queue as queue
from exporter.storage import _review_samples as samples
from exporter.storage import _review_statistics as statistics
from exporter.storage import _review_suspects as suspects
from exporter.storage._engine import Transactions, statement_timeout
from exporter.storage._feedback import Redact, Tolerances
from exporter.storage._retention import StoreSize
from exporter.storage._review_queue import (
    Decision,
    Example,
    Filter,
    HistoryPosition,
    Outcome,
    Position,
    Redacted,
    Selection,
)
from exporter.storage._review_samples import AccuracyCounts, Draw
from exporter.storage._review_statistics import Overview, ReviewState
from exporter.storage._review_suspects import CheckState, LabelledRow, Suspect

SCRAPE_TIMEOUT_SECONDS = 2.0
"""How long a scrape waits for the database, and any reader while the database is unavailable."""
REVIEW_SECONDS, SHARED_REVIEW_SECONDS = 60.0, 5.0
"""How old the cached state may be: feedback becomes ready for review, and others write into a shared database."""
REVIEW_RETRY_SECONDS = 10.0
"""How long scrapes fail at once after the database did not answer one."""


class QueuePage(NamedTuple):
    """Corrections as JSON documents, and where the page ended; None if it was the last.

    A document has ``suspect`` where its label may be wrong, and in the order ``uncertain`` ``alike``: how many
    corrections it stands for.
    """

    corrections: list[dict[str, Any]]
    end: Position | None


class PageStatistics(NamedTuple):
    """What the first page of the queue shows beside the corrections.

    Attributes
    ----------
    overview
        Of the corrections that the filter selects.
    decided
        How many corrections of the model a reviewer decided.
    suspects
        How many corrections of the model are suspects.
    accuracy
        By model and version.
    """

    overview: Overview
    decided: int
    suspects: int
    accuracy: dict[tuple[str, str], AccuracyCounts]


class TrainingSet(NamedTuple):
    """The accepted corrections of a model, and what was known of them at that moment.

    Attributes
    ----------
    examples
        Ordered by identifier, from one query.
    suspicious_users
        Users who corrected far more than others.
    suspects
        Identifiers of corrections whose label may be wrong.
    checked
        When labels were checked last, Unix time in seconds; None if never.
    sampling
        What weights the samples, by version; see `exporter.storage._review_samples.sampling`.
    """

    examples: Iterator[Example]
    suspicious_users: set[str]
    suspects: set[int]
    checked: float | None
    sampling: dict[str, dict[str, int]]


class Review:
    """The review queue of a store. Each verb that reads sees one state of the database, and raises StoreError."""

    def __init__(self, store: Transactions, size: StoreSize, tolerances: Tolerances) -> None:
        self._store, self._size, self._tolerances = store, size, tolerances
        self._cached: ReviewState | None = None
        self._read_at = self._retry_at = 0.0
        self._generation = 0

    def page(self, chosen: Filter, limit: int, after: Position | None = None, order: str = "newest") -> QueuePage:
        """Return a page of the queue; see `exporter.storage._review_queue.list_corrections`."""
        with self._store.reading() as connection:
            documents, end = queue.list_corrections(connection, chosen, limit, after, order)
            ids = [int(document["id"]) for document in documents]
            alike = queue.count_alike(connection, chosen, ids) if order == "uncertain" else None
            found = suspects.suspect_documents(connection, ids)
        for id_, document in zip(ids, documents, strict=True):
            if alike is not None:
                document["alike"] = alike.get(id_, 0)
            if id_ in found:
                document["suspect"] = found[id_]
        return QueuePage(documents, end)

    def find(self, correction_id: int, redacted: Redacted) -> dict[str, Any] | None:
        """Return a correction, a sample, or unjoined feedback as its JSON document; None for any other identifier."""
        with self._store.reading() as connection:
            document = queue.find_correction(connection, correction_id, redacted)
            if document and (found := suspects.suspect_documents(connection, [correction_id])):
                document["suspect"] = found[correction_id]
            return document

    def prediction(self, prediction_id: str, model: str | None, redacted: Redacted) -> dict[str, Any] | None:
        """Return a prediction, of the model if one is named; see `exporter.storage._review_queue.find_prediction`."""
        with self._store.reading() as connection:
            return queue.find_prediction(connection, prediction_id, model, redacted)

    def history(
        self, correction_id: int, limit: int = 100, after: HistoryPosition = queue.START
    ) -> tuple[list[dict[str, Any]], HistoryPosition | None]:
        """Return a page of a correction's history; see `exporter.storage._review_queue.correction_history`."""
        with self._store.reading() as connection:
            return queue.correction_history(connection, correction_id, limit, after)

    def predictions(self, chosen: Filter, most: int) -> Generator[tuple[Sequence[Any], bool]]:
        """Yield the predictions of corrections; see `exporter.storage._review_queue.read_predictions`."""
        with self._store.reading() as connection:
            yield from queue.read_predictions(connection, chosen, most)

    def decide(self, batch: Sequence[tuple[int, Decision]], redacted: Redacted, adds: int) -> list[Outcome]:
        """Decide corrections; see `exporter.storage._review_queue.decide`.

        Parameters
        ----------
        batch, redacted
            The decisions by the identifier of the correction, and inputs that are not shown.
        adds
            About how many bytes the decisions add to what is kept.
        """
        return self._store.write(lambda connection: queue.decide(connection, batch, redacted), adds)

    def draw(self, chosen: Draw, count: int, reviewer: str | None, redact: Redact) -> int:
        """Add a random sample of confident predictions without feedback to the queue; return how many were drawn.

        Parameters
        ----------
        chosen
            What to draw from.
        count
            How many at most.
        reviewer
            Who draws.
        redact
            See `exporter.storage._feedback.FeedbackRecorder`.
        """
        with self._store.reading() as connection:
            sample = samples.draw(connection, chosen, count, np.random.default_rng())
        size = self._size
        return self._store.write(lambda connection: samples.store_sample(connection, sample, reviewer, redact, size))

    def statistics(self, chosen: Filter, since: float, reviewer: str | None) -> PageStatistics:
        """Return what the first page of a filter shows beside the corrections.

        Parameters
        ----------
        chosen
            The filter.
        since, reviewer
            Whose decisions are counted, from which Unix time in seconds on; None for all reviewers.
        """
        with self._store.reading() as connection:
            return PageStatistics(
                statistics.overview(connection, chosen),
                queue.count_decided(connection, since, reviewer, chosen.model),
                suspects.count_suspects(connection, chosen.model),
                samples.accuracy_counts(connection, self._tolerances),
            )

    def errors(self, chosen: Filter) -> Floats:
        """Return the errors of numbers; see `exporter.storage._review_statistics.read_errors`."""
        with self._store.reading() as connection:
            return statistics.read_errors(connection, chosen)

    def users(self, model: str) -> dict[str, Any]:
        """Count a model's corrections by user; see `exporter.storage._review_statistics.user_stats`."""
        with self._store.reading() as connection:
            return statistics.user_stats(connection, model)

    def examples(self, selection: Selection, after: int = 0) -> Generator[Example]:
        """Yield accepted corrections with a greater identifier, from one query."""
        with self._store.reading() as connection:
            yield from queue.accepted_examples(connection, selection, after)

    @contextmanager
    def training_set(self, model: str) -> Iterator[TrainingSet]:
        """Read the accepted corrections of a model for a release, all from one state of the database."""
        with self._store.reading() as connection:
            check = suspects.last_check(connection, model)
            yield TrainingSet(
                queue.accepted_examples(connection, Selection(model)),
                statistics.suspicious_users(connection, model),
                suspects.suspect_ids(connection, model),
                check.time if check else None,
                samples.sampling(connection, model),
            )

    def labels_to_check(self, model: str, seen: int) -> tuple[CheckState, list[LabelledRow] | None]:
        """Return the state of a check that begins now, and the labels to check; None if the last check still fits.

        Parameters
        ----------
        model
            The model.
        seen
            The last decision that is known not to be of this model, or to be before its check.
        """
        with self._store.reading() as connection:
            state = suspects.current_state(connection)
            is_outdated = suspects.is_outdated(connection, model, state, seen)
            return state, suspects.read_labelled(connection, model) if is_outdated else None

    def inputs(self, ids: Sequence[int], characters: int) -> dict[int, str]:
        """Read stored inputs by their correction; see `exporter.storage._review_suspects.read_inputs`."""
        with self._store.reading() as connection:
            return suspects.read_inputs(connection, ids, characters)

    def store_check(self, model: str, state: CheckState, rows: Sequence[LabelledRow], found: Iterable[Suspect]) -> None:
        """Store the suspects of a check; see `exporter.storage._review_suspects.store_check`."""
        self._store.write(lambda connection: suspects.store_check(connection, model, state, rows, found))

    def state(self) -> ReviewState:
        """Return the state of the queue for a scrape, cached until a commit changes it; see `REVIEW_SECONDS`."""
        cached, now = self._cached, time.monotonic()
        max_age = SHARED_REVIEW_SECONDS if self._store.is_shared else REVIEW_SECONDS
        if cached is not None and now <= self._read_at + max_age:
            return cached
        if now < self._retry_at:
            raise StoreError("the database did not answer a moment ago")
        try:
            with statement_timeout(SCRAPE_TIMEOUT_SECONDS), self._store.reading() as connection:
                generation = self._generation
                state = statistics.read_state(connection, self._tolerances)
        except StoreError:
            self._retry_at = time.monotonic() + REVIEW_RETRY_SECONDS
            raise
        if generation == self._generation:  # else a commit came in between: the next call reads again
            self._cached, self._read_at = state, now
        return state

    def invalidate(self) -> None:
        """Read the state anew next time: a commit may have changed it."""
        self._generation += 1
        self._cached = None
