"""Threads in groups: none of them can starve another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from exporter.errors import QueueFullError

WIRE = ("/v1/exchanges", "/v1/kserve", "/v1/logs", "/v1/traces", "/v2/")
"""Beginnings of the routes whose bodies take work to decode: they have threads of their own."""
WAITING = 1000
"""Requests that may wait for a thread of their group."""

_Result = TypeVar("_Result")


class ThreadPool:
    """Threads for one kind of requests, and a bound on what waits for them."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """Run a call in one of the threads; see `bounded`."""
        return await self.bounded(lambda: asyncio.get_running_loop().run_in_executor(self._pool, call))

    async def bounded(self, begin: Callable[[], Awaitable[_Result]]) -> _Result:
        """Wait for what is begun.

        Raises
        ------
        QueueFullError
            When too many wait already.
        """
        if self._waiting >= WAITING:
            raise QueueFullError("too many requests wait")
        self._waiting += 1
        try:
            return await begin()
        finally:
            self._waiting -= 1

    async def step(self, call: Callable[[], _Result]) -> _Result:
        """Go on in one of the threads with what was begun."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads once they have finished what they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class ThreadPools:
    """All pools of the server."""

    def __init__(self) -> None:
        self._operations = ThreadPool("operations", 2)
        self.feedback = ThreadPool("feedback", 32)
        self._wire = ThreadPool("wire", 2)
        self._rest = ThreadPool("pages", 4)
        self.dataset = ThreadPool("dataset", 2)
        self.passwords = ThreadPool("passwords", 1)
        self.large = ThreadPool("large", 1)

    def of(self, path: str) -> ThreadPool:
        """The group whose threads answer a path."""
        if path == "/metrics" or path.startswith("/-/"):
            return self._operations
        if path in {"/v1/feedback", "/v1/seldon/feedback"}:
            return self.feedback
        if path.startswith("/v1/dataset"):
            return self.dataset
        return self._wire if path.startswith(WIRE) else self._rest

    def close(self) -> None:
        """End the threads of all."""
        for group in vars(self).values():
            group.close()
