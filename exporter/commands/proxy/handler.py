"""What is served at one address: a model server behind the proxy, or the proxy's own health."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from exporter.commands.proxy.forward import Exchange
from exporter.commands.proxy.recorder import Recorder
from exporter.commands.proxy.upstream import Pool
from exporter.server.http1 import handler
from exporter.server.http1.connection import Front
from exporter.server.http1.headers import Request

_log = logging.getLogger("exporter.commands.proxy")
_QUIET_SECONDS = 10.0
Local = tuple[int, str, bytes]


class Site(handler.Site):
    """What its exchanges share.

    Parameters
    ----------
    pool
        Connections to the model server.
    recorder
        What takes what passes, if it is recorded.
    host
        The ``Host`` that the model server is asked for, in place of the client's.
    most
        Connections of clients at a time.
    local
        Answers in the model server's stead: status, media type, body.
    timeout
        Seconds in which something must move.
    """

    def __init__(
        self,
        pool: Pool,
        recorder: Recorder | None = None,
        host: bytes | None = None,
        most: int = 8192,
        local: Callable[[bytes, bytes], Local | None] = lambda _method, _target: None,
        *,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(most, pause=min(0.5, timeout / 4))
        self.pool = pool
        self.recorder = recorder
        self.host = host
        self.local = local
        self.timeout = timeout
        self.in_flight = 0
        self.codes: Counter[int] = Counter()
        self.faults = dict.fromkeys(("closed", "connect", "malformed", "timeout"), 0)
        self._said: dict[str, float] = {}

    def named(self, method: bytes, target: bytes) -> tuple[str, str | None] | None:
        """Model and version of a request that is recorded."""
        return self.recorder.named(method, target) if self.recorder else None

    def exchange(self, front: Front, request: Request) -> Exchange:
        """What passes a request on."""
        return Exchange(self, front, request)

    def refusal(self, status: int, detail: str) -> tuple[str, bytes]:
        """What a client is told who sends no request; see `exporter.server.http1.handler.Site`."""
        self.finished(status, began=False)
        return "text/plain; charset=utf-8", f"model-exporter proxy: {detail}\n".encode()

    def sweep(self) -> None:
        """End what takes too long, on both sides."""
        super().sweep()
        self.pool.sweep()

    def finished(self, code: int, began: bool = True) -> None:
        """Count an answer."""
        self.codes[code] += 1
        self.in_flight -= began

    def fault(self, reason: str, detail: str) -> None:
        """Count a failure of the model server, and log it unless that has just been done."""
        self.faults[reason] += 1
        now = time.monotonic()
        if now - self._said.get(reason, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._said[reason] = now
            _log.warning("%s (%s, %d so far)", detail, reason, self.faults[reason])
