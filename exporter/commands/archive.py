"""Write predictions that are older than store.retention to the Parquet files of store.archive, and labels that came too
late for them.

Only then do exporters delete them. Exporters may run meanwhile.

Example::

    model-exporter archive --config.file=exporter.yml

See docs/configuration.md#the-archive.
"""

from __future__ import annotations

import argparse
from functools import partial

from exporter.commands.common import add_config_file
from exporter.errors import ExporterError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser, "the database and its archive")


def run(options: argparse.Namespace) -> int:
    """Archive what is older than the retention, and print how much that was."""
    from exporter.server.model_files import load_monitors
    from exporter.server.pipeline import without_redacted
    from exporter.storage import archive  # loads SQLAlchemy

    configuration, monitors = load_monitors(options.config_file)
    store = configuration.store
    if store.archive is None:
        raise ExporterError(f"{options.config_file}: has no store.archive: name the folder or URL to archive to")
    written = archive(store, partial(without_redacted, monitors))
    print(f"{written.predictions:,} predictions and {written.labels:,} late labels were archived")
    return 0
