"""Write the dashboards and the PrometheusRule from their source."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import (
    kubernetes,
    model_business,
    model_data,
    model_exporter,
    model_overview,
    model_release,
    model_system,
)

_MODULES = (model_overview, model_system, model_data, model_business, model_release, model_exporter)
BUILDERS = tuple(module.dashboard for module in _MODULES)
ROOT = Path(__file__).resolve().parents[1]
EXPORTER_URL = "http://127.0.0.1:9877"
GRAFANA_URL = "http://127.0.0.1:3000"


def text(document: Dashboard) -> str:
    """Return a dashboard as the text of its file."""
    return json.dumps(document, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def files(exporter_url: str = EXPORTER_URL) -> dict[str, str]:
    """Return the text of each dashboard by the name of its file.

    Parameters
    ----------
    exporter_url
        Address of the exporter for browsers, for links from values to its pages.
    """
    documents = [build(exporter_url.rstrip("/")) for build in BUILDERS]
    return {f"{document.uid}.json": text(document) for document in documents}


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write these files, by name, to a directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")


def main() -> None:
    """Run ``python -m grafana``."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    parser.add_argument("--exporter-url", default=EXPORTER_URL, help="where browsers reach the exporter (%(default)s)")
    parser.add_argument("--grafana-url", default=GRAFANA_URL, help="where browsers reach Grafana (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT, help="folder that holds grafana/ and deploy/")
    options = parser.parse_args()
    dashboards = files(options.exporter_url)
    for old in (options.output / "grafana" / "dashboards").glob("*.json"):
        old.unlink()
    write(options.output / "grafana" / "dashboards", dashboards)
    urls = {EXPORTER_URL: options.exporter_url.rstrip("/"), GRAFANA_URL: options.grafana_url.rstrip("/")}
    write(options.output / "deploy" / "kubernetes", {"rules.yaml": kubernetes.prometheus_rule(urls)})


if __name__ == "__main__":
    main()
