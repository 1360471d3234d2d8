"""Predictions in columns, as batches have them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats


class PredictionColumns(NamedTuple):
    """Predictions of one model version in columns: lists, or arrays of numbers.

    Attributes
    ----------
    rows
        Number of predictions.
    inputs
        Columns by the input's name; an input that is absent is missing.
    predictions
        Predictions of those rows that have one.
    confidences
        Confidence of each row, NaN where it has none; or empty.
    times
        Unix time in seconds at which they arrived: one for all or one each; the present when None.
    """

    rows: int
    inputs: Mapping[str, Any]
    predictions: Sequence[Any] | Floats = ()
    confidences: Sequence[float] | Floats = ()
    times: float | Floats | None = None


def select_rows(column: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    """Return the chosen values of a column; ``chosen`` has shape ``(n,)``."""
    if isinstance(column, np.ndarray):
        return column[chosen]
    return list(itertools.compress(column, chosen.tolist()))
