"""Which models predict numbers instead of classes, and how the errors of such predictions are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.quality import Scorer
from exporter.server.text import number


def is_regression(model: ModelConfig, binner: Binner | None, predictions: Iterable[Any]) -> bool:
    """Return whether a model predicts numbers and not classes; some of its predictions may decide, see `Scorer`.

    >>> is_regression(ModelConfig("price"), None, [3.5]), is_regression(ModelConfig("digits"), None, [3])
    (True, False)
    """
    scorer = Scorer.of_model(model, binner.profile if binner else None)
    return scorer.task == "regression" or any(map(scorer.is_number, predictions))


def difference(prediction: Any, label: Any) -> str:
    """Format how far a label is from the prediction; empty unless both are numbers.

    >>> difference(12.5, 14), difference(14, 12.5), difference(7, 7.0), difference("7", 8)
    ('+1.5', '−1.5', '0', '')
    """
    if not {type(prediction), type(label)} <= {int, float}:
        return ""
    try:
        return signed(float(label) - float(prediction))
    except OverflowError:
        return ""


def signed(value: float) -> str:
    """Format a number with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{number(abs(value))}"
