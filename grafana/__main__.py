"""Write the dashboards, the PrometheusRule, the rules for Grafana and those for batches from their source."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import (
    kubernetes,
    last_run,
    managed_rules,
    model_business,
    model_data,
    model_exporter,
    model_fleet,
    model_overview,
    model_quality,
    model_release,
    model_system,
)

_MODULES = (
    model_fleet,
    model_overview,
    model_system,
    model_data,
    model_business,
    model_quality,
    model_release,
    model_exporter,
)
BUILDERS = tuple(module.dashboard for module in _MODULES)
ROOT = Path(__file__).resolve().parents[1]
EXPORTER_URL = "http://127.0.0.1:9877"


def files() -> dict[str, str]:
    """Return the text of each dashboard by the name of its file, for provisioning."""
    documents = [build() for build in BUILDERS]
    return {f"{document.uid}.json": _json(document) for document in documents}


def _json(document: object) -> str:
    return json.dumps(document, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def importable(text: str) -> str:
    """Return a dashboard for Grafana's "Import", which asks for the data source and the address of the exporter.

    The format is that of Grafana's own export.
    """
    document = json.loads(text)
    for variable in document["templating"]["list"]:
        if variable["name"] == "datasource":
            variable["current"] = {"selected": True, "text": "${DS_PROMETHEUS}", "value": "${DS_PROMETHEUS}"}
    variables = [v for v in document["templating"]["list"] if v["name"] != "exporter_url"]
    url = {"selected": True, "text": "${VAR_EXPORTER_URL}", "value": "${VAR_EXPORTER_URL}"}
    constant = {"name": "exporter_url", "type": "constant", "hide": 2, "skipUrlSync": True, "query": url["value"]}
    document["templating"]["list"] = [*variables, constant | {"current": url, "options": [url]}]
    source = {"type": "datasource", "pluginId": "prometheus", "pluginName": "Prometheus", "description": ""}
    address = {"type": "constant", "value": EXPORTER_URL, "description": "external_url of exporter.yml"}
    inputs = [
        {"name": "DS_PROMETHEUS", "label": "Prometheus"} | source,
        {"name": "VAR_EXPORTER_URL", "label": "URL of the exporter"} | address,
    ]
    panels = [*document["panels"], *(panel for row in document["panels"] for panel in row.get("panels") or ())]
    types = sorted({panel["type"] for panel in panels} - {"row"})
    requires = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "11.0.0"},
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        *({"type": "panel", "id": name, "name": name, "version": ""} for name in types),
    ]
    return _json({"__inputs": inputs, "__requires": requires} | document)


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write these files, by name, to a directory, and delete its other JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")


def main() -> None:
    """Run ``python -m grafana``."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT, help="folder that holds grafana/ and deploy/")
    options = parser.parse_args()
    dashboards = files()
    write(options.output / "grafana" / "dashboards", dashboards)
    write(options.output / "grafana" / "import", {name: importable(text) for name, text in dashboards.items()})
    write(options.output / "grafana" / "alerting", managed_rules.files())
    write(options.output / "deploy" / "kubernetes", {"rules.yaml": kubernetes.prometheus_rule()})
    write(options.output / "prometheus" / "batch", {"last_run.yml": last_run.file()})


if __name__ == "__main__":
    main()
