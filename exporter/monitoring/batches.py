"""Count a batch of predictions in the bins of the profile, as a whole and by segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from exporter.features.json_columns import InputTable
from exporter.monitoring.binner import Binner
from exporter.monitoring.prediction_columns import PredictionColumns, select_rows
from exporter.monitoring.segments import Segments
from exporter.stats.divergence import Floats, Ints


class BatchSums(NamedTuple):
    """What a batch adds to a window: its row of sums, its minima, and its counts by segment, shape ``(S · B,)``."""

    row: Floats
    minima: Floats
    by_segment: Floats | None = None


def count_events(
    binner: Binner,
    segments: Segments | None,
    inputs: Sequence[Mapping[str, Any]] | InputTable,
    predictions: Sequence[Any],
    confidences: Sequence[float],
) -> tuple[BatchSums, int]:
    """Count events, given the inputs, predictions and confidences of those that have them.

    Returns the sums, and the number of features received that the profile does not know.
    """
    if isinstance(inputs, InputTable):
        return BatchSums(*binner.count_columns(*inputs, predictions, confidences=confidences)), 0
    if segments is None:
        row, minima, unknown = binner.count(inputs, predictions, confidences=confidences)
        return BatchSums(row, minima), unknown
    row, minima, _ = binner.count([], predictions, confidences=confidences)
    unknown, by_segment = _count_by_segment(binner, segments, inputs, row, minima)
    return BatchSums(row, minima, by_segment), unknown


def count_columns(
    binner: Binner, segments: Segments | None, indices: Ints, batch: PredictionColumns, confidences: Floats
) -> BatchSums:
    """Count predictions in columns, given the index of each one's segment and those confidences that there are."""
    sums = binner.count_columns(batch.inputs, batch.rows, batch.predictions, batch.times, confidences)
    if segments is None:
        return BatchSums(*sums)
    return BatchSums(*sums, _count_columns_by_segment(binner, len(segments.names), indices, batch))


def _count_by_segment(
    binner: Binner, segments: Segments, inputs: Sequence[Mapping[str, Any]], row: Floats, minima: Floats
) -> tuple[int, Floats]:
    """Add a batch's inputs to its sums and minima, segment by segment.

    Returns the number of unknown features, and the counts by segment, shape ``(S · B,)``.
    """
    parts: list[list[Mapping[str, Any]]] = [[] for _ in segments.names]
    for event in inputs:
        parts[segments.index_of(event)].append(event)
    unknown = 0
    by_segment = np.zeros((len(parts), binner.bins))
    for index, part in enumerate(parts):
        if part:
            part_row, part_minima, part_unknown = binner.count(part, [])
            by_segment[index] = part_row[: binner.bins]
            row += part_row
            np.minimum(minima, part_minima, out=minima)
            unknown += part_unknown
    return unknown, by_segment.ravel()


def _count_columns_by_segment(binner: Binner, size: int, indices: Ints, batch: PredictionColumns) -> Floats:
    """Return the counts by segment, shape ``(S · B,)``."""
    by_segment = np.zeros((size, binner.bins))
    for segment in np.unique(indices):
        chosen = indices == segment
        part = {name: select_rows(batch.inputs[name], chosen) for name in binner.inputs if name in batch.inputs}
        times = batch.times[chosen] if isinstance(batch.times, np.ndarray) else batch.times
        row, _ = binner.count_columns(part, int(chosen.sum()), (), times)
        by_segment[segment] = row[: binner.bins]
    return by_segment.ravel()
