"""Size of the store and labels that wait, in the dashboard Exporter."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from grafana.panels import time_series
from grafana.queries import INSTANCE
from grafana.style import BYTES, COUNT, PALETTE, SECONDS, Query, matching_series


def size() -> Panel:
    return time_series(
        "Size of the store",
        (
            "Predictions are deleted to stay below the maximum size; feedback and what else is kept is not. "
            "ModelStoreFull fires when it is above the threshold."
        ),
        BYTES,
        Query(f"model_exporter_store_bytes{{{INSTANCE}}}", "{{part}} {{instance}}"),
        Query(f"model_exporter_store_max_bytes{{{INSTANCE}}} < +Inf", "maximum {{instance}}", role="reference"),
        Query(
            f"model_exporter_store_max_bytes{{{INSTANCE}}} * on (instance) group_left ()"
            f" instance:threshold:ModelStoreFull{{{INSTANCE}}} < +Inf",
            "threshold of kept {{instance}}",
            role="threshold",
        ),
        overrides=matching_series({"^kept ": PALETTE[0], "^predictions ": PALETTE[1]}),
        empty="no exporter is scraped",
        least=0,
    )


def waiting_labels() -> Panel:
    return time_series(
        "Labels without a prediction",
        (
            "They count in no metric until their prediction arrives, and are deleted after store.retention. If they "
            "stay, check that they go to the exporter that got the predictions, with the identifiers that these had."
        ),
        COUNT,
        Query(f"model_exporter_labels_unjoined{{{INSTANCE}}}", "{{instance}}"),
        empty="no exporter is scraped",
    )


def oldest_label() -> Panel:
    return time_series(
        "Oldest label without a prediction",
        "Time since the oldest label arrived whose prediction has not. If it grows, the prediction may never come.",
        SECONDS,
        Query(f"model_exporter_labels_unjoined_oldest_seconds{{{INSTANCE}}}", "{{instance}}"),
        empty="no label waits",
    )
