"""Addresses that a command listens on."""

from __future__ import annotations

import argparse
from typing import NamedTuple


class Address(NamedTuple):
    """Where a server listens; the host is empty for every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        """``HOST:PORT``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """Parse ``HOST:PORT``; a type for argparse.

    Raises
    ------
    argparse.ArgumentTypeError
        When the text is not an address.

    >>> address("[::1]:9877")
    Address(host='::1', port=9877)
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT such as 127.0.0.1:9877, got {text!r}")
    return Address(host.strip("[]"), int(port))
