"""The command ``model-exporter redact``: remove from the store what was stored before it was redacted."""

from __future__ import annotations

import argparse
import contextlib
import sys
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import sqlalchemy as sa

from exporter import config
from exporter.commands.common import add_config_file
from exporter.datasets.examples import encode_lines
from exporter.datasets.release import holds, redacted_lineage, redacted_pages, write_content
from exporter.errors import ExporterError
from exporter.monitoring.model_files import load_monitors
from exporter.storage import _releases as releases
from exporter.storage._archive import redact_archive
from exporter.storage._engine import write_alone
from exporter.storage._predictions import delete_retired_dictionaries, retire_dictionaries
from exporter.storage._redaction import TABLES, delete_bins, purge, redact_rows
from exporter.storage._schema import open_database
from exporter.storage._sqlite import count_damaged

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
    with open_database(configuration.store) as connection:
        later = _redact_tables(connection, redacted, dry_run=options.dry_run)
        _remove_bins(connection, redacted, _layouts(options.config_file), dry_run=options.dry_run)
        for row in _releases_with(connection, redacted):
            print(_redact_release(connection, row, redacted[row["model"]], dry_run=options.dry_run))
        purged = options.dry_run or purge(connection)
        if configuration.store.archive is not None:
            _redact_archive(configuration.store.archive, redacted, dry_run=options.dry_run)
    if later:
        _remark(f"{later} rows were stored meanwhile: reload the exporter, then run this again")
    if not purged:
        _remark("the write-ahead log may hold copies until it is written anew: the exporter is using it")
    if damaged := count_damaged(configuration.store):
        _remark(f"{damaged} damaged databases beside this one are not cleaned: remove them once you need them no more")
    return 0


def _redact_tables(connection: sa.Connection, redacted: _Redacted, *, dry_run: bool) -> int:
    """Clean the tables; return how many rows with redacted inputs were stored meanwhile, and cleaned, too."""
    later = 0
    if not dry_run:
        with connection.begin():
            write_alone(connection)  # of predictions that are stored at this moment, none is committed later
            retire_dictionaries(connection, redacted)
    what = "hold redacted inputs" if dry_run else "cleaned"
    for table in TABLES:
        changed, last = redact_rows(connection, table, redacted, dry_run=dry_run)
        print(f"{table}: {changed:,} rows {what}")
        if not dry_run:
            later += redact_rows(connection, table, redacted, after=last, dry_run=False)[0]
    if not dry_run:
        with connection.begin():
            delete_retired_dictionaries(connection, redacted)
    return later


def _redact_archive(location: str, redacted: _Redacted, *, dry_run: bool) -> None:
    cleaned = redact_archive(location, redacted, dry_run=dry_run)
    what = "hold redacted inputs" if dry_run else "cleaned"
    print(f"archive: {cleaned.predictions:,} predictions in {cleaned.files:,} files {what}")


def _layouts(path: Path) -> set[str]:
    """Return the layouts of the bins that an exporter with this configuration records; none if it would not start."""
    try:
        _, monitors = load_monitors(path)
    except ExporterError:
        return set()
    return {binner.layout for model in monitors.models for binner in monitors.binners_of(model)}


def _remove_bins(connection: sa.Connection, redacted: _Redacted, kept: Collection[str], *, dry_run: bool) -> None:
    """Delete bins that were recorded when less was redacted."""
    for model in redacted:
        if number := delete_bins(connection, model, kept, dry_run=dry_run):
            print(f"bins of {model}: {number:,} predictions {'hold redacted inputs' if dry_run else 'removed'}")


def _releases_with(connection: sa.Connection, redacted: _Redacted) -> Iterator[releases.Row]:
    """Yield the releases that hold redacted inputs."""
    for model, names in redacted.items():
        rows = releases.list_releases(connection, model, sys.maxsize, None)
        connection.rollback()
        for row in rows:
            if holds(releases.read_chunks(lambda: _reading(connection), row), names):
                yield row


def _redact_release(connection: sa.Connection, row: releases.Row, names: Collection[str], *, dry_run: bool) -> str:
    """Rewrite a release without redacted inputs; return what to print."""
    if dry_run:
        return f"release {row['name']}: holds redacted inputs"
    build = uuid.uuid4().hex

    def write(number: int, data: bytes) -> None:
        with connection.begin():
            releases.write_chunk(connection, build, number, data)

    pages = redacted_pages(releases.read_chunks(lambda: _reading(connection), row), names)
    sha256, size = write_content((encode_lines(page) for page in pages), write)
    lineage = redacted_lineage(msgspec.json.decode(row["lineage"]), names)
    lineage.setdefault("redacted_from", row["sha256"])
    values = {"build": build, "sha256": sha256, "bytes": size, "lineage": msgspec.json.encode(lineage).decode()}
    with connection.begin():
        replaced = releases.replace_content(connection, row, values)
    if not replaced:
        raise ExporterError(f"the release {row['name']} was changed by another process: run the command again")
    return f"release {row['name']}: rewritten, SHA-256 {sha256} instead of {row['sha256']}"


@contextlib.contextmanager
def _reading(connection: sa.Connection) -> Iterator[sa.Connection]:
    """Read without holding a transaction afterwards."""
    yield connection
    connection.rollback()


def _remark(text: str) -> None:
    print(f"model-exporter: {text}", file=sys.stderr)
