"""Addresses and sockets to listen on, each this process's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import StackError


@contextmanager
def reserved(host: str, port: int) -> Iterator[tuple[str, int]]:
    """An address that is free, and stays this process's own: the server would share a taken port silently.

    Raises
    ------
    StackError
        When it cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            found = probe.getsockname()
    except OSError as error:
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    with socket.socket(socket.AF_UNIX) as claim:  # an abstract name: gone with the process, however it ends
        try:
            claim.bind(f"\0model-exporter:{found[0]}:{found[1]}")
        except OSError:
            raise StackError(f"cannot listen on {host}:{port}: another model-exporter does") from None
        yield found[0], found[1]


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
