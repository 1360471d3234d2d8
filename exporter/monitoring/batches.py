"""Count a batch of predictions in the bins of the profile, as a whole and by segment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from exporter.features.json_columns import InputTable
from exporter.monitoring.binner import Binner, Codes
from exporter.monitoring.prediction_columns import PredictionColumns, select_rows
from exporter.monitoring.segments import Segments
from exporter.profiles.season_record import cycle_hours
from exporter.stats.divergence import Floats, Ints
from exporter.wire.events import Prediction


class BatchSums(NamedTuple):
    """The sums of a batch for a window: its row of sums, its minima, and the same for each segment.

    The last is the observations in each bin and the events of each hour, shape ``(S · (B + H),)``.
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

    Returns the number of unknown features, and the counts by segment, shape ``(S · (B + H),)``.
    """
    parts: list[list[int]] = [[] for _ in segments.names]
    for position, event in enumerate(inputs):
        parts[segments.index_of(event)].append(position)
    unknown = 0
    by_segment = np.zeros((len(parts), binner.bins + binner.hours))
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
    """Return the counts by segment, shape ``(S · (B + H),)``."""
    by_segment = np.zeros((size, binner.bins + binner.hours))
    for segment in np.unique(indices):
        chosen = indices == segment
        part = {name: select_rows(batch.inputs[name], chosen) for name in binner.inputs if name in batch.inputs}
        times = batch.times[chosen] if isinstance(batch.times, np.ndarray) else batch.times
        row, _ = binner.count_columns(part, int(chosen.sum()), (), times)
        by_segment[segment, : binner.bins] = row[: binner.bins]
    return by_segment.ravel()


def arrival_times(events: Sequence[Prediction], unix_time: float | None) -> Floats:
    """Return when each event arrived in Unix seconds, shape ``(n,)``: its own time, if it has one.

    Otherwise ``unix_time``; the present when None.
    """
    now = time.time() if unix_time is None else unix_time
    return np.array([event.time.timestamp() if event.time else now for event in events])


def add_hours(binner: Binner, sums: BatchSums, seconds: Floats, segments: Sequence[int] | Ints) -> None:
    """Add the events of a batch to its sums by their hours.

    Parameters
    ----------
    binner
        Its profile has a season.
    sums
        Those of the batch; changed in place.
    seconds
        When each of the ``n`` events arrived in Unix seconds; one that is not finite has no hour.
    segments
        Index of each event's segment, where the model has segments.
    """
    known = np.isfinite(seconds)
    _, hours = cycle_hours(seconds[known], binner.hours)
    binner.hours_of(sums.row)[:] += np.bincount(hours, minlength=binner.hours)
    if sums.by_segment is not None:
        by_segment = sums.by_segment.reshape(-1, binner.bins + binner.hours)
        np.add.at(by_segment, (np.asarray(segments)[known], binner.bins + hours), 1.0)
