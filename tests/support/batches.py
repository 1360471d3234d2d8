"""Batches for tests: of events and decoded inputs, and of rows as they are stored."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from exporter.monitoring.binner import Binner, Codes
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.shadow_answers import ShadowAnswers
from exporter.stats.divergence import Floats
from exporter.wire.batch import Batch, Inputs
from exporter.wire.events import Prediction


class Counted(NamedTuple):
    """What `Binner.count_columns` returns, and the number of features that the profile does not know."""

    row: Floats
    minima: Floats
    bins: Codes
    unknown: int


def count(
    binner: Binner, inputs: Sequence[Mapping[str, Any]], predictions: Sequence[Any], *more: Any, **options: Any
) -> Counted:
    """Count decoded inputs of events; see `Binner.count_columns`."""
    columns, unknown = binner.columns_of(inputs)
    return Counted(*binner.count_columns(columns, len(inputs), predictions, *more, **options), unknown)


def observe(
    monitor: ModelMonitor,
    events: Sequence[Prediction],
    inputs: Sequence[Mapping[str, Any]],
    now: float,
    unix_time: float | None = None,
) -> int:
    """Count events, the first of which have these decoded inputs; return the number of unknown features."""
    columns, unknown = monitor.binner.columns_of(inputs) if monitor.binner else ({}, 0)
    given = Inputs(columns, len(inputs), range(len(inputs)) if len(inputs) < len(events) else None, unknown)
    received = time.time() if unix_time is None else unix_time
    batch = Batch.of(events, received) if events else Batch(model=monitor.config.name, rows=0)
    monitor.observe(monitor.prepare(msgspec.structs.replace(batch, raw=(), inputs=given)), now)
    return unknown


def observe_columns(
    monitor: ModelMonitor,
    rows: int,
    inputs: Mapping[str, Any],
    now: float,
    *,
    predictions: Sequence[Any] = (),
    confidences: Any = (),
    times: Any = None,
) -> None:
    """Count rows in columns."""
    batch = Batch(
        model=monitor.config.name,
        rows=rows,
        received=times,
        predictions=predictions,
        confidences=confidences,
        inputs=Inputs(inputs, rows),
    )
    monitor.observe(monitor.prepare(batch), now)


def stored_batch(
    events: Sequence[Prediction],
    confident: Sequence[bool],
    inputs: Sequence[bytes],
    received: float,
    segments: Sequence[str] = (),
) -> Batch:
    """Return predictions as they are stored."""
    return Batch.of(
        events,
        received,
        confident=np.array(confident, np.bool_),
        kept=inputs,
        segments=np.arange(len(segments)),
        segment_names=segments,
    )


def answered(answers: ShadowAnswers, events: Sequence[Prediction], now: float, unix_time: float) -> None:
    """Add answers of any models, with ``shadow`` set or not, in their order."""
    for _, run in itertools.groupby(events, lambda event: (event.model, event.shadow)):
        answers.add(Batch.of(list(run), unix_time), now, unix_time)
