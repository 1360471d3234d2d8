"""How good two versions are over time: measured with labels, and estimated without them."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import time_series
from grafana.queries import AFTER, BEFORE, EARLIER, MODEL, WINDOW
from grafana.style import COUNT, NOT_IN_LEGEND, PALETTE, SHARE, Query, for_query, setting

_NO_QUALITY = "fewer than 20 labels, and no labelled rows in the profile"
_DOTTED = setting("custom.lineStyle", {"fill": "dash", "dash": [3, 4]})


def accuracy_over_time() -> Panel:
    """Return the accuracy of both versions."""
    return _quality(
        "Accuracy",
        "Share of the predictions of $window that are right.",
        SHARE,
        "accuracy",
        f'max(model_version_basis:reference_accuracy:max{{{AFTER},basis="measured"}}'
        f" - on (model) group_left () model:threshold:ModelAccuracyLow{{{MODEL}}})",
        f"a regression, or {_NO_QUALITY}",
    )


def error_over_time() -> Panel:
    """Return the mean absolute error of both versions."""
    return _quality(
        "Mean absolute error",
        "Of a regression, in the unit of the label, for the predictions of $window.",
        COUNT,
        "mean_absolute_error",
        f"max(model_version:threshold:ModelAccuracyLowError{{{AFTER}}})",
        f"a classification, or {_NO_QUALITY}",
    )


def _quality(title: str, description: str, unit: str, name: str, threshold: str, empty: str) -> Panel:
    """Return a panel with what is measured and estimated of each version, and the interval of the estimates.

    Estimates of replicas cannot be added up: the value is their mean, and the interval contains those of all.
    """
    queries: list[Query] = []
    for side, version, ago in (("after", AFTER, ""), ("before", BEFORE, EARLIER)):
        selector = f"{{{version},{WINDOW}}}{ago}"
        of = f"{side}: ${side}"
        queries += [
            Query(f"max(model_version_window:{name}:measured{selector})", f"measured, {of}"),
            Query(f"avg(model_estimated_{name}{selector})", f"estimated, {of}"),
            Query(f"min(model_estimated_{name}_lower{selector})", f"at least, {of}", role="reference"),
            Query(f"max(model_estimated_{name}_upper{selector})", f"at most, {of}", role="reference"),
        ]
    return time_series(
        title,
        (
            f"{description} Measured with labels, if there are 20, and estimated without them. Grey: the 95 % interval "
            "of the estimate, for what labels will show. Dotted: the version before."
        ),
        unit,
        *queries,
        Query(threshold, "threshold", role="threshold"),
        empty=empty,
        least=None,
        overrides=[
            *(for_query(i + 4, setting("color", {"mode": "fixed", "fixedColor": PALETTE[i]}), _DOTTED) for i in (0, 1)),
            *(for_query(i, _DOTTED) for i in (6, 7)),
            *(for_query(i, NOT_IN_LEGEND) for i in (2, 3, 6, 7)),
        ],
    )
