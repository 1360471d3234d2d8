"""Write the dashboards, and what Kubernetes needs, from their source."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import business, data, health, overview, release, system

BOARDS = tuple(module.dashboard for module in (overview, system, data, business, release, health))
ROOT = Path(__file__).resolve().parents[1]
EXPORTER_URL = "http://127.0.0.1:9877"


def text(document: Dashboard) -> str:
    """A dashboard as its file holds it."""
    return json.dumps(document, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def files(exporter_url: str = EXPORTER_URL) -> dict[str, str]:
    """The text of each dashboard by the name of its file."""
    documents = [board(exporter_url) for board in BOARDS]
    return {f"{document.uid}.json": text(document) for document in documents}


def main() -> None:
    """``python -m grafana``."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    parser.add_argument("--exporter-url", default=EXPORTER_URL, help="where browsers reach the exporter (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "grafana" / "dashboards", help="folder (%(default)s)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name, content in files(options.exporter_url.rstrip("/")).items():
        (options.output / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
