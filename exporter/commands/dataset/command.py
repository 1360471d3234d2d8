"""The command ``model-exporter dataset``: releases and exports of a running exporter, and annotations to import."""

from __future__ import annotations

import argparse

from exporter.commands.dataset import check, evaluate, export, label_studio, releases

_COMMANDS = {
    "release": (releases.add_release, "freeze the accepted corrections of a model as a release"),
    "export": (export.add_export, "write a release, or all accepted corrections, to a file"),
    "check": (check.add_check, "find near-duplicates in a release, and examples that are training rows"),
    "evaluate": (evaluate.add_evaluate, "compare a candidate model's predictions with the labels of a release"),
    "import": (label_studio.add_import, "import annotations from Label Studio"),
    "list": (releases.add_list, "list the releases, the newest first"),
}
"""What adds the options of each subcommand, and its summary."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own commands to its parser."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (add, text) in _COMMANDS.items():
        add(commands.add_parser(name, help=text))


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand; return the exit status."""
    status: int = options.step(options)
    return status
