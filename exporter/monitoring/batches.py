"""Count a batch of predictions in the bins of the profile, as a whole and by segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from exporter.features.json_columns import InputTable
from exporter.monitoring.binner import Binner, Codes
from exporter.monitoring.prediction_columns import PredictionColumns, select_rows
from exporter.monitoring.segments import Segments
from exporter.stats.divergence import Floats, Ints


class BatchSums(NamedTuple):
    """The sums of a batch for a window: its row of sums, its minima, and the same for each segment.

    The last is the observations in each bin, shape ``(S · B,)``.
    """

    row: Floats
    minima: Floats
    by_segment: Floats | None = None


def count_events(
    binner: Binner,
    segments: Segments | None,
    inputs: Sequence[Mapping[str, Any]] | InputTable,
    predictions: Sequence[Any],
    confidences: Sequence[float],
    *,
    codes: Codes | None = None,
) -> tuple[BatchSums, int]:
    """Count events, given the inputs, predictions and confidences of those that have them.

    Fills ``codes`` with the bins of those that have inputs, see `Binner.count`.

    Returns the sums, and the number of features received that the profile does not know.
    """
    if isinstance(inputs, InputTable):
        return BatchSums(*binner.count_columns(*inputs, predictions, confidences=confidences, codes=codes)), 0
    if segments is None:
        row, minima, unknown = binner.count(inputs, predictions, confidences=confidences, codes=codes)
        return BatchSums(row, minima), unknown
    row, minima, _ = binner.count([], predictions, confidences=confidences)
    unknown, by_segment = _count_by_segment(binner, segments, inputs, BatchSums(row, minima), codes)
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
    binner: Binner, segments: Segments, inputs: Sequence[Mapping[str, Any]], sums: BatchSums, codes: Codes | None
) -> tuple[int, Floats]:
    """Add a batch's inputs to its sums and minima, segment by segment.

    Returns the number of unknown features, and the counts by segment, shape ``(S · B,)``.
    """
    parts: list[list[int]] = [[] for _ in segments.names]
    for position, event in enumerate(inputs):
        parts[segments.index_of(event)].append(position)
    unknown = 0
    by_segment = np.zeros((len(parts), binner.bins))
    for index, part in enumerate(parts):
        if part:
            part_codes = binner.empty_codes(0 if codes is None else len(part))
            part_row, part_minima, part_unknown = binner.count(
                [inputs[i] for i in part], [], codes=None if codes is None else part_codes
            )
            if codes is not None:
                codes[:, part] = part_codes
            by_segment[index, : binner.bins] = part_row[: binner.bins]
            np.add(sums.row, part_row, out=sums.row)
            np.minimum(sums.minima, part_minima, out=sums.minima)
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
        by_segment[segment, : binner.bins] = row[: binner.bins]
    return by_segment.ravel()
