"""The margins of a release: by how much a new version may be worse, their defaults, and their checks."""

from __future__ import annotations

from typing import Any

from exporter.validation import preview, suggestion

MARGINS = {
    "error_ratio": 0.005,
    "latency_p95_seconds": 0.1,
    "confident_ratio": 0.05,
    "correction_ratio": 0.01,
    "worst_drift_nats": 0.3,
    "accuracy": 0.02,
    "mean_absolute_error": 0.0,
}
"""The margin of each measure where none is set, in the measure's unit."""
PROMOTED_WITHOUT = ("latency_p95_seconds", "mean_absolute_error")
"""Measures that need no proof where no margin is set: buckets may be wider than any, and the unit is not known."""


def check_margin(name: str, value: Any) -> None:
    """Check a margin.

    >>> check_margin("error_ratio", -1)
    Traceback (most recent call last):
    ValueError: expected a number of at least 0, got -1

    Raises
    ------
    ValueError
        When there is no such measure, or the value is not a number of at least 0.
    """
    if name not in MARGINS:
        raise ValueError(f"{preview(name)} is not a measure of a comparison; {suggestion(name, MARGINS)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"expected a number of at least 0, got {preview(value)}")


def parse_margin(text: str) -> tuple[str, float]:
    """Return the measure and its margin.

    >>> parse_margin("error_ratio=0.01")
    ('error_ratio', 0.01)

    Raises
    ------
    ValueError
        When it is not a measure, ``=`` and a number of at least 0.
    """
    name, equals, number = text.partition("=")
    try:
        value = float(number) if equals else None
    except ValueError:
        value = None
    if value is None:
        raise ValueError(f"expected a measure and a number such as error_ratio=0.01, got {preview(text)}")
    check_margin(name, value)
    return name, value
