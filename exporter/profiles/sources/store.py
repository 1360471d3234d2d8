"""Read live predictions from the store in batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from exporter.features.json_inputs import lenient_inputs, remove_inputs
from exporter.profiles.sources.base import Batch, Column, Source, to_columns

PREDICTION, CONFIDENCE, TIME = "(prediction)", "(confidence)", "(time)"
"""Columns of a `StoreSource` beside the inputs."""


class StoredRows(Protocol):
    """What the store reads; see `exporter.storage.StoredPredictions`."""

    where: str

    def read(self) -> Iterator[tuple[list[Mapping[str, Any]], float]]:
        """Yield predictions, and how much of all was read."""


class StoreSource(Source):
    """Stored predictions of one model that have their inputs.

    Parameters
    ----------
    stored
        The predictions.
    name
        Of the model.
    redacted
        Inputs that are left out: they may have been stored when less was redacted.
    """

    keeps_order = False  # members of JSON objects have none

    def __init__(self, stored: StoredRows, name: str, redacted: Collection[str] = ()) -> None:
        self.name, self.where = name, stored.where
        self._stored, self._redacted = stored, redacted

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """See `Source.batches`."""
        for rows, done in self._stored.read():
            columns: dict[str, Column] = dict(to_columns([self._inputs(row["inputs"]) for row in rows]))
            columns[PREDICTION] = [row["prediction"] for row in rows]
            columns[CONFIDENCE] = [row["confidence"] for row in rows]
            columns[TIME] = [row["received"] for row in rows]
            yield Batch(columns, len(rows), done)

    def _inputs(self, stored: str | None) -> dict[str, Any]:
        text = remove_inputs(stored or "", self._redacted)
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            return lenient_inputs(text.encode("utf-8", "replace"))
