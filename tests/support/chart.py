"""The Helm chart, rendered by Helm's own engine."""

from __future__ import annotations

from typing import Any

import helm_python
import yaml

from support.paths import ROOT

FOLDER = ROOT / "deploy" / "helm"
CHART = helm_python.Chart.load(FOLDER)


def rendered(values: dict[str, Any] | None = None, name: str = "model-exporter") -> dict[tuple[str, str], Any]:
    """What an installation creates, by kind and name."""
    texts = CHART.render(values, name=name, namespace="monitoring")
    documents = [
        one for file, text in texts.items() if file.endswith(".yaml") for one in yaml.safe_load_all(text) if one
    ]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}
