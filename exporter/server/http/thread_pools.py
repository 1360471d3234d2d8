"""Thread pools by kind of request, in which clients take turns, so that none starves another."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from exporter.errors import QueueFullError

POOLS = {
    "scrapes": 2,
    "reload": 1,
    "feedback": 32,
    "labels": 1,
    "payloads": 1,
    "pages": 2,
    "dataset": 2,
    "comparisons": 1,
    "slices": 1,
    "passwords": 1,
    "large": 1,
}
"""Threads of each pool; the table of routes names the pool of each route."""
WAITING = 2000
"""Requests that may wait for a thread of a pool."""
WAITING_OF_CLIENT = WAITING // 2
"""Requests of one client that may wait for a thread of a pool."""

_Result = TypeVar("_Result")


class ThreadPool:
    """Threads for one kind of request, with a limit on the requests that wait for them.

    A free thread takes the first request of the client that has waited longest for its turn.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threads
        self._turns: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._waiting: Counter[Hashable] = Counter()

    async def run(self, call: Callable[[], _Result], client: Hashable) -> _Result:
        """Run a call in one of the threads, within the limits of `bounded`."""
        return await self.bounded(lambda: self._in_turn(call, client), client)

    async def bounded(self, begin: Callable[[], Awaitable[_Result]], client: Hashable) -> _Result:
        """Call ``begin`` and await its result.

        Raises
        ------
        QueueFullError
            When too many requests, or too many of this client, are waiting already.
        """
        if self._waiting[client] >= WAITING_OF_CLIENT or self._waiting.total() >= WAITING:
            raise QueueFullError("too many requests are waiting")
        self._waiting[client] += 1
        try:
            return await begin()
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]

    async def _in_turn(self, call: Callable[[], _Result], client: Hashable) -> _Result:
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._turns.setdefault(client, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # the thread was given to it in the same moment
                    self._pass_on()
                raise
        try:
            return await self.step(call)
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give a thread that is free to the next client."""
        while self._turns:
            client, turns = next(iter(self._turns.items()))
            turn = turns.popleft()
            del self._turns[client]
            if turns:
                self._turns[client] = turns  # behind the other clients
            if not turn.done():  # otherwise its request was cancelled
                turn.set_result(None)
                return
        self._free += 1

    async def step(self, call: Callable[[], _Result]) -> _Result:
        """Run a further part of a request that was admitted before, in the context of its task."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(call))

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
