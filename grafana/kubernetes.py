"""The alerting and recording rules as a PrometheusRule, for the Prometheus operator."""

from __future__ import annotations

from grafana import rules


def prometheus_rule() -> str:
    """Return the YAML of a PrometheusRule with every rule of ``prometheus/rules/``."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "model-exporter",
            "labels": {"app.kubernetes.io/name": "model-exporter", "release": "kube-prometheus-stack"},
        },
        "spec": {"groups": rules.groups()},
    }
    return rules.generated(rule, "kubernetes")
