"""Commands for the database: archive, backup, restore, redact, forget."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec

from exporter import config, storage
from exporter.commands.common import add_config_file
from exporter.datasets import Example, Page, decode_lines, encode_lines
from exporter.datasets.release import holds, redacted_pages
from exporter.errors import ExporterError
from exporter.server.model_files import load_monitors
from exporter.server.pipeline import feedback_inputs
from exporter.storage import Forgotten, Redaction, ReleaseRow, open_redaction


def archive_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser, "the database and its archive")


def archive(options: argparse.Namespace) -> int:
    """Write predictions that are older than store.retention to Parquet files in store.archive, and labels that came
    too late for them.

    Exporters delete them only afterwards, and may keep running.

    Example::

        model-exporter archive --config.file=exporter.yml

    See docs/configuration.md#the-archive.
    """

    configuration, monitors = load_monitors(options.config_file)
    store = configuration.store
    if store.archive is None:
        raise ExporterError(f"{options.config_file}: has no store.archive: name the folder or URL to archive to")
    predictions, labels = storage.archive(store, partial(feedback_inputs, monitors))
    print(f"{predictions:,} predictions and {labels:,} late labels were archived")
    return 0


def backup_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    text = "new file for the backup; in a directory, the file is named after the time"
    parser.add_argument("target", metavar="FILE", help=text)
    add_config_file(parser, "the database")


def backup(options: argparse.Namespace) -> int:
    """Copy the SQLite database to a new file, also while the exporter runs, and verify the copy: pages, indexes,
    releases.

    Example::

        model-exporter backup --config.file=exporter.yml /var/backups/

    See docs/operations.md#backup-and-restore.
    """
    target: Path = options.target
    if target.is_dir():
        target /= f"model-exporter-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    summary = storage.back_up(config.load_own(options.config_file).store, target)
    print(f"{target}: {summary.describe()}")
    return 0


def restore_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("backup", metavar="FILE", help="backup that `model-exporter backup` wrote")
    add_config_file(parser, "the database")


def restore(options: argparse.Namespace) -> int:
    """Verify a backup, and replace the SQLite database of a stopped exporter with it.

    The previous files are renamed, not deleted.

    Example::

        model-exporter restore --config.file=exporter.yml model-exporter-20261126T020000Z.db

    See docs/operations.md#backup-and-restore.
    """
    summary = storage.restore(config.load_own(options.config_file).store, options.backup)
    print(f"{options.backup} is restored: {summary.describe()}. Start the exporter now.")
    return 0


def redact_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser, "the database, its archive and the redacted inputs")
    parser.add_argument("--dry-run", action="store_true", help="only count what contains redacted inputs")


def redact(options: argparse.Namespace) -> int:
    """Remove inputs from the database that were stored before the configuration redacted them.

    Exporters may keep running.

    Example::

        model-exporter redact --config.file=exporter.yml --dry-run

    See docs/configuration.md#redact.
    """
    configuration = config.load(options.config_file)
    redacted = {model.name: sorted(model.redact) for model in configuration.models if model.redact}
    if not redacted:
        raise ExporterError(f"{options.config_file}: no model has redact: there is nothing to remove")
    for model, names in redacted.items():
        print(f"{model}: {', '.join(names)}")
    with open_redaction(configuration.store) as redaction:
        segmented = {model.name for model in configuration.models if model.segment_by not in {None, *model.redact}}
        later = _clean(redaction, redacted, _layouts(options.config_file), dry_run=options.dry_run)
        for copies, rows in redaction.clean_copies([*redacted], segmented, dry_run=options.dry_run).items():
            if rows:
                print(f"{copies}: {rows:,} rows {_done(options.dry_run)}")
        purged = options.dry_run or redaction.purge()
        if cleaned := redaction.clean_archive(redacted, segmented, dry_run=options.dry_run):
            print(f"archive: {cleaned[1]:,} predictions in {cleaned[0]:,} files {_done(options.dry_run)}")
        damaged = redaction.count_damaged()
    if later:
        _remark(f"{later} rows were stored meanwhile: reload the exporter, then run this again")
    if not purged:
        _remark("the write-ahead log may contain copies until it is rewritten: the exporter is using it")
    if damaged:
        _remark(
            f"{damaged} damaged databases next to this one are not cleaned: delete them once you no longer need them"
        )
    return 0


def _clean(redaction: Redaction, redacted: Mapping[str, list[str]], kept: set[str], *, dry_run: bool) -> int:
    """Clean the database, and print what was; return how many rows were stored meanwhile, and cleaned, too."""
    changed, later = redaction.clean_rows(redacted, dry_run=dry_run)
    for table, rows in changed.items():
        print(f"{table}: {rows:,} rows {_done(dry_run)}")
    for model in redacted:
        if number := redaction.delete_bins(model, kept, dry_run=dry_run):
            print(f"bins of {model}: {number:,} predictions {_done(dry_run, 'removed')}")
    for model, names in redacted.items():
        for row in redaction.releases(model):
            if holds(redaction.chunks(row), names):
                print(_redact_release(redaction, row, names, dry_run=dry_run))
    return later


def _done(dry_run: bool, done: str = "cleaned") -> str:
    return "contain redacted inputs" if dry_run else done


def _layouts(path: Path) -> set[str]:
    """Return the layouts of the bins that an exporter with this configuration records; none if it would not start."""
    try:
        _, monitors = load_monitors(path)
    except ExporterError:
        return set()
    return {binner.layout for model in monitors.models for binner in monitors.binners_of(model)}


def _redact_release(redaction: Redaction, row: ReleaseRow, names: Collection[str], *, dry_run: bool) -> str:
    """Rewrite a release without redacted inputs; return what to print."""
    if dry_run:
        return f"release {row['name']}: contains redacted inputs"
    pages = redacted_pages(redaction.chunks(row), names)
    lineage = msgspec.json.decode(row["lineage"])
    lineage.setdefault("redacted_from", row["sha256"])
    content = (encode_lines(page) for page in pages)
    sha256 = redaction.rewrite(row, content, msgspec.json.encode(lineage).decode(), row["examples"])
    return f"release {row['name']}: rewritten, SHA-256 {sha256} instead of {row['sha256']}"


def _remark(text: str) -> None:
    print(f"model-exporter: {text}", file=sys.stderr)


def forget_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser, "the database and its archive")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "--user", dest="person", metavar="NAME", help="remove this user's feedback and the predictions that it is about"
    )
    whose.add_argument("--prediction", metavar="ID", help="remove the prediction with this identifier")
    parser.add_argument("--model", metavar="NAME", help="only predictions of this model; of all models by default")
    parser.add_argument("--dry-run", action="store_true", help="only count what would be removed")


def forget(options: argparse.Namespace) -> int:
    """Remove a person, or a prediction, from database, archive and releases: predictions, feedback, labels, examples.

    Exporters may keep running.

    Example::

        model-exporter forget --config.file=exporter.yml --user=teacher-4 --dry-run

    See docs/configuration.md#forget.
    """
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
            _remark("the write-ahead log may contain copies until it is rewritten: the exporter is using it")
    _remark("backups, exported files, logs and Prometheus' metrics are not changed: they expire, or you delete them")
    return 0


def _pages(redaction: Redaction, row: ReleaseRow) -> Iterator[Page]:
    return decode_lines(redaction.chunks(row), Example)


def _is_forgotten(example: Example, found: Forgotten) -> bool:
    of_model = found.predictions.get(example.model, set()) | found.predictions.get(None, set())
    return (example.id.isdecimal() and int(example.id) in found.feedback) or example.prediction_id in of_model


def _rewrite(redaction: Redaction, row: ReleaseRow, found: Forgotten, number: int) -> str:
    """Rewrite a release without forgotten examples; return its new SHA-256."""
    lineage = msgspec.json.decode(row["lineage"])
    lineage["forgotten"] = lineage.get("forgotten", 0) + number
    kept = ([one for one in page if not _is_forgotten(one, found)] for page in _pages(redaction, row))
    content = (encode_lines(page) for page in kept if page)
    return redaction.rewrite(row, content, msgspec.json.encode(lineage).decode(), row["examples"] - number)
