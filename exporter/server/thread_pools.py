"""Thread pools by the kind of request, so that none can starve another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from exporter.errors import QueueFullError

POOLS = {"operations": 2, "feedback": 32, "payloads": 2, "pages": 4, "dataset": 2, "passwords": 1, "large": 1}
"""Threads of each pool; the table of routes names the pool of each route."""
WAITING = 1000
"""Requests that may wait for a thread of a pool."""

_Result = TypeVar("_Result")


class ThreadPool:
    """Threads for one kind of request, with a limit on the requests that wait for them."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """Run a call in one of the threads, within the limit of `bounded`."""
        return await self.bounded(lambda: asyncio.get_running_loop().run_in_executor(self._pool, call))

    async def bounded(self, begin: Callable[[], Awaitable[_Result]]) -> _Result:
        """Call ``begin`` and await its result.

        Raises
        ------
        QueueFullError
            When too many requests are waiting already.
        """
        if self._waiting >= WAITING:
            raise QueueFullError("too many requests are waiting")
        self._waiting += 1
        try:
            return await begin()
        finally:
            self._waiting -= 1

    async def step(self, call: Callable[[], _Result]) -> _Result:
        """Run a further part of a request that was admitted before."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads once they have finished their calls."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class ThreadPools:
    """The thread pools of the server."""

    def __init__(self) -> None:
        self._pools = {name: ThreadPool(name, threads) for name, threads in POOLS.items()}

    def __getitem__(self, name: str) -> ThreadPool:
        """Return the pool of a name."""
        return self._pools[name]

    def close(self) -> None:
        """End the threads of all pools."""
        for pool in self._pools.values():
            pool.close()
