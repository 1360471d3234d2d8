"""Labels that are known later, and the predictions that they belong to."""

from __future__ import annotations

from typing import Any, NamedTuple


class LabelledPrediction(NamedTuple):
    """A prediction whose label is known.

    Attributes
    ----------
    model, version
        Of the prediction.
    predicted
        Unix time of the prediction in seconds.
    prediction, confidence, segment
        Of the prediction.
    label
        The label, a JSON value.
    replaced
        The earlier label that it replaces; None for the first one.
    delay
        Seconds from the prediction to the label.
    """

    model: str
    version: str
    predicted: float
    prediction: Any
    confidence: float | None
    segment: str | None
    label: Any
    replaced: Any | None
    delay: float
