"""Pools of threads: none of them can starve another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from exporter.errors import QueueFullError

POOLS = {"operations": 2, "feedback": 32, "payloads": 2, "pages": 4, "dataset": 2, "passwords": 1, "large": 1}
"""Threads of each pool; the table of routes says which one answers a route."""
WAITING = 1000
"""Requests that may wait for a thread of their pool."""

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
        self._pools = {name: ThreadPool(name, threads) for name, threads in POOLS.items()}

    def __getitem__(self, name: str) -> ThreadPool:
        """Return a pool by its name."""
        return self._pools[name]

    def close(self) -> None:
        """End the threads of all."""
        for pool in self._pools.values():
            pool.close()
