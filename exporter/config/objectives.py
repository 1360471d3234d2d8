"""The objectives of a model: the share of requests without an error, and the share that is fast enough."""

from __future__ import annotations

from typing import Any

import msgspec

from exporter.validation import preview

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of latencies in seconds, between which no objective can be measured."""
DEFAULT_ERRORS = 0.999
"""The objective of models that set none; `tests/bundle/test_thresholds.py` compares it with the rules."""
LOWEST, HIGHEST = 0.5, 0.99999
OBJECTIVE_ALERTS = {
    "ModelErrorBudgetBurn": "objectives: {errors: 0.999}",
    "ModelLatencyBudgetBurn": "objectives: {latency: {below: 0.5, share: 0.95}}",
}
"""The alerts whose threshold is an objective, and how to set it."""


class LatencyObjective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``share`` of requests that take at most ``below`` seconds."""

    below: float
    share: float


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The objectives that a model sets; ``errors`` is the share of requests without a 5xx."""

    errors: float | None = None
    latency: LatencyObjective | None = None

    def shares(self) -> dict[str, float]:
        """Return the share of each objective, by its name in metrics.

        >>> Objectives(latency=LatencyObjective(0.5, 0.95)).shares()
        {'errors': 0.999, 'latency': 0.95}
        """
        return {"errors": DEFAULT_ERRORS} | self.set_shares()

    def set_shares(self) -> dict[str, float]:
        """Return the share of each objective that is set.

        >>> Objectives(latency=LatencyObjective(0.5, 0.95)).set_shares()
        {'latency': 0.95}
        """
        errors = {} if self.errors is None else {"errors": self.errors}
        return errors | ({"latency": self.latency.share} if self.latency else {})


def check_share(value: Any) -> None:
    """Check the share of an objective.

    >>> check_share(99.9)
    Traceback (most recent call last):
    ValueError: expected a share from 0.5 to 0.99999 such as 0.999, got 99.9; write 0.999 for 99.9 %

    Raises
    ------
    ValueError
        When it is not a number from `LOWEST` to `HIGHEST`.
    """
    if _is_number(value) and LOWEST <= value <= HIGHEST:
        return
    detail = f"expected a share from {LOWEST:g} to {HIGHEST:g} such as {DEFAULT_ERRORS:g}, got {preview(value)}"
    percent = _percentage(value)
    hint = f"; write {percent / 100:.7g} for {percent:.7g} %" if LOWEST <= percent / 100 <= HIGHEST else ""
    raise ValueError(detail + hint)


def check_bound(value: Any) -> None:
    """Check that a latency is a bound of the histogram.

    Raises
    ------
    ValueError
        When it is not; its text has the bounds.
    """
    if not _is_number(value) or value not in DURATION_BUCKETS:
        bounds = ", ".join(f"{bound:g}" for bound in DURATION_BUCKETS)
        raise ValueError(
            f"expected a bound of the histogram of latencies, in seconds: one of {bounds}; got {preview(value)}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percentage(value: Any) -> float:
    """Return the number of a percentage that is written as ``99.9`` or ``"99.9%"``; 0 for anything else."""
    try:
        return float(value.removesuffix("%")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
