"""What the commands share: addresses, credentials, requests past any proxy, signals that stop."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from exporter.errors import ExporterError

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine and its neighbours, whatever proxy the environment names for the rest."""


def add_credentials(parser: argparse.ArgumentParser, server: str) -> None:
    """The options that say who asks a server; each has a default in the environment, which begins with ``server``."""
    parser.add_argument("--user", default=os.environ.get(f"{server}_USER"), help=f"default: ${server}_USER")
    for flag in ("password-file", "bearer-token-file"):
        name = f"{server}_{flag.upper().replace('-', '_')}"
        parser.add_argument(f"--{flag}", default=os.environ.get(name), metavar="FILE", help=f"default: ${name}")


def authorization(options: argparse.Namespace) -> str | None:
    """The ``Authorization`` header of what `add_credentials` added; None without any.

    Raises
    ------
    ExporterError
        When a file cannot be read, or holds no line of text.
    """
    if options.bearer_token_file:
        return f"Bearer {_secret('--bearer-token-file', options.bearer_token_file)}"
    if not options.user:
        return None
    if not options.password_file:
        raise ExporterError("--password-file: is required beside --user")
    pair = f"{options.user}:{_secret('--password-file', options.password_file)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _secret(flag: str, path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ExporterError(f"{flag}: {path} cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from None
    if not text or not text.isprintable():
        raise ExporterError(f"{flag}: {path}: expected one line")
    return text


@contextlib.contextmanager
def stopping(*signals: signal.Signals) -> Iterator[threading.Event]:
    """An event that the signals set; their former handlers are put back afterwards."""
    event = threading.Event()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in signals}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
