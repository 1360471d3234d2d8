"""Create the TCP and Unix sockets on which the server listens."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from exporter.errors import StackError

BACKLOG = 4096
"""Connections that may wait to be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    Raises
    ------
    StackError
        When it cannot listen on the address.
    """
    bound = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        if bound is not None:
            bound.close()
        hint = "; stop what listens there ('make down' if 'make up' started it), or choose another address"
        taken = hint if error.errno == errno.EADDRINUSE else ""
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}{taken}") from None
    return bound


def listen_at(path: Path) -> socket.socket:
    """Return a listening Unix socket; replace a socket that an ended process left behind.

    Raises
    ------
    StackError
        See `_remove_stale`; also when the path is not valid for a socket.
    """
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise StackError(f"{path}: cannot listen on it: {error.strerror or error}") from None
    return bound


def _remove_stale(path: Path) -> None:
    """Remove a socket that an ended process left behind, and nothing else.

    Raises
    ------
    StackError
        When another process listens on it, the path is not a socket, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise StackError(f"{path}: cannot listen on it: its folder does not exist")
    if path.exists() and not path.is_socket():
        raise StackError(f"{path}: cannot listen on it: it is a file, not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise StackError(f"{path}: cannot listen on it: {error.strerror or error}") from None
    raise StackError(f"{path}: cannot listen on it: another process already does")
