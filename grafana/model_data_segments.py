"""The divergence of segments, in the dashboard Data and drift."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import time_series
from grafana.queries import BOTH, FEATURE, by_rank
from grafana.style import NATS, Query

_NO_SEGMENTS = "no segment_by in the model's configuration, no profile, or no data"
_OWN_PAST = (
    "It is compared with all training data: a segment that differed in training already is always high, so compare it "
    "with its own past."
)


def _above_noise(selector: str) -> str:
    """Return the divergences of segments, 0 where they are not above their noise floor."""
    divergence, noise = (f"model_segment_kl_divergence{part}{{{selector}}}" for part in ("", "_noise"))
    return f"({divergence} > {noise} or 0 * {divergence})"


def _highest(selector: str) -> str:
    """Return the highest divergence of each segment in the time range."""
    return f"max by (segment) (max_over_time(model_segment_kl_divergence{{{selector}}}[$__range] @ end()))"


def worst() -> Panel:
    return time_series(
        "Highest divergence of any feature by segment",
        (
            "KL divergence from training of the feature that has the highest one above its noise floor, in the longest "
            f"window, for the six segments with the highest in the time range. {_OWN_PAST}"
        ),
        NATS,
        *by_rank(f"max by (segment) ({_above_noise(BOTH)})", _highest(BOTH), "segment"),
        empty=_NO_SEGMENTS,
    )


def of_feature() -> Panel:
    one = f"{BOTH},{FEATURE}"
    return time_series(
        "$feature: divergence by segment",
        (
            "KL divergence of the feature from training in the longest window, for the six segments with the highest "
            f"in the time range, and the highest noise floor of any segment. {_OWN_PAST}"
        ),
        NATS,
        *by_rank(f"max by (segment) (model_segment_kl_divergence{{{one}}})", _highest(one), "segment"),
        Query(f"max(model_segment_kl_divergence_noise{{{one}}})", "highest noise", role="reference"),
        empty="no segment_by, no profile, no data, or the feature that segment_by names",
    )
