"""Check a configuration and the profiles that it names.

The exit status is 1 if anything is wrong.

Example::

    model-exporter check-config exporter.yml

See docs/commands.md#check-config.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exporter.commands.common import add_config_file, add_web_files
from exporter.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("config", nargs="?", metavar="FILE", help="configuration (exporter.yml)")
    add_config_file(parser)
    add_web_files(parser)


def run(options: argparse.Namespace) -> int:
    """Print what is configured, and what is wrong; the status is 1 if anything is."""
    from exporter.server import access
    from exporter.server.model_files import load_valid  # loads numpy

    path = options.config or options.config_file or Path("exporter.yml")
    loaded = load_valid(path)
    access.load(options.web_config_file, options.web_tokens_file)
    for model in loaded.config.models:
        binner = loaded.monitors.nearest_binner(model.name)
        inputs = f"{len(binner.names)} features in {len(binner.targets)} profiled targets" if binner else "no profile"
        inputs += f" ({len(model.profiles)} versions have their own)" if model.profiles else ""
        print(f"{model.name}: {inputs}, windows {', '.join(model.windows)}")
    valid = loaded.valid.values()
    for fault in loaded.faults:
        print(f"model-exporter: {printable(str(fault))}", file=sys.stderr)
    print(f"{path} is valid" + (f"; in models_folder, {sum(valid)} of {len(valid)} files are" if valid else ""))
    return 1 if loaded.faults else 0
