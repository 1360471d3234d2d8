"""What is served at an address, and what its connections share."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.server.http1.headers import Field, Request

if TYPE_CHECKING:
    from exporter.server.http1.connection import Front

log = logging.getLogger(__name__)


class Exchange(ABC):
    """A request and its response; a `Front` calls it, as parts of the request come.

    Attributes
    ----------
    sent_whole
        Whether the request is whole.
    done
        Whether nothing more is to be written. `Front.over` was called then, unless the client went away.
    """

    sent_whole = False
    done = False

    @property
    def full(self) -> bool:
        """Whether the client must wait with the rest of its body."""
        return False

    @abstractmethod
    def start(self) -> None:
        """Go: the answers to all requests before are written. Parts of the body may have come already."""

    @abstractmethod
    def body(self, part: bytes) -> None:
        """Take a part of the request's body."""

    @abstractmethod
    def body_end(self, trailers: Sequence[Field]) -> None:
        """The request is whole."""

    @abstractmethod
    def broken(self, status: int, detail: str) -> None:
        """The rest of the request will not come: answer so, or cut the connection where an answer has begun."""

    @abstractmethod
    def gone(self) -> None:
        """The client went away."""

    @abstractmethod
    def check(self, now: float) -> None:
        """End what takes too long; ``now`` is the loop's time. Called again and again."""

    @abstractmethod
    def pause(self) -> None:
        """Write no more than must be: the client does not read."""

    @abstractmethod
    def resume(self) -> None:
        """Go on."""


class Site(ABC):
    """What connections share.

    Parameters
    ----------
    most
        Connections at a time.
    patient
        Whether a client that ends its side of the connection still gets its answer. It cannot be told from one
        that went away; what is done for that one is done for nobody.
    pause
        Seconds between two looks for what takes too long.

    Attributes
    ----------
    unread
        Bytes of answers that waited for their clients at the last look.
    """

    def __init__(self, most: int, patient: bool = False, pause: float = 0.5) -> None:
        self._most = most
        self.patient = patient
        self._pause = pause
        self.fronts: set[Front] = set()
        self.draining = False
        self.unread = 0

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be worked on that clients should be slowed down."""
        return False

    @abstractmethod
    def exchange(self, front: Front, request: Request) -> Exchange:
        """What answers a request with such a head."""

    @abstractmethod
    def refusal(self, status: int, detail: str) -> tuple[str, bytes]:
        """Media type and body of an answer to what is no request; it is counted."""

    def welcome(self, front: Front) -> int:
        """Take a connection; how many there are more than there is room for."""
        self.fronts.add(front)
        return len(self.fronts) - self._most

    def leave(self, front: Front) -> None:
        """Forget a connection."""
        self.fronts.discard(front)

    def sweep(self) -> None:
        """End what takes too long, and note how many bytes of answers wait for their clients."""
        now = asyncio.get_running_loop().time()
        self.unread = sum([front.sweep(now) for front in list(self.fronts)])

    async def sweeping(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                self.sweep()
            except Exception:  # time limits must hold for the others
                log.exception("looking for what takes too long")
            await asyncio.sleep(self._pause)

    async def drain(self, seconds: float) -> bool:
        """Close what rests, end what is under way; whether all was over within so many seconds."""
        self.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        for front in list(self.fronts):
            front.drain()
        while self.fronts and loop.time() < until:
            await asyncio.sleep(0.02)
        return not self.fronts

    def cut(self) -> None:
        """Cut all connections."""
        for front in list(self.fronts):
            front.cut()
