"""Write the dashboards, or with ``--output`` the files of a release."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import (
    model_business,
    model_data,
    model_exporter,
    model_fleet,
    model_overview,
    model_quality,
    model_release,
    model_system,
    rules,
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


def files() -> dict[str, str]:
    """Return the text of each dashboard by the name of its file, for provisioning."""
    documents = [build() for build in BUILDERS]
    return {f"{document.uid}.json": _json(document) for document in documents}


def _json(document: object) -> str:
    return json.dumps(document, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write these files, by name, to a directory, and delete its other files of the same kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in {Path(name).suffix for name in contents}:
        for old in folder.glob(f"*{kind}"):
            old.unlink()
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")


def main() -> None:
    """Run ``python -m grafana``."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    parser.add_argument("--output", type=Path, help="folder for the files of a release: dashboards/ and alerting/")
    folder = parser.parse_args().output
    if folder is None:
        write(ROOT / "grafana" / "dashboards", files())
    else:
        write(folder / "dashboards", files())
        write(folder / "alerting", rules.managed_rules())


if __name__ == "__main__":
    main()
