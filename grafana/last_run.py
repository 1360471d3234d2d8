"""Rules that keep the metrics of the last batch of each model version, where they are pushed by remote write."""

from __future__ import annotations

import re

from exporter.metrics.exposition import FAMILIES
from grafana import rules

JOB = "model-exporter-batch"
_SERVED = re.compile(
    r"model_(exporter_|system_|corrections_|review|comparison_|shadow_|slice_|objective|feature_recent_|feature_replicas_).*"
    r"|model_confidence_threshold|model_feature_drift_evidence"
)
"""Gauges that only a running exporter has."""
_NOTES = """\
#
# Prometheus forgets a sample that is pushed once after five minutes. These rules keep the last value of each gauge for
# 26 hours, for a job that runs every day, under a job name of their own: see docs/batch.md. If your jobs have another
# --job, or run less often, change the name and the time in a copy of this file.
"""


def file() -> str:
    """Return the YAML of a rule file with a rule for each gauge of a run."""
    names = [family.name for family in FAMILIES if family.kind == "gauge" and not _SERVED.fullmatch(family.name)]
    held = [
        {
            "record": name,
            "expr": f'last_over_time({name}{{job="{JOB}"}}[26h])',
            "labels": {"job": "model-exporter-last-run"},
        }
        for name in names
    ]
    groups = [{"name": "model-batch-last-run", "interval": "15s", "rules": held}]
    return rules.generated({"groups": groups}, "dashboards", _NOTES, source="exporter/metrics/")
