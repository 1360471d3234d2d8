"""Interpret a verdict: a correction to the prediction, or within the model's tolerance of it, accepts it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from exporter.stats.tolerance import Tolerance
from exporter.storage.stored_text import label_spellings

Tolerances = Callable[[str], Tolerance]
"""Takes a model, and returns its tolerance."""
LONGEST_NUMBER = 64
"""Characters of a stored label from which it is not read as a number."""


def effective_verdict(verdict: str, label: str | None, prediction: str | None, tolerance: Tolerance) -> str:
    """Return what a verdict means; labels and predictions are stored JSON.

    >>> effective_verdict("corrected", '"7"', "7", Tolerance()), effective_verdict("corrected", "8", "7", Tolerance())
    ('accepted', 'corrected')
    >>> effective_verdict("corrected", "1.1", "1", Tolerance(0.1))
    'accepted'
    >>> effective_verdict("corrected", "90", "100", Tolerance(share=0.05))
    'corrected'
    """
    if label is None or prediction is None:
        return verdict
    is_same = label in label_spellings(prediction) or is_within(label, prediction, tolerance)
    return "accepted" if is_same else verdict


def is_within(label: str | None, prediction: str | None, tolerance: Tolerance) -> bool:
    """Return whether a stored label and a stored prediction are numbers that differ by no more than the tolerance."""
    if label is None or prediction is None or not any(tolerance):
        return False
    predicted, actual = _number(prediction), _number(label)
    return predicted is not None and actual is not None and tolerance.accepts(predicted, actual)


def _number(stored: str) -> float | None:
    """Return the number that a label is, or that its text is; None for any other label."""
    if len(stored) > LONGEST_NUMBER:
        return None
    try:
        return msgspec.json.decode(stored.strip('"'), type=float)
    except (msgspec.MsgspecError, UnicodeError):
        return None
