"""Predictions of one model that arrived together, in columns: made once, and taken by each consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats, Ints
from exporter.wire.events import NO_VERSION, Label, Prediction, make_id

OK = 200
"""Code of a prediction without one."""


class Inputs(NamedTuple):
    """The inputs of those predictions of a batch that have any.

    Attributes
    ----------
    columns
        Columns of ``rows`` values by the input's name: lists, None where an input is missing, or arrays of numbers.
    indices
        Index in the batch of each row; None where each prediction has inputs.
    unknown
        Number of features received that the profile does not know.
    decoded
        The inputs as they were sent by their index in the batch, where they were asked for.
    """

    columns: Mapping[str, Any] = {}
    rows: int = 0
    indices: Sequence[int] | None = None
    unknown: int = 0
    decoded: Mapping[int, dict[str, Any]] = {}


class Batch(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Predictions of one model in columns of ``rows`` values.

    Attributes
    ----------
    received
        Unix time in seconds at which they arrived: one for all or one each; the present when None.
    times
        Unix times in seconds at which they were made; empty in a batch that is not stored.
    predictions
        None or NaN where a prediction has none.
    confidences
        None or NaN where a prediction has none; or empty.
    durations
        Seconds, None where a prediction has none; or empty.
    ids, versions
        Empty in a batch that is not stored.
    aliases
        What else predictions are called, None for nothing; or empty.
    codes
        HTTP codes; empty where nothing failed.
    raw
        The JSON of the inputs as it was sent, empty for none; or no texts at all.
    shadow
        Whether no user saw these answers.
    inputs, confident, segments
        What `ModelMonitor.read` finds. ``segments`` has the index of each segment, where the model has segments.
    segment_names
        Their names.
    kept
        The JSON of the inputs to store, empty for none.
    """

    model: str
    rows: int
    received: float | Floats | None = None
    times: Sequence[float] = ()
    predictions: Sequence[Label] | Floats = ()
    confidences: Sequence[float | None] | Floats = ()
    durations: Sequence[float | None] = ()
    ids: Sequence[str] = ()
    versions: Sequence[str] = ()
    aliases: Sequence[str | None] = ()
    codes: Sequence[int] = ()
    raw: Sequence[bytes] = ()
    shadow: bool = False
    inputs: Inputs = Inputs()
    confident: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
    segments: Ints = np.empty(0, np.intp)
    segment_names: Sequence[str] = ()
    kept: Sequence[bytes] = ()

    def ages(self, least: float) -> list[float]:
        """Return how long ago predictions were made that arrived later than ``least`` seconds after that."""
        if not isinstance(self.received, float) or self.received - min(self.times, default=self.received) <= least:
            return []
        rows = zip(self.times, self.predictions, strict=True)
        ages = [self.received - time for time, prediction in rows if prediction is not None]
        return [age for age in ages if age > least]

    @classmethod
    def of(cls, events: Sequence[Prediction], received: float, **columns: Any) -> Batch:
        """Return predictions of one model as columns; those without an identifier get one.

        Parameters
        ----------
        events
            At least one prediction.
        received
            Unix time in seconds at which they arrived.
        columns
            Further attributes.
        """
        return cls(
            model=events[0].model,
            rows=len(events),
            times=[event.time.timestamp() if event.time else received for event in events],
            received=received,
            predictions=[event.prediction for event in events],
            confidences=[event.confidence for event in events],
            durations=[event.duration_seconds for event in events],
            ids=[event.id or make_id() for event in events],
            versions=[event.version or NO_VERSION for event in events],
            aliases=[event.alias for event in events],
            codes=[event.code or OK for event in events],
            raw=[bytes(event.inputs) for event in events],
            shadow=events[0].shadow,
            **columns,
        )
