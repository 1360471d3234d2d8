"""What connections of both sides have in common."""

from __future__ import annotations

import asyncio
from typing import cast


class Connection(asyncio.BaseProtocol):
    """Sends in one piece what is written in one turn of the loop: a system call costs more than all else."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self._out: list[bytes] = []
        self._corked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)

    def write(self, data: bytes) -> None:
        """Send, as soon as the others have had their say."""
        if not self._out and not self._corked:
            self.loop.call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        """Send now."""
        if self._out:
            data, self._out = self._out[0] if len(self._out) == 1 else b"".join(self._out), []
            if not self.transport.is_closing():
                self.transport.write(data)
