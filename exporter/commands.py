"""What the commands share: addresses, requests past any proxy, signals that stop."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine and its neighbours, whatever proxy the environment names for the rest."""


class Address(NamedTuple):
    """Where a server listens; the host is empty for every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        """``HOST:PORT``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """``HOST:PORT``, as a type for argparse.

    Raises
    ------
    argparse.ArgumentTypeError
        When it is none.

    >>> address("[::1]:9877")
    Address(host='::1', port=9877)
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT such as 127.0.0.1:9877, got {text!r}")
    return Address(host.strip("[]"), int(port))


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
