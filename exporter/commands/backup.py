"""Copy the SQLite database to a new file, also while the exporter runs, and verify the copy: pages, indexes, releases.

Example::

    model-exporter backup --config.file=exporter.yml /var/backups/

See docs/operations.md#backup-and-restore.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from exporter.commands.common import add_config_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    text = "new file for the backup; in a directory, the file is named after the time"
    parser.add_argument("target", metavar="FILE", help=text)
    add_config_file(parser, "the database")


def run(options: argparse.Namespace) -> int:
    """Write and verify a backup, and print what it holds."""
    from exporter import config
    from exporter.storage import back_up  # loads SQLAlchemy

    target: Path = options.target
    if target.is_dir():
        target /= f"model-exporter-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    summary = back_up(config.load_own(options.config_file).store, target)
    print(f"{target}: {summary.describe()}")
    return 0
