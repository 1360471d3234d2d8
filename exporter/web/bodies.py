"""Bodies of requests as they arrive: whole, in time, and in bounded memory."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from exporter.errors import QueueFullError
from exporter.health import Health
from exporter.web.ingest import MAX_BODY
from exporter.web.problems import Reply, problem

BODY_SECONDS = 30.0
"""Time a client has to send a body."""
INFLIGHT_BYTES = 256 * 2**20
"""Bytes of large bodies being received or worked on at a time."""
SMALL_BODY = 16 * 1024
"""Bytes up to which a body is not among them: one on each connection is as much again."""


class Bodies:
    """The bodies that are being received or worked on, each by the task of its request.

    Parameters
    ----------
    health
        Counts what is refused.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._held: dict[asyncio.Task[Any] | None, int] = {}
        self._reading: dict[asyncio.Task[Any] | None, float] = {}
        self._stopping = False

    async def read(self, protocol: Any, length: int | None) -> bytes | Reply:
        """The request's body, or why it is refused; ``length`` is what was announced.

        Raises
        ------
        QueueFullError
            When there is no room for it, or the exporter stops before it is whole.
        """
        task = asyncio.current_task()
        self._reading[task] = time.monotonic() + BODY_SECONDS
        try:
            if length is not None and length <= SMALL_BODY:
                whole: bytes = await protocol()
                return whole
            received = await self._large(protocol)
            if length is not None and isinstance(received, bytes) and len(received) != length:
                return problem(400, f"the body broke off after {len(received)} of {length} bytes")
            return received
        except ProtocolClosed:  # nobody will read this
            return problem(400, "the body broke off")
        except asyncio.CancelledError:
            if self._stopping:  # no fault of the client's, who may go on with the next exporter
                raise QueueFullError("the exporter stops") from None
            return problem(408, f"the body did not arrive within {BODY_SECONDS:g} seconds")
        finally:
            del self._reading[task]

    async def _large(self, protocol: Any) -> bytes | Reply:
        """A body of unknown or great length, counted as it arrives: what is announced takes no memory yet.

        One that is refused is read on for a while, so that its sender hears the answer and not a broken connection.
        """
        task = asyncio.current_task()
        parts, size, empty, room = [], 0, 0, True
        async for part in protocol:
            size += len(part)
            empty += not part
            room = room and sum(self._held.values()) + len(part) <= INFLIGHT_BYTES
            if room and size <= MAX_BODY:
                parts.append(part)
                self._held[task] = size
                continue
            parts.clear()
            self._held.pop(task, None)
            if size > 8 * MAX_BODY:
                break
        if size > MAX_BODY:
            self._health.rejected.labels("too_large").inc()
            return problem(413, f"the body has more than {MAX_BODY} bytes, the most that is taken")
        if not room:
            raise QueueFullError("too many bodies arrive at this moment")
        if empty > 1:  # the server ends each body with one, and says nothing else of an error: half is not the whole
            return problem(400, "the body broke off, or has trailers, which are not taken")
        return b"".join(parts)

    def release(self) -> None:
        """Forget the body of the current task: nobody works on it any more."""
        if self._held:
            self._held.pop(asyncio.current_task(), None)

    async def watch(self) -> None:
        """End the reading of bodies that take too long; one look a second is cheaper than a timer a request."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for task, deadline in list(self._reading.items()):
                if now > deadline and task:
                    task.cancel()

    def hurry(self) -> None:
        """End the reading of bodies that have not arrived yet: the exporter stops."""
        self._stopping = True
        for task in list(self._reading):
            if task:
                task.cancel()
