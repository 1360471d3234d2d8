"""Why a label cannot be compared with its prediction."""

from __future__ import annotations

from typing import Any

from exporter.wire.events import MAX_COMPARED


def refusal(prediction: Any, label: Any) -> str:
    """Return why a label is refused, without its value: that may be personal data.

    Parameters
    ----------
    prediction
        Its value; None if it has none, or a longer one than `MAX_COMPARED`.
    label
        The label.
    """
    if prediction is None:
        return f"its prediction has no value to compare with, or one that is longer than {MAX_COMPARED:,} characters"
    if not _is_number(prediction):  # classes can always be compared
        return f"its model predicts numbers, and its prediction is {_kind(prediction)}"
    if not _is_number(label):
        return f"expected a number, as its prediction is, got {_kind(label)}"
    return "is too far from its prediction, or one of the two is not finite"


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, or the text of one."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
    return type(value) in {int, float, str}


def _kind(value: Any) -> str:
    return "a boolean" if isinstance(value, bool) else "a string"
