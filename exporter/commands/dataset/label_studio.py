"""The command ``dataset import``: accept corrections with the labels that annotators chose in Label Studio."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.commands.common import add_exporter_options, exporter_client, set_help
from exporter.commands.dataset.requests import TIMEOUT, read_document
from exporter.datasets.label_studio import ImportedDecision, SkippedTask, read_decisions
from exporter.errors import ExporterError
from exporter.http_client.client import Client

MAX_REPORTED = 20
"""Tasks that are named when they are not accepted."""
_OUTCOMES = {
    "accepted": "accepted",
    "unchanged": "unchanged",
    "conflict": "conflicting",
    "unknown": "unknown",
    "disagreed": "with disagreeing annotators",
    "unlabelled": "without a single answer",
    "foreign": "not from this exporter",
}
"""Outcomes of importing a task, and their names in the summary."""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dataset import``."""
    set_help(
        parser,
        "Accept corrections with the labels that annotators chose in Label Studio.",
        "model-exporter dataset import project-1.json",
        "docs/dataset.md",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON export of Label Studio")
    parser.set_defaults(step=_import)
    add_exporter_options(parser)


def _import(options: argparse.Namespace) -> int:
    try:
        export = options.file.read_bytes()
    except OSError as error:
        raise ExporterError(f"{options.file}: cannot be read: {error.strerror}") from None
    outcomes: Counter[str] = Counter()
    reported = 0
    with exporter_client(options, TIMEOUT) as client:
        try:
            for decision in read_decisions(export):
                outcome, detail = _submit(client, decision)
                outcomes[outcome] += 1
                if detail and outcome != "unlabelled" and (reported := reported + 1) <= MAX_REPORTED:
                    print(f"{_OUTCOMES[outcome]}: {detail}", file=sys.stderr)
        except ExporterError as error:
            done = f" ({outcomes['accepted']} were accepted before)" if outcomes["accepted"] else ""
            raise ExporterError(f"{options.file}: {error}{done}") from None
    summary = [f"{outcomes[name]} {text}" for name, text in _OUTCOMES.items() if outcomes[name] or name == "accepted"]
    print(", ".join(summary))
    return 0


def _submit(client: Client, decision: ImportedDecision | SkippedTask) -> tuple[str, str]:
    """Send the decision of annotators on a task; return one of `_OUTCOMES` and a line for the report."""
    if isinstance(decision, SkippedTask):
        return decision.reason, decision.detail
    if decision.keeps_label:
        return "unchanged", ""
    where = f"correction {decision.correction_id}"
    if not decision.correction_id.isascii() or not decision.correction_id.isdigit():
        return "unknown", where
    body = {"status": "accepted", "revision": decision.revision, "label": decision.label, "reviewer": decision.reviewer}
    response = client.request("PATCH", f"/v1/corrections/{decision.correction_id}", json=body)
    if response.status == 409:
        return _conflict(read_document(client, response), decision)
    if response.status == 404:
        return "unknown", where
    if response.status >= 400:
        raise ExporterError(f"{where}: {response.error_message()}")
    return "accepted", ""


def _conflict(problem: Mapping[str, Any], decision: ImportedDecision) -> tuple[str, str]:
    """Return the outcome when the correction was decided meanwhile: `unchanged` if in the same way."""
    current = problem.get("correction", {})
    if current.get("status") == "accepted" and current.get("label") == decision.label:
        return "unchanged", ""
    return "conflict", f"correction {decision.correction_id}: {problem.get('detail')}"
