"""Begin requests of connections in turn, so that no connection waits for all requests of another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

REQUESTS = 16
"""Requests begun in a pass of the event loop, and answered in the next, if they wait for nothing."""


class Turns:
    """Begins a few requests in each pass of the event loop, and pipelined ones after all others."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = REQUESTS
        self._single: deque[Callable[[], None]] = deque()
        self._pipelined: deque[Callable[[], None]] = deque()

    def add(self, begin: Callable[[], None], pipelined: bool) -> None:
        """Call ``begin`` now, or in a later pass if many requests are begun in this one."""
        if self._left == REQUESTS:
            self._loop.call_soon(self._next_pass)
        if self._left:
            self._left -= 1
            begin()
        else:
            (self._pipelined if pipelined else self._single).append(begin)

    def _next_pass(self) -> None:
        self._left = REQUESTS
        if self._single or self._pipelined:
            self._loop.call_soon(self._next_pass)
        while self._left and (waiting := self._single or self._pipelined):
            self._left -= 1
            waiting.popleft()()
