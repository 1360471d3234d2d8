"""How many features drifted, which, and since when: the upper part of the dashboard Data and drift."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.common import BigValueTextMode
from grafana_foundation_sdk.models.dashboard import DashboardRangeMapOptions, Panel, RangeMap, ValueMappingResult

from grafana import layout
from grafana.panels import stat, state_timeline
from grafana.queries import BOTH, MODEL, WINDOW
from grafana.style import BARE, COUNT, NO_PROFILE, OK, WARNING, Query

SCORE = f"model_version_feature:kl_divergence_above_noise:max{{{BOTH}}}"
THRESHOLD = f"model_feature:threshold:ModelFeatureDrift{{{MODEL}}}"
_HIGHEST = (
    f"max by (feature) (max_over_time({SCORE}[$__range] @ end())"
    f" / on (model, feature) group_left () last_over_time({THRESHOLD}[$__range] @ end()))"
)
"""The highest score over its threshold, of each feature, in the time range."""
WORST_FIRST = (
    f"sort_desc({_HIGHEST.replace(' @ end()', '')}"
    f" or -1 * group by (feature) (model_feature_reference_missing_ratio{{{BOTH}}}))"
)
"""All features, the one with the highest score over its threshold in the time range first."""
_ROWS = 30
_ANY = 1e9
"""More than any number of features, and any score over its threshold."""
_LEVELS = (
    (0, 0, "below half its threshold", "rgba(125, 155, 209, 0.25)"),
    (1, 1, "from half its threshold", "rgba(125, 155, 209, 0.8)"),
    (2, 3, "above its threshold", "light-orange"),
    (4, 9, "twice its threshold or more", "orange"),
    (10, 10, "five times its threshold or more", "dark-orange"),
)
"""Of a score over its threshold, in halves."""
_EXPLANATION = layout.page_link(
    "drift", "Explanation", layout.VERSIONS, model="model", window="window", feature="__field.labels.feature"
)


def _levels(*levels: tuple[float, float, str, str]) -> list[Any]:
    return [
        RangeMap(
            options=DashboardRangeMapOptions(
                from_val=least, to=most, result=ValueMappingResult(text=text or None, color=colour, index=index)
            )
        )
        for index, (least, most, text, colour) in enumerate(levels)
    ]


def _count(title: str, description: str, series: str, threshold: str, verb: str) -> Panel:
    """Return a tile such as "3 of 12 drifted", or one in grey that says why there is no number.

    PromQL has numbers in labels only by ``count_values``.
    """
    whole = f"count(max by (feature) ({series}))"
    above = f"(count(max by (feature) ({series} > on (model, feature) group_left () {threshold})) or 0 * {whole})"
    labels = f'count_values("above", {above}) * on () group_left (whole) count_values("whole", {whole})'
    both = f'label_join({above} + on () group_left (above, whole) 0 * ({labels}), "both", " of ", "above", "whole")'
    named = f'label_replace({both}, "text", "$1 {verb}", "both", "(.+)")'
    expr = f'{named} or on () label_replace(vector(-1), "text", "{NO_PROFILE}", "", "")'
    panel = stat(
        title,
        description,
        BARE,
        Query(expr, "{{text}}", "instant"),
        state=True,
        empty=NO_PROFILE,
        mappings=_levels((0, 0, "", OK), (1, _ANY, "", WARNING)),
        links=[layout.DRIFT],
    )
    options: Any = panel.options
    options.text_mode = BigValueTextMode.NAME
    return panel


def drifted() -> Panel:
    text = "Features whose divergence from training is above its noise floor and its threshold, in any window, now."
    return _count("Drift", text, SCORE, THRESHOLD, "drifted")


def shifted() -> Panel:
    return _count(
        "Mean",
        "Numeric features whose mean is further from its training mean than the threshold of ModelFeatureMeanShift.",
        f"model_version_feature:mean_shift_above_noise:max{{{BOTH}}}",
        f"model_feature:threshold:ModelFeatureMeanShift{{{MODEL}}}",
        "shifted",
    )


def missing() -> Panel:
    return _count(
        "Missing or invalid",
        "Features that are missing or invalid more often than in training by the threshold of ModelFeatureMissing.",
        f"model_version_feature:missing_excess_ratio:max{{{BOTH}}}",
        f"model_feature:threshold:ModelFeatureMissing{{{MODEL}}}",
        "often missing",
    )


def worst() -> Panel:
    return stat(
        "Worst feature",
        "The feature that is furthest above its threshold now, or nearest below it, and its score over the threshold.",
        "suffix:× its threshold",
        Query(
            f"topk(1, max by (feature) ({SCORE} / on (model, feature) group_left () {THRESHOLD}) > 0)",
            "{{feature}}",
            "instant",
        ),
        state=True,
        empty="none above the noise, or no profile",
        decimals=1,
        mappings=_levels((0, 0.99999, "", OK), (1, _ANY, "", WARNING)),
        value_links=[_EXPLANATION],
    )


def window_size() -> Panel:
    return stat(
        "Values in the window",
        "Number of values in the window, for the feature that has most. With few values a score has little meaning.",
        COUNT,
        Query(f"max(model_feature_window_observations{{{BOTH},{WINDOW}}})", "in $window", "instant"),
        stacked=True,
        empty=NO_PROFILE,
    )


def features_by_time() -> Panel:
    ratio = f"max by (feature) ({SCORE} / on (model, feature) group_left () {THRESHOLD})"
    return state_timeline(
        "Features over time: score over threshold",
        (
            f"Score of each feature over its threshold: orange from the threshold on. With more than {_ROWS}, those "
            "with the highest value in the time range. Click a feature for an explanation."
        ),
        Query(f"clamp_max(floor(2 * {ratio}), 10) and on (feature) topk({_ROWS}, {_HIGHEST})", "{{feature}}"),
        names={},
        levels=_levels(*_LEVELS),
        show_values=False,
        empty=NO_PROFILE,
        value_links=[_EXPLANATION],
    )
