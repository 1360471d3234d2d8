"""Remove from the database what was stored before the configuration redacted it.

Exporters may run meanwhile.

Example::

    model-exporter redact --config.file=exporter.yml --dry-run

See docs/configuration.md#redact.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from exporter import config
from exporter.commands.common import add_config_file
from exporter.datasets.examples import encode_lines
from exporter.datasets.release import holds, redacted_pages
from exporter.errors import ExporterError
from exporter.server.model_files import load_monitors
from exporter.storage import Redaction, open_redaction

_Redacted = Mapping[str, Collection[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser, "the database, its archive, and what is redacted")
    parser.add_argument("--dry-run", action="store_true", help="only count what holds redacted inputs")


def run(options: argparse.Namespace) -> int:
    """Clean the database and its archive; return the exit status."""
    configuration = config.load(options.config_file)
    redacted = {model.name: sorted(model.redact) for model in configuration.models if model.redact}
    if not redacted:
        raise ExporterError(f"{options.config_file}: no model has redact: there is nothing to remove")
    for model, names in redacted.items():
        print(f"{model}: {', '.join(names)}")
    with open_redaction(configuration.store) as redaction:
        later = _clean(redaction, redacted, _layouts(options.config_file), dry_run=options.dry_run)
        purged = options.dry_run or redaction.purge()
        if cleaned := redaction.clean_archive(redacted, dry_run=options.dry_run):
            print(f"archive: {cleaned.predictions:,} predictions in {cleaned.files:,} files {_done(options.dry_run)}")
        damaged = redaction.count_damaged()
    if later:
        _remark(f"{later} rows were stored meanwhile: reload the exporter, then run this again")
    if not purged:
        _remark("the write-ahead log may hold copies until it is written anew: the exporter is using it")
    if damaged:
        _remark(f"{damaged} damaged databases beside this one are not cleaned: remove them once you need them no more")
    return 0


def _clean(redaction: Redaction, redacted: _Redacted, kept: Collection[str], *, dry_run: bool) -> int:
    """Clean the database, and print what was; return how many rows were stored meanwhile, and cleaned, too."""
    changed, later = redaction.clean_rows(redacted, dry_run=dry_run)
    for table, rows in changed.items():
        print(f"{table}: {rows:,} rows {_done(dry_run)}")
    for model in redacted:
        if number := redaction.delete_bins(model, kept, dry_run=dry_run):
            print(f"bins of {model}: {number:,} predictions {_done(dry_run, 'removed')}")
    for row in _releases_with(redaction, redacted):
        print(_redact_release(redaction, row, redacted[row["model"]], dry_run=dry_run))
    return later


def _done(dry_run: bool, done: str = "cleaned") -> str:
    return "hold redacted inputs" if dry_run else done


def _layouts(path: Path) -> set[str]:
    """Return the layouts of the bins that an exporter with this configuration records; none if it would not start."""
    try:
        _, monitors = load_monitors(path)
    except ExporterError:
        return set()
    return {binner.layout for model in monitors.models for binner in monitors.binners_of(model)}


def _releases_with(redaction: Redaction, redacted: _Redacted) -> Iterator[Mapping[Any, Any]]:
    """Yield the releases that hold redacted inputs."""
    for model, names in redacted.items():
        for row in redaction.releases(model):
            if holds(redaction.chunks(row), names):
                yield row


def _redact_release(redaction: Redaction, row: Mapping[Any, Any], names: Collection[str], *, dry_run: bool) -> str:
    """Rewrite a release without redacted inputs; return what to print."""
    if dry_run:
        return f"release {row['name']}: holds redacted inputs"
    pages = redacted_pages(redaction.chunks(row), names)
    lineage = msgspec.json.decode(row["lineage"])
    lineage.setdefault("redacted_from", row["sha256"])
    content = (encode_lines(page) for page in pages)
    sha256 = redaction.rewrite(row, content, msgspec.json.encode(lineage).decode(), row["examples"])
    return f"release {row['name']}: rewritten, SHA-256 {sha256} instead of {row['sha256']}"


def _remark(text: str) -> None:
    print(f"model-exporter: {text}", file=sys.stderr)
