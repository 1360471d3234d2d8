"""Remove a person, or a prediction, from the database: predictions, feedback, labels, and examples of releases.

Exporters may run meanwhile.

Example::

    model-exporter forget --config.file=exporter.yml --user=teacher-4 --dry-run

See docs/configuration.md#forget.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from exporter import config
from exporter.commands.common import add_config_file
from exporter.datasets.examples import Example, Page, decode_lines, encode_lines
from exporter.storage import Forgotten, Redaction, open_redaction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser, "the database")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "--user",
        dest="person",
        metavar="NAME",
        help="the user of feedback, with its predictions",
    )
    whose.add_argument("--prediction", metavar="ID", help="the identifier of a prediction")
    parser.add_argument("--model", metavar="NAME", help="only predictions of this model; of all models by default")
    parser.add_argument("--dry-run", action="store_true", help="only count what would be removed")


def run(options: argparse.Namespace) -> int:
    """Remove what belongs to the person or the prediction; return the exit status."""
    configuration = config.load(options.config_file)
    done = "found" if options.dry_run else "removed"
    with open_redaction(configuration.store) as redaction:
        found = redaction.find_forgotten(options.person, options.prediction, options.model)
        for row in redaction.releases(None):
            if number := sum(_is_forgotten(one, found) for page in _pages(redaction, row) for one in page):
                sha256 = "" if options.dry_run else f", SHA-256 {_rewrite(redaction, row, found, number)} now"
                print(f"release {row['name']}: {number:,} examples {done}{sha256}")
        for table, rows in redaction.forget(found, dry_run=options.dry_run).items():
            print(f"{table}: {rows:,} rows {done}")
        if not options.dry_run and not redaction.purge():
            _remark("the write-ahead log may hold copies until it is written anew: the exporter is using it")
    if configuration.store.archive is not None:
        _remark(f"the archive {configuration.store.archive} is not changed: remove their rows from its files")
    _remark(
        "backups, exported files, logs and the metrics in Prometheus are not changed: they expire, or you delete them"
    )
    return 0


def _pages(redaction: Redaction, row: Mapping[Any, Any]) -> Iterator[Page]:
    return decode_lines(redaction.chunks(row), Example)


def _is_forgotten(example: Example, found: Forgotten) -> bool:
    of_model = found.predictions.get(example.model, set()) | found.predictions.get(None, set())
    return int(example.id) in found.feedback or example.prediction_id in of_model


def _rewrite(redaction: Redaction, row: Mapping[Any, Any], found: Forgotten, number: int) -> str:
    """Rewrite a release without forgotten examples; return its new SHA-256."""
    lineage = msgspec.json.decode(row["lineage"])
    lineage["forgotten"] = lineage.get("forgotten", 0) + number
    kept = ([one for one in page if not _is_forgotten(one, found)] for page in _pages(redaction, row))
    content = (encode_lines(page) for page in kept if page)
    return redaction.rewrite(row, content, msgspec.json.encode(lineage).decode(), row["examples"] - number)


def _remark(text: str) -> None:
    print(f"model-exporter: {text}", file=sys.stderr)
