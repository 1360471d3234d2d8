"""The same dashboards and rules for kube-prometheus-stack: ConfigMaps for Grafana's sidecar, and a PrometheusRule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).resolve().parents[1] / "prometheus" / "rules"
LABELS = {"app.kubernetes.io/name": "model-exporter"}
HEADER = "# Made by `make kubernetes` from {source}: edit those.\n"


class _Dumper(yaml.SafeDumper):
    """Text of several lines as it stands."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def files(dashboards: Mapping[str, str], addresses: Mapping[str, str] | None = None) -> dict[str, str]:
    """The text of each file by its name.

    Parameters
    ----------
    dashboards
        JSON by the name of its file.
    addresses
        Beginnings of the URLs in the rules' annotations, and what stands there in the cluster.
    """
    return {
        "dashboards.yaml": HEADER.format(source="grafana/dashboards/")
        + yaml.dump_all(
            [_config_map(name, text) for name, text in sorted(dashboards.items())],
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=10**6,
        ),
        "rules.yaml": HEADER.format(source="prometheus/rules/")
        + yaml.dump(_rule(addresses or {}), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6),
    }


def _config_map(name: str, text: str) -> dict[str, Any]:
    """One a dashboard: a ConfigMap holds a megabyte at most."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"model-exporter-{name.removesuffix('.json').removeprefix('model-')}",
            "labels": LABELS | {"grafana_dashboard": "1"},
            "annotations": {"grafana_folder": "Models"},
        },
        "data": {name: text},
    }


def _rule(addresses: Mapping[str, str]) -> dict[str, Any]:
    groups = []
    for path in sorted(RULES.glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        for here, there in addresses.items():
            text = text.replace(here, there)
        groups += yaml.safe_load(text)["groups"]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "model-exporter", "labels": LABELS | {"release": "kube-prometheus-stack"}},
        "spec": {"groups": groups},
    }
