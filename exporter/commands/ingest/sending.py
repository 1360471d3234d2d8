"""Options, client and resuming, shared by the commands that send a file to an exporter."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exporter.commands.common import add_credentials, checked, exporter_client, whole_number
from exporter.commands.ingest.checkpoint import State, begin
from exporter.commands.ingest.input_file import Input
from exporter.http_client.client import NO_RETRY, Client
from exporter.validation import parse_duration
from exporter.wire.events import MAX_REJECTED

TIMEOUT = 60.0
"""Seconds that one request to an exporter may take."""
BATCH = MAX_REJECTED
"""Rows of a request, at most and by default: an exporter does not look at the rest after as many wrong ones."""


def add_sending_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of a command that sends a file."""
    add = parser.add_argument
    add_credentials(parser, "MODEL_EXPORTER")
    text = "rows in a request to the exporter (%(default)s)"
    add("--batch-size", type=whole_number(1, MAX_REJECTED), default=BATCH, metavar="N", help=text)
    text = "how long to retry when the exporter does not respond or is full (%(default)s)"
    add("--give-up", type=checked(parse_duration), default="5m", metavar="DURATION", help=text)
    add("--state", type=Path, metavar="FILE", help=f"file that records what was sent; default: FILE.{command}.json")
    parser.set_defaults(state_suffix=f".{command}.json")


def sending_client(options: argparse.Namespace) -> Client:
    """Return a client of the exporter in ``--exporter``."""
    return exporter_client(options, TIMEOUT, retries=NO_RETRY, user_in_url=True)


def begin_sending(options: argparse.Namespace, source: Input, to: str) -> tuple[State, Path | None]:
    """Return the state of sending a file and its path, None for none; say what was sent before.

    Parameters
    ----------
    options
        Of `add_sending_options`.
    source
        The file.
    to
        Exporter, and what the rows are to it.

    Raises
    ------
    BatchError
        See `begin`.
    """
    path = options.state or (source.file and source.file.with_name(source.file.name + options.state_suffix))
    appendable = source.kind in {"csv", "jsonl", "predictions"}
    state, remark = begin(path, source.file or source.path, to, options.batch_size, appendable)
    if state.done:
        print(f"{source.where}: nothing to send: {remark}")
    elif remark:
        print(f"model-exporter: {remark}", file=sys.stderr)
    return state, path
