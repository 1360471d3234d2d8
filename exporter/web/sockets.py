"""Sockets in the file system."""

from __future__ import annotations

import socket
from pathlib import Path

from exporter.errors import StackError


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
