"""Sockets to listen on, each this process's own."""

from __future__ import annotations

import socket
from pathlib import Path

from exporter.errors import StackError

BACKLOG = 4096
"""Connections that wait to be taken."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises
    ------
    StackError
        When the address cannot be listened on.
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
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return bound


def listen_at(path: Path) -> socket.socket:
    """A Unix socket that listens, in place of one that a process left behind.

    Raises
    ------
    StackError
        See `vacate`; and when the path is none for a socket.
    """
    vacate(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise StackError(f"{path}: cannot listen there: {error.strerror or error}") from None
    return bound


def vacate(path: Path) -> None:
    """Remove a socket that a process left behind; nothing else is this process's to take.

    Raises
    ------
    StackError
        When somebody listens there, it is no socket, or its folder is not there.
    """
    if not path.parent.is_dir():
        raise StackError(f"{path}: cannot listen there, its folder does not exist")
    if path.exists() and not path.is_socket():
        raise StackError(f"{path}: cannot listen there, it is a file and no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise StackError(f"{path}: cannot listen there: {error.strerror or error}") from None
    raise StackError(f"{path}: cannot listen there, somebody else does")
