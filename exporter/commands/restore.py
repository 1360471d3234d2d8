"""The command ``model-exporter restore``: put a backup in the place of the database."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter import config
from exporter.commands.backup import describe
from exporter.commands.common import add_config_file
from exporter.storage.backup import restore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("backup", type=Path, metavar="FILE", help="backup that `model-exporter backup` wrote")
    add_config_file(parser, "the database")


def run(options: argparse.Namespace) -> int:
    """Verify a backup, restore it, and print what it holds."""
    summary = restore(config.load_own(options.config_file).store, options.backup)
    print(f"{options.backup} is restored: {describe(summary)}. Start the exporter now.")
    return 0
