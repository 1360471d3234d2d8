"""Verify a backup, and put it in the place of the SQLite database of a stopped exporter.

The previous files are renamed, not deleted.

Example::

    model-exporter restore --config.file=exporter.yml model-exporter-20261126T020000Z.db

See docs/operations.md#backup-and-restore.
"""

from __future__ import annotations

import argparse

from exporter.commands.common import add_config_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("backup", metavar="FILE", help="backup that `model-exporter backup` wrote")
    add_config_file(parser, "the database")


def run(options: argparse.Namespace) -> int:
    """Verify a backup, restore it, and print what it holds."""
    from exporter import config
    from exporter.storage import restore  # loads SQLAlchemy

    summary = restore(config.load_own(options.config_file).store, options.backup)
    print(f"{options.backup} is restored: {summary.describe()}. Start the exporter now.")
    return 0
