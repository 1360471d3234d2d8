"""The command ``model-exporter backup``: copy the database, also while the exporter runs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from exporter import config
from exporter.commands.common import add_config_file
from exporter.storage.backup import BackupSummary, back_up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    text = "new file for the backup; in a directory, the file is named after the time"
    parser.add_argument("target", type=Path, metavar="FILE", help=text)
    add_config_file(parser, "the database")


def run(options: argparse.Namespace) -> int:
    """Write and verify a backup, and print what it holds."""
    target: Path = options.target
    if target.is_dir():
        target /= f"model-exporter-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    summary = back_up(config.load_own(options.config_file).store, target)
    print(f"{target}: {describe(summary)}")
    return 0


def describe(summary: BackupSummary) -> str:
    """Return in words what a verified backup holds."""
    return (
        f"{summary.bytes / 2**20:.1f} MiB, verified: {summary.predictions:,} predictions, "
        f"{summary.labels:,} labels, {summary.feedback:,} feedback ({summary.pending:,} to review), "
        f"{summary.releases:,} releases, windows of {summary.windows:,} versions"
    )
